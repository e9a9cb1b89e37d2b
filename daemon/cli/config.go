package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"girderworker/daemon"
	"girderworker/daemon/config"
)

const configLong = `What the daemon's configuration files say, one option at a time. Called as
girder-worker-config, this program is this command.

Options are read from ` + config.DefaultFile + ` and changed in worker.local.cfg
beside it, which overrides it and which no upgrade touches. Comments and the order of
lines stay. Variables such as GIRDER_WORKER_SLOTS and the daemon's flags override
both files and are not shown here. girder-worker.cfg(5) explains every option.`

const configEpilog = `Exit codes:
  0  done
  1  there is no such option, a file is bad or cannot be read or written
  2  the command line is bad`

func (a *app) configCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:         "config",
		Short:       "Show or change the daemon's configuration",
		Long:        configLong,
		Annotations: map[string]string{epilog: configEpilog},
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return a.badLine(2, unknownCommand(cmd, args[0]))
		}
		return cmd.Help()
	}
	cmd.PersistentFlags().StringVar(&file, "config", "", "configuration `file`")
	sources := func() config.Sources {
		s := config.Sources{File: file, Environ: os.Environ(), Check: daemon.Check}
		if s.File == "" {
			s.File, _ = a.LookupEnv("GIRDER_WORKER_CONFIG")
		}
		return s
	}
	cmd.AddCommand(a.configListCommand(sources), a.configGetCommand(sources), a.configSetCommand(sources), a.configRmCommand(sources))
	for _, sub := range cmd.Commands() {
		args := sub.Args
		sub.Args = func(cmd *cobra.Command, given []string) error { return a.badLine(2, args(cmd, given)) }
		run := sub.RunE
		sub.RunE = func(cmd *cobra.Command, given []string) error { return a.badConfig(run(cmd, given)) }
		sub.Annotations = map[string]string{epilog: configEpilog}
		sub.ValidArgsFunction = func(_ *cobra.Command, given []string, _ string) ([]string, cobra.ShellCompDirective) {
			return a.completeOption(given), cobra.ShellCompDirectiveNoFileComp
		}
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return a.badLine(2, usageError(cmd, "%v", err)) })
	return cmd
}

// badConfig says all that is wrong, each on a line, and ends as the Python
// worker's command does.
func (a *app) badConfig(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; ask as root", err)
	}
	a.tellDaemon(err)
	return exitStatus(1)
}

// completeOption completes a section, and then an option.
func (a *app) completeOption(given []string) (words []string) {
	c := config.Default()
	for _, k := range c.Keys() {
		switch {
		case len(given) == 0 && (len(words) == 0 || words[len(words)-1] != k.Section):
			words = append(words, k.Section)
		case len(given) == 1 && k.Section == given[0]:
			words = append(words, k.Name+"\t"+k.Help)
		}
	}
	return words
}

// configured is an element of what `config list --json` writes.
type configured struct {
	Section string `json:"section"`
	Option  string `json:"option"`
	Value   string `json:"value"`
	Origin  string `json:"origin,omitempty"` // FILE:LINE; empty of a default
	Help    string `json:"help,omitempty"`
	Live    bool   `json:"live"` // a running daemon applies a change
	// NoEffect says why an option of the Python worker has none.
	NoEffect string `json:"no_effect,omitempty"`
}

func (a *app) configListCommand(sources func() config.Sources) *cobra.Command {
	var secrets bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Show every option",
		Long: `Show every option as a file would have it, whether it is set or a default. What has
no value, or is found out at the start of the daemon, is a comment.`,
		Example: "  girder-worker config list\n  girder-worker config list --secrets > worker.cfg",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := config.Options(sources())
			if _, bad := errors.AsType[config.Invalid](err); err != nil && !bad {
				return err
			}
			return errors.Join(a.printOptions(all, secrets), err)
		},
	}
	cmd.Flags().BoolVar(&secrets, "secrets", false, "show passwords, too")
	return a.jsonFlag(cmd)
}

func (a *app) printOptions(all []config.Option, secrets bool) error {
	if !secrets {
		for i := range all {
			all[i].Raw = config.Masked(all[i].Name, all[i].Raw)
			all[i].Value = config.Masked(all[i].Name, all[i].Value)
		}
	}
	if a.json {
		list := make([]configured, len(all))
		for i, o := range all {
			list[i] = configured{Section: o.Section, Option: o.Name, Value: o.Value, Origin: o.Origin, Help: o.Help, Live: o.Live, NoEffect: o.Why}
		}
		return a.printJSON(list)
	}
	var b strings.Builder
	for i, o := range all {
		if i == 0 || all[i-1].Section != o.Section {
			if i > 0 {
				b.WriteByte('\n')
			}
			title := o.Section
			if title == "default" {
				title = "DEFAULT"
			}
			fmt.Fprintf(&b, "[%s]\n", title)
		}
		if o.Raw == "" && o.Origin == "" {
			fmt.Fprintf(&b, "# %s: %s\n", o.Name, o.Help)
			continue
		}
		fmt.Fprintf(&b, "%s = %s\n", o.Name, strings.ReplaceAll(o.Raw, "\n", "\n\t"))
	}
	_, err := a.Stdout.Write([]byte(b.String()))
	return err
}

func (a *app) configGetCommand(sources func() config.Sources) *cobra.Command {
	return &cobra.Command{
		Use:     "get SECTION OPTION",
		Short:   "Show one option, with its password if it has one",
		Long:    "Show the value of one option: what the files say, or the default.",
		Example: "  girder-worker config get celery broker",
		Args:    exactly("SECTION", "OPTION"),
		RunE: func(_ *cobra.Command, args []string) error {
			o, err := config.Get(sources(), args[0], args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.Stdout, o.Value)
			return err
		},
	}
}

func (a *app) configSetCommand(sources func() config.Sources) *cobra.Command {
	return &cobra.Command{
		Use:   "set SECTION OPTION VALUE",
		Short: "Set one option",
		Long: `Set one option in worker.local.cfg. The value is checked together with everything
else, and nothing is written if it is bad. Says whether a running daemon applies the
change by itself.`,
		Example: "  girder-worker config set celery broker amqp://girder:secret@girder.lab/\n  girder-worker config set girder_worker slots 4",
		Args:    exactly("SECTION", "OPTION", "VALUE"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := config.Set(sources(), args[0], args[1], args[2])
			if err != nil {
				return fmt.Errorf("%w\nnothing was written", err)
			}
			a.tellChange(c)
			return nil
		},
	}
}

func (a *app) configRmCommand(sources func() config.Sources) *cobra.Command {
	return &cobra.Command{
		Use:   "rm SECTION OPTION",
		Short: "Give one option its default again",
		Long: `Remove one option from worker.local.cfg, so that the other file or the default holds
again. One that is not there is no error.`,
		Example: "  girder-worker config rm girder_worker slots",
		Args:    exactly("SECTION", "OPTION"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := config.Remove(sources(), args[0], args[1])
			if err != nil {
				return err
			}
			a.tellChange(c)
			return nil
		},
	}
}

// tellChange says on stderr what a change comes to.
func (a *app) tellChange(c config.Change) {
	_, name, _ := strings.Cut(c.Key, ".")
	value := "decided by the machine"
	if c.Value != "" {
		value = config.Masked(name, c.Value)
	}
	where := ""
	if c.Origin == "" {
		where = " (the default)"
	} else if file := c.Origin[:strings.LastIndexByte(c.Origin, ':')]; filepath.Base(file) != filepath.Base(c.File) {
		where = " (" + c.Origin + ")"
	}
	effect := "restart the daemon to apply it: systemctl restart girder-worker"
	switch {
	case c.Why != "":
		effect = "it has no effect: " + c.Why
	case c.File == "":
		effect = "nothing was to be changed"
	case c.Live:
		effect = "a running daemon applies it now"
	}
	fmt.Fprintf(a.Stderr, "%s is %s%s; %s\n", c.Key, value, where, effect)
}
