package cli

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

const showLong = `Show everything about one job: what it runs, where it stands, how it ended, what
it used, and for each of its pipes how many bytes went through, with their SHA-256.
--json has the job's document and all details.`

func (a *app) showCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "show ID",
		Short:             "Show everything about a job",
		Long:              showLong,
		Example:           "  girder-worker show 0000012h4kd\n  girder-worker show --json 0000012h4kd",
		Args:              exactly("ID"),
		ValidArgsFunction: a.completeJob,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.client()
			defer c.Close()
			job, err := c.Job(cmd.Context(), args[0])
			if err != nil {
				return cannot("show job "+args[0], err)
			}
			if a.json {
				return a.printJSON(job)
			}
			return a.printJob(&job)
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) printJob(j *apitype.Job) error {
	state := j.State
	if j.Stage != "" && j.Stage != j.State {
		state += " (" + j.Stage + ")"
	}
	if j.CancelRequested && j.ExitCode == nil {
		state += ", being canceled"
	}
	exit, attempt, position := "", "", ""
	if j.ExitCode != nil {
		exit = strconv.Itoa(*j.ExitCode)
	}
	if j.Attempt > 0 {
		attempt = strconv.Itoa(j.Attempt)
	}
	if j.Position > 0 {
		position = fmt.Sprintf("%d jobs come first", j.Position)
	}
	progress := ""
	if j.Progress != nil {
		progress = strings.TrimSpace(fmt.Sprintf("%g of %g %s", j.Progress.Current, j.Progress.Total, j.Progress.Message))
	}
	after := "" // where it is worth telling
	if _, d := spans(j); !j.Finished.IsZero() && d >= 100*time.Millisecond {
		after = span(d)
	}
	reason := j.Reason
	if reason == j.Error {
		reason = ""
	}
	pairs := []string{
		"id", j.ID, "name", j.Name, "owner", owner(j), "task", j.Task, "image", j.Image,
		"state", state, "reason", reason, "position", position, "progress", progress,
		"exit code", exit, "result", clipped(string(j.Result), maxShownResult), "outcome", j.Outcome, "error", j.Error, "not reported", j.Untold,
		"priority", strconv.Itoa(j.Priority), "attempt", attempt,
		"after", strings.Join(j.After, " "), "after any", strings.Join(j.AfterAny, " "),
		"not before", clock(j.NotBefore), "expires", clock(j.Expires),
		"created", clock(j.Created), "started", clock(j.Started), "finished", clock(j.Finished), "ran", ran(j), "outputs took", after,
	}
	pairs = append(pairs, documentFields(j.Document)...)
	var detail exitDetail
	if len(j.Detail) > 0 && json.Unmarshal(j.Detail, &detail) == nil {
		pairs = append(pairs, detail.fields()...)
	}
	if err := fields(a.Stdout, pairs...); err != nil || len(detail.Streams) == 0 {
		return err
	}
	return a.printStreams(&detail)
}

// maxShownResult is how much of a result is shown, in bytes; --json has all of it.
const maxShownResult = 2000

func clipped(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// documentFields are the members of a document that the lines above do not
// show, after an empty line.
func documentFields(document json.RawMessage) []string {
	var members map[string]json.RawMessage
	if len(document) == 0 || json.Unmarshal(document, &members) != nil {
		return nil
	}
	pairs := []string{"", ""}
	for _, key := range []string{"command", "pull", "entrypoint", "args", "env", "workdir", "user", "hostname", "network", "read_only", "binds", "volumes", "girder", "downloads", "inputs",
		"outputs", "uploads", "stdin", "resources", "timeout", "soft_timeout", "idle_timeout", "retries", "stop_signal", "stop_grace"} {
		value, ok := members[key]
		switch {
		case ok && key == "resources":
			pairs = append(pairs, key, resources(value))
		case ok && (key == "stop_grace" || strings.HasSuffix(key, "timeout")):
			pairs = append(pairs, strings.ReplaceAll(key, "_", " "), duration(value))
		case ok:
			pairs = append(pairs, strings.ReplaceAll(key, "_", " "), strings.Trim(string(value), `"`))
		}
	}
	if len(pairs) == 2 {
		return nil
	}
	return pairs
}

// duration is a document's, in a person's units. The daemon wrote it.
func duration(value json.RawMessage) string {
	text := strings.Trim(string(value), `"`)
	d, err := time.ParseDuration(text)
	if err != nil {
		return text
	}
	return lasting(d)
}

// resources are a document's, in a person's units.
func resources(value json.RawMessage) string {
	var r struct {
		CPUs                      float64
		GPUs, PIDs                int64
		Memory, Shm, Scratch, Log int64
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return string(value)
	}
	parts := []string{fmt.Sprintf("%g cpus", r.CPUs), size(r.Memory) + " memory"}
	if r.GPUs > 0 {
		parts = append(parts, fmt.Sprintf("%d gpus", r.GPUs))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d processes", r.PIDs), size(r.Shm)+" shm",
		size(r.Scratch)+" scratch", size(r.Log)+" log"), ", ")
}

// exitDetail is what is shown of an attempt's own record.
type exitDetail struct {
	Container *struct {
		Usage struct {
			CPU        int64 // nanoseconds
			PeakMemory int64
			ReadBytes  int64
			WriteBytes int64
		}
	} `json:"container"`
	Streams []struct {
		Name    string `json:"name"`
		Kind    string `json:"kind"`
		Bytes   int64  `json:"bytes"`
		SHA256  string `json:"sha256"`
		Partial bool   `json:"partial"`
		Error   string `json:"error"`
	} `json:"streams"`
	Notes      []string `json:"notes"`
	LogBytes   int64    `json:"log_bytes"`
	LogDropped int64    `json:"log_dropped"`
}

// fields tells what the attempt came to, after an empty line.
func (d *exitDetail) fields() []string {
	pairs := []string{"", "", "log", size(d.LogBytes)}
	if d.LogDropped > 0 {
		pairs[3] += fmt.Sprintf(", and %s beyond the limit dropped", size(d.LogDropped))
	}
	if d.Container != nil {
		u := d.Container.Usage
		pairs = append(pairs, "cpu time", fmt.Sprintf("%.2f s", float64(u.CPU)/1e9), "peak memory", size(u.PeakMemory))
		if u.ReadBytes+u.WriteBytes > 0 {
			pairs = append(pairs, "disk", fmt.Sprintf("%s read, %s written", size(u.ReadBytes), size(u.WriteBytes)))
		}
	}
	for _, note := range d.Notes {
		pairs = append(pairs, "note", note)
	}
	return pairs
}

func (a *app) printStreams(d *exitDetail) error {
	t := newTable("PIPE", "KIND", "BYTES", "SHA-256", "NOTE")
	t.alignRight(2)
	for _, s := range d.Streams {
		note := s.Error
		if note == "" && s.Partial {
			note = "closed before its end"
		}
		t.add(s.Name, s.Kind, strconv.FormatInt(s.Bytes, 10), s.SHA256, note)
	}
	if _, err := fmt.Fprintln(a.Stdout); err != nil {
		return err
	}
	return t.write(a.Stdout)
}
