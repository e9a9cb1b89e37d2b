package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"girderworker/daemon"
	"girderworker/daemon/config"
)

const restoreLong = `Put a backup in place of the queue, while the daemon is stopped. The backup is read
whole, brought to this release's form and checked before anything is replaced; one of a
newer release is refused. A queue that holds jobs is only replaced with --force, and
kept beside under another name. Ids stay as they were.

Jobs that waited when the backup was made wait again. One that has started since on
this machine is not run twice: it fails, saying so, and "retry" queues a copy. One that
was running takes its end from what is in the state directory, and is run again where
that has nothing of it. A backup holds no tokens, so jobs of Girder are not reported.
As root.`

func (a *app) restoreCommand() *cobra.Command {
	var file, state string
	var force bool
	cmd := &cobra.Command{
		Use:     "restore FILE|-",
		Short:   "Put a backup in place of the queue",
		Long:    restoreLong,
		Example: "  systemctl stop girder-worker\n  girder-worker restore /backup/queue.db\n  systemctl start girder-worker",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := os.Stdin
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return cannot("restore", err)
				}
				defer f.Close()
				in = f
			} else if isTerminal(in) {
				return errors.New("cannot restore from a terminal; name a file")
			}
			s := config.Sources{File: file, Environ: os.Environ(), Flags: map[string]string{}}
			if s.File == "" {
				s.File, _ = a.LookupEnv("GIRDER_WORKER_CONFIG")
			}
			if state != "" {
				s.Flags["state-dir"] = state
			}
			r, err := daemon.Restore(cmd.Context(), s, in, force)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(r)
			}
			var parts []string
			for _, st := range slices.Sorted(maps.Keys(r.Jobs)) {
				parts = append(parts, fmt.Sprintf("%d %s", r.Jobs[st], st))
			}
			if len(parts) == 0 {
				parts = []string{"none"}
			}
			fmt.Fprintf(a.Stderr, "Restored jobs: %s.\n", strings.Join(parts, ", "))
			for _, name := range r.Aside {
				fmt.Fprintf(a.Stderr, "Kept what was there: %s\n", name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace a queue that holds jobs")
	cmd.Flags().StringVar(&file, "config", "", "configuration `file`")
	cmd.Flags().StringVar(&state, "state-dir", "", "state directory (`path`), if not the configured one")
	return a.jsonFlag(cmd)
}

// restoreHelper reads a backup, for root.
func (a *app) restoreHelper(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := daemon.RestoreHelper(ctx, args, a.Stdin, a.Stdout); err != nil {
		fmt.Fprintln(a.Stderr, err)
		return exitError
	}
	return exitOK
}
