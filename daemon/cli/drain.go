package cli

import (
	"github.com/spf13/cobra"

	"girderworker/daemon/client"
)

func (a *app) drainCommand() *cobra.Command {
	return a.switchCommand(&cobra.Command{
		Use:   "drain",
		Short: "Let what runs end and start nothing more, before a shutdown",
		Long: `Start no more jobs, as with "pause", before the machine is shut down or taken away:
"status" tells when the last job has ended. Jobs that wait stay in the queue; tasks
from RabbitMQ that have not started go back there, for other machines. "resume"
ends it. For root and the admin group.`,
	}, (*client.Client).Drain)
}
