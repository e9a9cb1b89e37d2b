package cli

import (
	"context"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

const cancelLong = `Cancel jobs. One that waits is canceled at once. One that runs gets its stop signal
(SIGTERM, or what its image or document says), and after its grace (10 s) all of
its processes are killed; "wait" tells when it has ended. Canceling a job that has
ended does nothing.`

func (a *app) cancelCommand() *cobra.Command {
	var reason string
	cmd := a.changeCommand(&cobra.Command{
		Use:     "cancel ID...",
		Short:   "Cancel jobs",
		Long:    cancelLong,
		Example: "  girder-worker cancel 0000012h4kd\n  girder-worker cancel --reason \"wrong slide\" 0000012h4kd",
	}, "cancel",
		func(ctx context.Context, c *client.Client, id string) (apitype.Job, error) {
			return c.Cancel(ctx, id, reason)
		},
		func(id string, job *apitype.Job) string {
			switch {
			case job.State == "canceled":
				return id + " canceled"
			case job.ExitCode != nil:
				return id + " had already ended: " + job.State
			}
			return id + " is being canceled"
		})
	cmd.Flags().StringVar(&reason, "reason", "", "`text` for whoever wonders why")
	return cmd
}
