package cli

import (
	"context"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

const retryLong = `Queue a copy of a job that has ended, whatever its end, and print the copy's id.
The job itself stays as it is. A job that came with tokens or keys has to be submitted
again, with them: they were deleted when it had ended.`

func (a *app) retryCommand() *cobra.Command {
	return a.changeCommand(&cobra.Command{
		Use:     "retry ID...",
		Short:   "Queue a copy of a job that has ended",
		Long:    retryLong,
		Example: "  girder-worker retry 0000012h4kd",
	}, "retry",
		func(ctx context.Context, c *client.Client, id string) (apitype.Job, error) { return c.Retry(ctx, id) },
		func(_ string, job *apitype.Job) string { return job.ID })
}
