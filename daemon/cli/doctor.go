package cli

import (
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"girderworker/daemon"
	"girderworker/daemon/config"
	"girderworker/daemon/doctor"
)

const doctorLong = `Look at this machine, its configuration and the daemon, and say what is missing
and what to do. A container is tried with a built-in image of a few hundred
bytes. Whoever may not look somewhere is told that root may.

With --airgap all of it runs without a network, in a network namespace with a
loopback interface alone: that nothing outside is needed is shown by its working,
and that nothing outside was asked by the kernel's count of attempts. As root the
container is then run by a daemon of its own in there, which is removed again.`

const doctorEpilog = `Exit codes:
  0  nothing has failed; there may be warnings
  1  something has failed
  125  doctor itself could not work`

// insideFlag marks the process that runs without a network.
const insideFlag = "inside-airgap"

func (a *app) doctorCommand() *cobra.Command {
	var file string
	var airgap, inside bool
	cmd := &cobra.Command{
		Use:               "doctor",
		Short:             "Find what is wrong with this machine, and what to do",
		Long:              doctorLong,
		Example:           "  sudo girder-worker doctor\n  sudo girder-worker doctor --airgap --json",
		Annotations:       map[string]string{epilog: doctorEpilog},
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return cannot("find this program", err)
			}
			if airgap && !inside {
				args := []string{"doctor", "--airgap", "--" + insideFlag}
				for _, f := range []struct{ name, value string }{{"config", file}, {"socket", a.socket}} {
					if f.value != "" {
						args = append(args, "--"+f.name, f.value)
					}
				}
				if a.json {
					args = append(args, "--json")
				}
				code, err := doctor.Apart(cmd.Context(), []string{self}, args, os.Stdout, os.Stderr)
				if err != nil {
					return err
				}
				return status(code)
			}
			return a.examine(cmd, file, []string{self}, inside)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "the daemon's configuration `file`")
	cmd.Flags().BoolVar(&airgap, "airgap", false, "prove that nothing outside this machine is contacted")
	cmd.Flags().BoolVar(&inside, insideFlag, false, "")
	if err := cmd.Flags().MarkHidden(insideFlag); err != nil {
		panic(err) // the flag was made above
	}
	return a.jsonFlag(cmd)
}

func status(code int) error {
	if code == 0 {
		return nil
	}
	return exitStatus(code)
}

func (a *app) examine(cmd *cobra.Command, file string, self []string, inside bool) error {
	if file == "" {
		file, _ = a.LookupEnv("GIRDER_WORKER_CONFIG")
	}
	socket := a.socket
	if socket == "" {
		socket, _ = a.LookupEnv("GIRDER_WORKER_SOCKET")
	}
	findings := []doctor.Finding{}
	var printed error
	o := doctor.Options{
		Sources: config.Sources{File: file, Environ: os.Environ(), Check: daemon.Check}, Socket: socket, Self: self,
		Found: func(f doctor.Finding) {
			findings = append(findings, f)
			if !a.json && printed == nil {
				printed = a.printFinding(&f)
			}
		},
	}
	run := doctor.Run
	if inside {
		run = doctor.Airgap
	}
	well := run(cmd.Context(), o)
	if err := cmd.Context().Err(); err != nil {
		return err
	}
	count := map[doctor.Level]int{}
	for _, f := range findings {
		count[f.Level]++
	}
	if a.json {
		printed = a.printJSON(map[string]any{"ok": well, "findings": findings})
	} else if printed == nil {
		_, printed = fmt.Fprintf(a.Stdout, "\n%d ok, %d warnings, %d failures, %d not looked at\n",
			count[doctor.OK], count[doctor.Warning], count[doctor.Failure], count[doctor.Skipped])
	}
	if printed != nil {
		return printed
	}
	if !well {
		return exitStatus(1)
	}
	return nil
}

func (a *app) printFinding(f *doctor.Finding) error {
	mark := map[doctor.Level]string{doctor.OK: "ok", doctor.Warning: "WARNING", doctor.Failure: "FAILURE", doctor.Skipped: "-"}[f.Level]
	_, err := fmt.Fprintf(a.Stdout, "%-7s  %-15s  %s\n", mark, f.Check, printable(f.Text))
	if err == nil && f.Hint != "" {
		_, err = fmt.Fprintf(a.Stdout, "%s→ %s\n", strings.Repeat(" ", 26), printable(f.Hint))
	}
	return err
}
