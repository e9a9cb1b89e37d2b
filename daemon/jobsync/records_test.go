package jobsync

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/queue"
	"girderworker/transforms/recordtest"
)

// TestRecorded compares the statuses that Girder sees with recordings of the
// Python worker, where there are some.
func TestRecorded(t *testing.T) {
	dir := recordtest.Dir(t)
	succeed := func(_ *rig, j *job) { j.succeed() }
	cancel := func(r *rig, j *job) {
		r.until("it runs", func() bool { return r.girder.Job(j.girderID).Status == 2 })
		must(r, r.girder.CancelJob(j.girderID))
		r.until("it is canceled here", func() bool { return j.queued().CancelRequested })
		j.exit(queue.Result{Outcome: "canceled"})
	}
	for name, story := range map[string]func(*rig, *job){
		"plain": succeed, "progress": succeed, "signature": succeed, "legacy": succeed, "upload_item": succeed,
		"fail":          func(_ *rig, j *job) { j.exit(queue.Result{Outcome: "exited", Code: 7}) },
		"missing_image": func(_ *rig, j *job) { j.exit(queue.Result{Outcome: "error", Code: 125, Error: "no such image"}) },
		"long_sleep":    cancel, "long_term": cancel, "events_revoke": cancel,
	} {
		raw, err := os.ReadFile(filepath.Join(dir, name+".job.json"))
		must(t, err)
		var recorded struct {
			Handler    string
			Timestamps []struct{ Status int }
		}
		must(t, json.Unmarshal(raw, &recorded))
		var want []int
		for _, s := range recorded.Timestamps {
			want = append(want, s.Status)
		}
		r := newRig(t).begin()
		j := r.submit("j", recorded.Handler)
		if recorded.Handler == workerHandler {
			must(t, r.girder.SetJobStatus(j.girderID, 1)) // Girder does, before it sends
		}
		r.claim(j)
		j.start()
		go func() {
			for r.clock.Now().Year() == 2026 { // time passes
				select {
				case <-r.done:
					return
				default:
					r.clock.advance(100_000_000)
				}
			}
		}()
		story(r, j)
		r.told()
		r.end()
		if got := j.statuses(); got != fmt.Sprint(want) {
			t.Errorf("%s came to %s, recorded %v", name, got, want)
		}
	}
}

// TestTransitions holds our table of Girder's rules against a recording of them.
func TestTransitions(t *testing.T) {
	dir := recordtest.Dir(t)
	raw, err := os.ReadFile(filepath.Join(dir, "status_transitions.json"))
	must(t, err)
	var recorded map[string]struct{ Results map[string][]any }
	must(t, json.Unmarshal(raw, &recorded))
	n := 0
	for handler, r := range recorded {
		rules := transitions[handler]
		if rules == nil {
			rules = transitions[""]
		}
		for pair, answer := range r.Results {
			var from, to int
			if _, err := fmt.Sscanf(strings.Replace(pair, "->", " ", 1), "%d %d", &from, &to); err != nil || from == to {
				continue
			}
			ours := false
			for key, list := range rules {
				for _, s := range list {
					ours = ours || int(key) == from && int(s) == to
				}
			}
			n++
			if accepted := answer[0] == 200.0; accepted != ours {
				t.Errorf("%s %s: recorded %v, ours %t", handler, pair, answer, ours)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d pairs", n)
	}
}
