package cli

import (
	"encoding/json"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

const logsLong = `Show what a job wrote, all attempts one after the other: its stdout on stdout, its
stderr on stderr, in the order of arrival. A line in brackets on stderr says where
the log had to leave something out.

With --follow it goes on until the job has ended. The log is kept as long as the
job is listed.`

func (a *app) logsCommand() *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "logs [-f] ID",
		Short:             "Show what a job wrote",
		Long:              logsLong,
		Example:           "  girder-worker logs 0000012h4kd\n  girder-worker logs -f 0000012h4kd 2>/dev/null | tail",
		Args:              exactly("ID"),
		ValidArgsFunction: a.completeJob,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.client()
			defer c.Close()
			o := client.LogOptions{Follow: follow}
			line := &statusLine{w: a.Stderr}
			if follow {
				o.Patience = a.patience(line)
			}
			enc := json.NewEncoder(a.Stdout)
			err := c.Log(cmd.Context(), args[0], o, func(f *apitype.LogFrame) error {
				if a.json {
					return enc.Encode(f)
				}
				w := a.Stdout
				if f.Stream != apitype.StreamStdout {
					w = a.Stderr
				}
				return line.output(w, f.Output())
			})
			return cannot("show the log of job "+args[0], err)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the job has ended")
	return a.jsonFlag(cmd)
}
