package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

const whyLong = `Tell what a job that has not started waits for: processors, memory or GPUs that
others hold, its turn, a time, another job, a person. Of a job that has started or
ended it tells where it stands.`

func (a *app) whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "why ID",
		Short:             "Tell what a job waits for",
		Long:              whyLong,
		Example:           "  girder-worker why 0000012h4kd",
		Args:              exactly("ID"),
		ValidArgsFunction: a.completeJob,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.client()
			defer c.Close()
			why, err := c.Why(cmd.Context(), args[0])
			if err != nil {
				return cannot("tell why job "+args[0]+" waits", err)
			}
			if a.json {
				return a.printJSON(why)
			}
			return a.printWhy(&why)
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) printWhy(w *apitype.Why) error {
	line := "job " + w.ID + " is " + w.State
	if w.Reason != "" && w.Reason != w.State {
		line += ": " + w.Reason
	}
	if _, err := fmt.Fprintln(a.Stdout, printable(line)); err != nil {
		return err
	}
	for _, wait := range w.Waits {
		if wait.Text == w.State+": "+w.Reason {
			continue // said above
		}
		if _, err := fmt.Fprintln(a.Stdout, "  "+printable(wait.Text)); err != nil {
			return err
		}
	}
	switch {
	case w.State != "queued" || w.Ahead < 0:
		return nil
	case w.Ahead == 0 && len(w.Waits) == 0:
		_, err := fmt.Fprintln(a.Stdout, "  it starts next")
		return err
	case w.Ahead == 1:
		_, err := fmt.Fprintln(a.Stdout, "  1 job comes first")
		return err
	case w.Ahead > 1:
		_, err := fmt.Fprintf(a.Stdout, "  %d jobs come first\n", w.Ahead)
		return err
	}
	return nil
}
