package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"girderworker/daemon"
	"girderworker/daemon/config"
	"girderworker/daemon/runner"
)

const daemonLong = `Run the daemon in the foreground. It is started as root, by the service manager,
and gives that up: a small half stays root to start containers, everything else
runs as an unprivileged user. Jobs live on while the daemon is restarted.

The configuration is read from ` + config.DefaultFile + `, then worker.local.cfg
beside it, then variables such as GIRDER_WORKER_STATE_DIR, then these flags.
SIGHUP, or a change of a file, reloads it. SIGTERM and SIGINT end the daemon in
order, a second one at once.`

const daemonEpilog = `Exit codes:
  0   ended as it was asked to
  1   could not start or go on; stderr says why
  78  the configuration, the policy or the command line is bad; stderr names every
      option. The service manager leaves it at that until somebody starts it again`

func (a *app) daemonCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:         "daemon",
		Short:       "Run the daemon",
		Long:        daemonLong,
		Example:     "  girder-worker daemon\n  girder-worker daemon --state-dir /scratch/girder-worker --slots 4",
		Annotations: map[string]string{epilog: daemonEpilog},
		Args: func(cmd *cobra.Command, args []string) error {
			return a.badLine(daemon.ExitConfig, exactly()(cmd, args))
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	daemonFlags(cmd.Flags())
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return a.badLine(daemon.ExitConfig, usageError(cmd, "%v", err))
	})
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runDaemon(a.daemonOptions(cmd.Flags()))
	}
	return cmd
}

// badLine ends a command with a bad command line with an exit code of its own. The
// daemon's is that of a bad configuration: an option can stand in either.
func (a *app) badLine(code int, err error) error {
	if err == nil {
		return nil
	}
	fmt.Fprintln(a.Stderr, "girder-worker:", err)
	return exitStatus(code)
}

func (a *app) runDaemon(o daemon.Options) error {
	// The daemon obeys signals in its own way.
	signal.Reset(syscall.SIGINT, syscall.SIGTERM)
	if code := a.tellDaemon(daemon.Run(o)); code != 0 {
		return exitStatus(code)
	}
	return nil
}

// levelFlag is the option of the daemon's log.
const levelFlag = "logging-level"

// brokerFlag is the option of RabbitMQ's URL.
const brokerFlag = "broker"

// daemonFlags adds --config and a flag for every option of the daemon's own
// section and of Celery's that the command line does not have yet, and the level
// of its log.
func daemonFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "configuration `file`")
	flags.VarP(&optionValue{kind: "level"}, levelFlag, "l", "debug, info, warning or error")
	defaults := config.Default()
	for _, k := range defaults.Keys() {
		if (k.Section == "girder_worker" || k.Section == "celery") && k.Flag() != "socket" {
			flags.Var(&optionValue{kind: k.Kind()}, k.Flag(), k.Help)
		}
	}
}

// An optionValue is the text of an option, which the configuration reads.
type optionValue struct{ text, kind string }

func (v *optionValue) String() string     { return v.text }
func (v *optionValue) Set(s string) error { v.text = s; return nil }
func (v *optionValue) Type() string       { return v.kind }

// daemonOptions collects what was given, in a form that also makes the front's
// command line.
func (a *app) daemonOptions(flags *pflag.FlagSet) daemon.Options {
	o := daemon.Options{
		Sources: config.Sources{Environ: os.Environ(), Flags: map[string]string{}, Check: daemon.Check},
		Version: a.Version,
		Commit:  a.Commit,
		Runner:  a.Runner,
	}
	file, _ := a.LookupEnv("GIRDER_WORKER_CONFIG")
	flags.Visit(func(f *pflag.Flag) {
		if f.Name == brokerFlag {
			// The front's command line is for everyone to read, and this has a
			// password. It fails only for a name that is none.
			_ = os.Setenv(config.BrokerVariable, f.Value.String())
			o.Sources.Environ = os.Environ()
			return
		}
		if f.Name == "config" {
			file = f.Value.String()
			return
		}
		o.Args = append(o.Args, "--"+f.Name+"="+f.Value.String())
		o.Sources.Flags[f.Name] = f.Value.String()
	})
	if file != "" {
		// The front works in another directory. Abs fails only where there is none.
		if path, err := filepath.Abs(file); err == nil {
			file = path
		}
		o.Sources.File = file
		o.Args = append(o.Args, "--config="+file)
	}
	return o
}

// tellDaemon says what ended a half of the daemon, and returns its exit code.
func (a *app) tellDaemon(err error) int {
	code, tell := daemon.ExitCode(err)
	if tell {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			fmt.Fprintln(a.Stderr, "girder-worker:", line)
		}
	}
	return code
}

// frontProcess is the daemon's unprivileged half, with the flags of `daemon`.
func (a *app) frontProcess(args []string) int {
	flags := pflag.NewFlagSet("front", pflag.ContinueOnError)
	flags.String("socket", "", "")
	daemonFlags(flags)
	if err := flags.Parse(args); err != nil {
		return a.tellDaemon(err)
	}
	if flags.NArg() > 0 {
		return a.tellDaemon(errors.New("this command is for the program's own use"))
	}
	return a.tellDaemon(daemon.Front(a.daemonOptions(flags)))
}

// imageFetch fetches an image from a registry, for the daemon's unprivileged half.
func (a *app) imageFetch() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return a.tellDaemon(daemon.ImageFetch(ctx, a.Stdin, a.Stdout))
}

// imageHelper works on the image store, for the daemon's privileged half.
func (a *app) imageHelper() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return a.tellDaemon(daemon.ImageHelper(ctx, a.Stdin, a.Stdout))
}

// pythonDiscover imports task packages, for the daemon's privileged half.
func (a *app) pythonDiscover() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return a.tellDaemon(runner.Discover(ctx, a.Stdin, a.Stdout))
}
