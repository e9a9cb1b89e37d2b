package cli

import (
	"github.com/spf13/cobra"

	"girderworker/daemon/client"
)

func (a *app) resumeCommand() *cobra.Command {
	return a.switchCommand(&cobra.Command{
		Use:   "resume",
		Short: "End pause and drain",
		Long:  `Start jobs again after "pause" or "drain". For root and the admin group.`,
	}, (*client.Client).Resume)
}
