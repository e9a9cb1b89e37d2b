package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the daemon is and what it has to do",
		Long: `Show the daemon's version and state, how many jobs there are in each state, what
they take of the machine, how the broker, Girder, the disk and the GPUs are, what
does not work now, and what an admin should know.`,
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
	if len(st.Degraded) > 0 {
		state += "; degraded, see below"
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
		"memory in use", of("memory", bytes), "gpus in use", of("gpus", number),
		"first in the queue", since(st.OldestQueued), "broker", brokerLine(st.Broker), "girder", girderLine(st.Servers),
		"reports", reportsLine(&st.Reports), "disk", diskLine(&st.Disk), "images", imagesLine(&st.Images), "metrics", st.Metrics)
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
	for _, text := range st.Degraded {
		if err == nil {
			_, err = fmt.Fprintln(a.Stdout, "degraded:", printable(text))
		}
	}
	for _, warning := range st.Warnings {
		if err == nil {
			_, err = fmt.Fprintln(a.Stdout, "warning:", printable(warning))
		}
	}
	return err
}

// since is a time that may be missing.
func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return "waits since " + clock(t)
}

func brokerLine(b *apitype.Broker) string {
	if b == nil {
		return ""
	}
	text := b.State
	if b.Address != "" {
		text += ", " + b.Address
	}
	if !b.Since.IsZero() {
		text += " since " + clock(b.Since)
	}
	var names []string
	for _, q := range b.Queues {
		names = append(names, q.Name)
	}
	if len(names) > 0 {
		text += "; queues " + strings.Join(names, ", ")
	}
	return printable(fmt.Sprintf("%s; %d tasks taken, %d refused", text, b.Accepted, b.Rejected))
}

func girderLine(servers []apitype.Girder) string {
	var all []string
	for _, s := range servers {
		text := s.Address + " answers"
		if s.Problem != "" {
			text = s.Address + " does not answer, tried again at " + clock(s.Next)
		}
		all = append(all, printable(text))
	}
	return strings.Join(all, "; ")
}

func reportsLine(r *apitype.Reports) string {
	var parts []string
	if r.Pending() > 0 {
		parts = append(parts, fmt.Sprintf("of %d jobs wait, the first since %s", r.Pending(), clock(r.Oldest)))
	}
	if r.Delivered > 0 {
		parts = append(parts, fmt.Sprintf("%d told", r.Delivered))
	}
	if r.GaveUp > 0 {
		parts = append(parts, fmt.Sprintf("given up for %d jobs", r.GaveUp))
	}
	return strings.Join(parts, "; ")
}

func diskLine(d *apitype.Disk) string {
	if d.Size == 0 {
		return ""
	}
	return size(d.Free) + " free of " + size(d.Size)
}

func imagesLine(i *apitype.ImageTotals) string {
	if i.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d, %s", i.Count, size(i.Bytes))
}
