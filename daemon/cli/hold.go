package cli

import (
	"context"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

const holdLong = `Hold jobs that wait: they do not start until "release". A job that has started
cannot be held.`

func (a *app) holdCommand() *cobra.Command {
	var reason string
	cmd := a.changeCommand(&cobra.Command{
		Use:     "hold ID...",
		Short:   "Keep jobs that wait from starting",
		Long:    holdLong,
		Example: "  girder-worker hold --reason \"disk is being moved\" 0000012h4kd",
	}, "hold",
		func(ctx context.Context, c *client.Client, id string) (apitype.Job, error) {
			return c.Hold(ctx, id, reason)
		},
		func(id string, _ *apitype.Job) string { return id + " held" })
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for whoever wonders why")
	return cmd
}
