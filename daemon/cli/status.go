package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the daemon is and what it has to do",
		Long: `Show the daemon's version and state, how many jobs there are in each state, what
they take of the machine, and what an admin should know.`,
		Example:           "  girder-worker status\n  girder-worker status --json",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := a.client()
			defer c.Close()
			st, err := c.Status(cmd.Context())
			if err != nil {
				return cannot("ask for the status", err)
			}
			if a.json {
				return a.printJSON(st)
			}
			return a.printStatus(&st)
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) printStatus(st *apitype.Status) error {
	state := "running"
	switch {
	case st.Draining && st.Attempts == 0:
		state = "drained: no job runs, none starts"
	case st.Draining:
		state = "draining: no job starts, " + strconv.Itoa(st.Attempts) + " still run"
	case st.Paused:
		state = "paused: no job starts"
	}
	version := st.Version
	if st.Commit != "" {
		version += " (" + st.Commit + ")"
	}
	var jobs []string
	for _, s := range jobStates {
		if n := st.Jobs[s]; n > 0 {
			jobs = append(jobs, fmt.Sprintf("%d %s", n, s))
		}
	}
	if len(jobs) == 0 {
		jobs = []string{"none"}
	}
	of := func(key string, show func(float64) string) string {
		if st.Capacity[key] == 0 {
			return ""
		}
		return show(st.InUse[key]) + " of " + show(st.Capacity[key])
	}
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', 4, 64) }
	bytes := func(f float64) string { return size(int64(f)) }
	err := fields(a.Stdout,
		"daemon", state, "version", version, "pid", strconv.Itoa(st.PID), "since", clock(st.Started), "state directory", st.StateDir,
		"jobs", strings.Join(jobs, ", "),
		"slots in use", of("slots", number), "cpus in use", of("cpus", number),
		"memory in use", of("memory", bytes), "gpus in use", of("gpus", number))
	for _, g := range st.GPUs {
		holder := "free"
		if len(g.Jobs) > 0 {
			holder = "job " + strings.Join(g.Jobs, ", job ")
		}
		if g.Missing {
			holder += "; it is not there any more"
		}
		if err == nil {
			_, err = fmt.Fprintf(a.Stdout, "%s: %s\n", printable(g.Name), printable(holder))
		}
	}
	for _, warning := range st.Warnings {
		if err == nil {
			_, err = fmt.Fprintln(a.Stdout, "warning:", printable(warning))
		}
	}
	return err
}
