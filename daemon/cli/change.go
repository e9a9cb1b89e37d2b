package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

// changeCommand completes a command that does one thing to each job named. It
// goes on after a job for which that fails, and ends with an error then.
func (a *app) changeCommand(cmd *cobra.Command, verb string,
	change func(ctx context.Context, c *client.Client, id string) (apitype.Job, error),
	report func(id string, job *apitype.Job) string,
) *cobra.Command {
	cmd.Args = someIDs
	cmd.ValidArgsFunction = a.completeJobs
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		c := a.client()
		defer c.Close()
		jobs := []apitype.Job{}
		failed := false
		for _, id := range ids {
			job, err := change(cmd.Context(), c, id)
			if err != nil {
				err = cannot(verb+" job "+id, err)
				if len(ids) == 1 || errors.Is(err, context.Canceled) || client.Kind(err) == client.KindNotRunning {
					return err
				}
				a.exitCode(err) // says it
				failed = true
				continue
			}
			jobs = append(jobs, job)
			if a.json {
				continue
			}
			if _, err := fmt.Fprintln(a.Stdout, report(id, &job)); err != nil {
				return err
			}
		}
		if a.json {
			if err := a.printJSON(jobs); err != nil {
				return err
			}
		}
		if failed {
			return exitStatus(exitError)
		}
		return nil
	}
	return a.jsonFlag(cmd)
}
