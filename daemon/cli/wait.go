package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

const waitLong = `Wait until jobs have ended and print each one's final state, in the order they
were named. The exit code is that of the first job named that did not succeed, 0
when all did. Ctrl-C ends the wait and leaves the jobs alone.`

func (a *app) waitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "wait ID...",
		Short:             "Wait until jobs have ended",
		Long:              waitLong,
		Example:           "  girder-worker wait 0000012h4kd && echo done",
		Annotations:       map[string]string{epilog: jobExitCodes},
		Args:              someIDs,
		ValidArgsFunction: a.completeJobs,
		RunE: func(cmd *cobra.Command, ids []string) error {
			c := a.client()
			defer c.Close()
			line := &statusLine{w: a.Stderr}
			jobs := make([]apitype.Job, 0, len(ids))
			code := exitOK
			for _, id := range ids {
				job, err := c.Wait(cmd.Context(), id, a.patience(line))
				if err != nil {
					return cannot("wait for job "+id, err)
				}
				jobs = append(jobs, job)
				if code == exitOK {
					code = *job.ExitCode
				}
				if a.json {
					continue
				}
				if _, err := fmt.Fprintln(a.Stdout, waited(&job)); err != nil {
					return err
				}
			}
			if a.json {
				if err := a.printJSON(jobs); err != nil {
					return err
				}
			}
			if code != exitOK {
				return exitStatus(code)
			}
			return nil
		},
	}
	return a.jsonFlag(cmd)
}

func waited(j *apitype.Job) string { return j.ID + " " + ending(j.State, detailOf(j)) }
