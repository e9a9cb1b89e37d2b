package cli

import (
	"context"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

func (a *app) releaseCommand() *cobra.Command {
	return a.changeCommand(&cobra.Command{
		Use:     "release ID...",
		Short:   "Let held jobs queue again",
		Long:    `Let jobs that are held queue again, at the place of their submission.`,
		Example: "  girder-worker release 0000012h4kd",
	}, "release",
		func(ctx context.Context, c *client.Client, id string) (apitype.Job, error) { return c.Release(ctx, id) },
		func(id string, job *apitype.Job) string { return id + " " + job.State })
}
