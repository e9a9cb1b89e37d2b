package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

var jobStates = []string{"queued", "delayed", "held", "preparing", "running", "finishing", "succeeded", "failed", "canceled"}

const jobsLong = `List jobs, newest first: one's own, and for root and the admin group everybody's.

States: queued waits for its turn, delayed for a time or a retry, held for a
person; preparing, running and finishing have an attempt under way; succeeded,
failed and canceled are final.`

const jobsExample = `  girder-worker jobs
  girder-worker jobs --state running,queued
  girder-worker jobs --state failed --limit 1000 --json`

func (a *app) jobsCommand() *cobra.Command {
	var (
		states []string
		limit  int
	)
	cmd := &cobra.Command{
		Use:               "jobs [FLAGS]",
		Short:             "List jobs",
		Long:              jobsLong,
		Example:           jobsExample,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range states {
				if !slices.Contains(jobStates, s) {
					return usageError(cmd, "--state %s: the states are %s", s, strings.Join(jobStates, ", "))
				}
			}
			if limit < 1 {
				return usageError(cmd, "--limit %d: a number from 1", limit)
			}
			jobs, more, err := a.listJobs(cmd.Context(), states, limit)
			if err != nil {
				return cannot("list jobs", err)
			}
			if a.json {
				return a.printJSON(jobs)
			}
			if err := a.printJobs(jobs); err != nil {
				return err
			}
			if more {
				fmt.Fprintf(a.Stderr, "these are the newest %d; --limit shows more\n", limit)
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only jobs in these `states`, with commas between")
	cmd.Flags().IntVar(&limit, "limit", 100, "show at most `N`")
	if err := cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(jobStates, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag was made above
	}
	return a.jsonFlag(cmd)
}

func (a *app) listJobs(ctx context.Context, states []string, limit int) (jobs []apitype.Job, more bool, err error) {
	c := a.client()
	defer c.Close()
	jobs = []apitype.Job{}
	f := client.JobFilter{States: states}
	for len(jobs) < limit {
		f.Limit = min(limit-len(jobs), 1000)
		page, err := c.Jobs(ctx, f)
		if err != nil {
			return nil, false, err
		}
		jobs = append(jobs, page.Jobs...)
		if f.Cursor = page.Next; f.Cursor == "" {
			return jobs, false, nil
		}
	}
	return jobs, true, nil
}

func (a *app) printJobs(jobs []apitype.Job) error {
	t := newTable("ID", "STATE", "AGE", "RAN", "OWNER", "NAME", "IMAGE", "DETAIL")
	t.alignRight(2, 3)
	for i := range jobs {
		j := &jobs[i]
		t.add(j.ID, j.State, ago(time.Since(j.Created)), ran(j), shortOwner(j), j.Name, j.Image, jobDetail(j))
	}
	return t.write(a.Stdout)
}

func owner(j *apitype.Job) string {
	if j.User != "" {
		return j.User
	}
	return j.Owner
}

// shortOwner leaves out what the daemon says of an owner beside the name.
func shortOwner(j *apitype.Job) string {
	name, _, _ := strings.Cut(owner(j), " ")
	return name
}

// ran is how long the last attempt's container has run, or did.
func ran(j *apitype.Job) string {
	switch {
	case j.Started.IsZero():
		return ""
	case j.Finished.IsZero():
		return span(time.Since(j.Started))
	}
	ran, _ := spans(j)
	return span(ran)
}

// spans are how long the last container ran, and how long the job then took to end:
// for its streams, its log and its uploads.
func spans(j *apitype.Job) (ran, after time.Duration) {
	var exit struct {
		Container *struct{ Started, Finished time.Time }
	}
	if json.Unmarshal(j.Detail, &exit) != nil || exit.Container == nil || exit.Container.Finished.IsZero() {
		return j.Finished.Sub(j.Started), 0
	}
	c := exit.Container
	return c.Finished.Sub(c.Started), j.Finished.Sub(c.Finished)
}

// jobDetail is the one thing worth knowing about a job in its state.
func jobDetail(j *apitype.Job) string { return clip(detailOf(j)) }

func detailOf(j *apitype.Job) string {
	switch {
	case j.CancelRequested && j.ExitCode == nil:
		return "being canceled"
	case j.Progress != nil && j.Progress.Total > 0:
		return fmt.Sprintf("%.0f %% %s", 100*j.Progress.Current/j.Progress.Total, j.Progress.Message)
	case j.Progress != nil && j.Progress.Message != "":
		return j.Progress.Message
	case j.State == "failed" && j.Outcome == "exited" && j.ExitCode != nil && j.Error == "":
		return "exit code " + strconv.Itoa(*j.ExitCode)
	case j.State == "failed" && j.Error != "":
		return j.Error
	case j.Stage != "" && j.Stage != j.State && j.Reason == "":
		return j.Stage
	case j.State != "succeeded":
		return j.Reason
	}
	return ""
}

func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
