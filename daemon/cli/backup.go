package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"girderworker/daemon/client"
)

const backupLong = `Write a consistent copy of the queue to a file, while the daemon goes on working. The
file appears when it is whole, readable by its owner alone. FILE - writes to stdout.
Logs and images are files of their own in the state directory and not part of it.
For root and the admin group.`

func (a *app) backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "backup FILE|-",
		Short:   "Write a copy of the queue to a file",
		Long:    backupLong,
		Example: "  girder-worker backup /backup/queue.db",
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.client()
			defer c.Close()
			if args[0] == "-" {
				if a.json {
					return usageError(cmd, "--json and the copy cannot both go to stdout")
				}
				if isTerminal(a.Stdout) {
					return errors.New("cannot back up to a terminal; send stdout to a file or name one")
				}
				_, err := c.Backup(cmd.Context(), a.Stdout)
				return cannot("back up the queue", err)
			}
			n, err := backupFile(cmd.Context(), c, args[0])
			if err != nil {
				return cannot("back up to "+args[0], err)
			}
			if a.json {
				return a.printJSON(backedUp{File: args[0], Bytes: n})
			}
			_, err = fmt.Fprintf(a.Stderr, "%s: %s\n", args[0], size(n))
			return err
		},
	}
	return a.jsonFlag(cmd)
}

// backedUp is what `backup --json` writes.
type backedUp struct {
	File  string `json:"file"`
	Bytes int64  `json:"bytes"`
}

// backupFile replaces the file in one step, so that a copy that broke off never
// stands where a good one was.
func backupFile(ctx context.Context, c *client.Client, path string) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".girder-worker-backup-*") // mode 0600
	if err != nil {
		return 0, plain(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if n, err = c.Backup(ctx, f); err != nil {
		return n, err
	}
	if err := f.Sync(); err != nil {
		return n, err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return n, err
	}
	return n, f.Close()
}
