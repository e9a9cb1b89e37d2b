package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

const rootLong = `girder-worker runs jobs in containers on this machine, one after the other or
side by side as far as its processors, memory and GPUs reach. A job is accepted
once and for all: it survives restarts and reboots, and always comes to an end.

Jobs are submitted with "run", which waits and shows the output, or "submit",
which returns at once. "jobs" lists them, "why" tells what one waits for, "logs"
shows what it wrote. No command but "daemon" needs root: whoever may use the
daemon's socket may submit, and sees and ends only the own jobs.`

const rootExample = `  girder-worker images import segment.tar
  girder-worker run -v ./slides:/slides:ro segment:1.0 --in /slides/1.tif
  girder-worker submit --name nightly --cpus 4 --memory 8g segment:1.0
  girder-worker jobs
  girder-worker logs -f 0000012h4kd`

const rootEpilog = `Environment:
  GIRDER_WORKER_SOCKET   the daemon's socket, where --socket does not name one

Exit codes:
  0        done; of "run" and "wait": the job succeeded
  1–255    of "run" and "wait": the job's own exit code, and
  124      the job reached a limit of time
  125      girder-worker could not do what was asked; stderr says why
  126      the job's command cannot be executed
  127      the job's command was not found in the image
  130      canceled
  137      the job ran out of memory, or was killed`

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "girder-worker",
		Short:         "Run jobs in containers, from a queue that loses none",
		Long:          rootLong,
		Example:       rootExample,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return unknownCommand(cmd, args[0])
			case cmd.Flags().Changed(levelFlag):
				return a.runDaemon(a.daemonOptions(cmd.Flags()))
			}
			return cmd.Help()
		},
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", "", "`path` of the daemon's socket")
	// The line that starts the Python worker, `girder-worker -l info`, starts this one.
	root.Flags().StringP(levelFlag, "l", "", "")
	if err := root.Flags().MarkHidden(levelFlag); err != nil {
		panic(err) // the flag was made above
	}
	root.AddGroup(
		&cobra.Group{ID: groupJobs, Title: "Jobs:"},
		&cobra.Group{ID: groupImages, Title: "Images:"},
		&cobra.Group{ID: groupDaemon, Title: "Daemon:"},
	)
	for _, g := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupJobs, []*cobra.Command{
			a.runCommand(), a.submitCommand(), a.tasksCommand(), a.jobsCommand(), a.showCommand(), a.whyCommand(), a.logsCommand(),
			a.waitCommand(), a.cancelCommand(), a.retryCommand(), a.holdCommand(), a.releaseCommand(), a.rmCommand(),
		}},
		{groupImages, []*cobra.Command{a.imagesCommand()}},
		{groupDaemon, []*cobra.Command{
			a.daemonCommand(), a.statusCommand(), a.doctorCommand(), a.drainCommand(), a.pauseCommand(), a.resumeCommand(),
			a.backupCommand(), a.restoreCommand(), a.supportCommand(), a.configCommand(), a.policyCommand(), a.versionCommand(), a.completionCommand(),
		}},
	} {
		for _, cmd := range g.commands {
			cmd.GroupID = g.id
			cmd.DisableFlagsInUseLine = true
			root.AddCommand(cmd)
		}
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	root.Annotations = map[string]string{epilog: rootEpilog}
	root.PersistentFlags().BoolP("help", "h", false, "show this help")
	root.DisableFlagsInUseLine = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usageError(cmd, "%v", err) })
	return root
}

const (
	groupJobs   = "jobs"
	groupImages = "images"
	groupDaemon = "daemon"
)

// epilog is the annotation with what `--help` says after the flags.
const epilog = "epilog"

// jobExitCodes is the epilog of the commands that end as a job did.
const jobExitCodes = `Exit codes:
  The job's own, 0 when it succeeded; 124 it reached a limit of time, 125
  girder-worker could not do what was asked, 126 the command cannot be executed,
  127 the command was not found, 130 canceled, 137 out of memory or killed.`

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{.UsageString}}`

const usageTemplate = `Usage:
  {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}{{$commands := .Commands}}{{$top := .}}{{range .Groups}}{{$id := .ID}}

{{.Title}}{{range $commands}}{{if and (eq .GroupID $id) .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}{{end}}{{end}}{{end}}{{if not .Groups}}

Commands:{{range $commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}}  {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Flags of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{with index .Annotations "epilog"}}

{{.}}{{end}}{{if .HasAvailableSubCommands}}

"{{.CommandPath}} COMMAND --help" tells more about a command.{{end}}
`

func unknownCommand(cmd *cobra.Command, name string) error {
	hint := ""
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q%s; see `%s --help`", name, hint, cmd.CommandPath())
}

// subcommands makes a command that is only a name for others.
func subcommands(cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(cmd, args[0])
		}
		return cmd.Help()
	}
	return cmd
}

// jsonFlag gives a command --json.
func (a *app) jsonFlag(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "write JSON, for programs")
	return cmd
}

// exactly n arguments, which names names.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usageError(cmd, "%s is missing", names[len(args)])
		}
		if len(args) > len(names) {
			return usageError(cmd, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// someIDs is at least one id.
func someIDs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usageError(cmd, "ID is missing")
	}
	return nil
}
