package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon"
	"girderworker/daemon/apitype"
)

// apiVersion is the API that this binary speaks.
const apiVersion = 1

// versions is what `version --json` writes.
type versions struct {
	Client apitype.Version  `json:"client"`
	Daemon *apitype.Version `json:"daemon,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program and of the daemon",
		Long: `Show the version of this program, and of the daemon where one answers: during an
upgrade they may differ.`,
		Example:           "  girder-worker version",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := versions{Client: a.version()}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*time.Second)
			defer cancel()
			c := a.client()
			defer c.Close()
			if d, err := c.Version(ctx); err == nil {
				v.Daemon = &d
			}
			if a.json {
				return a.printJSON(v)
			}
			other := "does not answer"
			if v.Daemon != nil {
				other = versionText(*v.Daemon)
			}
			return fields(a.Stdout, "girder-worker", versionText(v.Client), "daemon", other)
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) version() apitype.Version {
	return apitype.Version{Version: a.Version, Commit: a.Commit, API: apiVersion, Queue: daemon.QueueLayout()}
}

func versionText(v apitype.Version) string {
	if v.Commit == "" {
		return v.Version
	}
	return v.Version + " (" + v.Commit + ")"
}
