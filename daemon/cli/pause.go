package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

func (a *app) pauseCommand() *cobra.Command {
	return a.switchCommand(&cobra.Command{
		Use:   "pause",
		Short: "Start no more jobs until resume",
		Long: `Start no more jobs until "resume". What runs goes on, what is submitted is accepted
and waits. It outlasts a restart. For root and the admin group.`,
	}, (*client.Client).Pause)
}

// switchCommand completes a command that pauses, drains or resumes.
func (a *app) switchCommand(cmd *cobra.Command, call func(*client.Client, context.Context) (apitype.Pause, error)) *cobra.Command {
	cmd.Example = "  girder-worker " + cmd.Use
	cmd.Args = exactly()
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := a.client()
		defer c.Close()
		p, err := call(c, cmd.Context())
		if err != nil {
			return cannot(cmd.Name()+" the daemon", err)
		}
		if a.json {
			return a.printJSON(p)
		}
		text := "jobs start again"
		switch {
		case p.Draining:
			text = "no more jobs start; `girder-worker status` tells when none runs"
		case p.Paused:
			text = "no more jobs start until `girder-worker resume`"
		}
		_, err = fmt.Fprintln(a.Stdout, text)
		return err
	}
	return a.jsonFlag(cmd)
}
