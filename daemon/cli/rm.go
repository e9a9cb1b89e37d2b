package cli

import (
	"context"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

const rmLong = `Remove jobs that have ended from the history, with their logs. Files that they
wrote stay. Without it, they go after the time that the configuration says.`

func (a *app) rmCommand() *cobra.Command {
	return a.changeCommand(&cobra.Command{
		Use:     "rm ID...",
		Short:   "Remove jobs that have ended, with their logs",
		Long:    rmLong,
		Example: "  girder-worker rm 0000012h4kd",
	}, "remove",
		func(ctx context.Context, c *client.Client, id string) (apitype.Job, error) { return c.Remove(ctx, id) },
		func(id string, _ *apitype.Job) string { return id + " removed" })
}
