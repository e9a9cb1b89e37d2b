package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/queue"
)

func TestListPages(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	var all []string
	for range 7 {
		all = append(all, p.submit(`{"image":"busybox"}`).ID)
	}
	p.do("POST", "/v1/jobs/"+all[2]+"/cancel", "")
	slices.Reverse(all)

	var listed []string
	for path := "/v1/jobs?limit=3"; path != ""; {
		page := decodeAs[apitype.Jobs](t, second(p.do("GET", path, "")))
		for _, j := range page.Jobs {
			listed = append(listed, j.ID)
		}
		path = ""
		if page.Next != "" {
			path = "/v1/jobs?limit=3&cursor=" + page.Next
		}
	}
	if !slices.Equal(listed, all) {
		t.Errorf("got %v, want %v", listed, all)
	}
	page := decodeAs[apitype.Jobs](t, second(p.do("GET", "/v1/jobs?state=canceled,failed", "")))
	if len(page.Jobs) != 1 || page.Jobs[0].State != "canceled" {
		t.Errorf("by state: %+v", page.Jobs)
	}
	for _, query := range []string{"state=done", "limit=0", "limit=x", "limit=1001", "cursor=0", "cursor=-1", "what=1"} {
		if e := p.refused("GET", "/v1/jobs?"+query, "", 400); e.Kind != apitype.KindBadRequest {
			t.Errorf("%s: %+v", query, e)
		}
	}
}

// TestExitCodes: one number for every end, which `wait` and `run` end with.
func TestExitCodes(t *testing.T) {
	failed := func(code int) queue.Job {
		return queue.Job{State: queue.Failed, Result: &queue.Result{Code: code}}
	}
	for _, test := range []struct {
		job  queue.Job
		want int
	}{
		{queue.Job{State: queue.Succeeded, Result: &queue.Result{}}, 0},
		{failed(3), 3},
		{failed(137), 137},
		{failed(0), 125}, // an output could not be written after a good exit
		{queue.Job{State: queue.Failed}, 125},
		{queue.Job{State: queue.Canceled}, 130},
		{queue.Job{State: queue.Canceled, Result: &queue.Result{Code: 1}}, 130}, // canceled while it waited for a retry
	} {
		if got := exitCode(&test.job); got != test.want {
			t.Errorf("%s with %+v: %d, want %d", test.job.State, test.job.Result, got, test.want)
		}
	}
}

// TestCancelReachesTheAttempt: committed first, then handed on.
func TestCancelReachesTheAttempt(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	w.claim()
	job := decodeAs[apitype.Job](t, second(p.do("POST", "/v1/jobs/"+id+"/cancel", `{"reason":" wrong\n slide "}`)))
	if !job.CancelRequested || job.State != "preparing" {
		t.Errorf("answered %+v", job)
	}
	kept, err := w.queue.Job(id)
	if err != nil || kept.CancelReason != "wrong slide" || !slices.Equal(w.canceled, []string{id}) {
		t.Errorf("kept %+v, %v; attempts canceled: %v", kept, err, w.canceled)
	}
	p.refused("POST", "/v1/jobs/"+id+"/cancel", `{"why":"x"}`, 400)
}

func TestRemoveTakesTheFiles(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := jobIn(p, "canceled")
	if code, body := p.do("DELETE", "/v1/jobs/"+id, ""); code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	if !slices.Equal(w.removed, []string{id}) {
		t.Errorf("removed the files of %v", w.removed)
	}
	p.refused("GET", "/v1/jobs/"+id, "", 404)
}

func TestWhyTellsOfAPause(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	w.person(0).do("POST", "/v1/pause", "")
	why := decodeAs[apitype.Why](t, second(p.do("GET", "/v1/jobs/"+id+"/why", "")))
	if why.State != "queued" || len(why.Waits) == 0 || why.Waits[0].Kind != "paused" {
		t.Errorf("got %+v", why)
	}
}

func TestWait(t *testing.T) {
	w := newWorker(t, nil, func(s *Server) {
		// Shorter than the wait: what lasts is exempt.
		s.http.ReadTimeout, s.http.WriteTimeout = time.Second, time.Second
	})
	p := w.person(alice)
	id := p.submit(`{"image":"busybox"}`).ID
	job := decodeAs[apitype.Job](t, second(p.do("GET", "/v1/jobs/"+id+"/wait?timeout=1.5", "")))
	if job.ExitCode != nil || job.State != "queued" {
		t.Errorf("after its timeout: %+v", job)
	}
	answered := make(chan apitype.Job)
	go func() {
		answered <- decodeAs[apitype.Job](t, second(p.do("GET", "/v1/jobs/"+id+"/wait?timeout=60", "")))
	}()
	w.finish(w.claim(), 3)
	if job := <-answered; job.ExitCode == nil || *job.ExitCode != 3 || job.State != "failed" {
		t.Errorf("got %+v", job)
	}
	for _, timeout := range []string{"-1", "301", "x", "NaN"} {
		p.refused("GET", "/v1/jobs/"+id+"/wait?timeout="+timeout, "", 400)
	}
}

// TestEvents: one's own jobs' changes, an admin's are all.
func TestEvents(t *testing.T) {
	w := newWorker(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	owner, other := w.person(alice), w.person(bob)
	streams := map[string]*bufio.Scanner{}
	for who, p := range map[string]*person{"owner": owner, "other": other, "admin": w.person(operator, adminGroup), "root": w.person(0)} {
		answer := p.open(ctx, "GET", "/v1/events", nil, "")
		defer answer.Body.Close()
		if answer.StatusCode != 200 {
			t.Fatalf("%s: %d", who, answer.StatusCode)
		}
		streams[who] = bufio.NewScanner(answer.Body)
	}
	first := owner.submit(`{"image":"busybox"}`).ID
	last := other.submit(`{"image":"busybox"}`).ID
	for who, want := range map[string][]string{"owner": {first}, "other": {last}, "admin": {first, last}, "root": {first, last}} {
		for _, id := range want {
			if !streams[who].Scan() {
				t.Fatalf("%s: the stream ended: %v", who, streams[who].Err())
			}
			var e apitype.Event
			if err := json.Unmarshal(streams[who].Bytes(), &e); err != nil || e.Job != id || e.State != "queued" {
				t.Errorf("%s: got %s, want job %s", who, streams[who].Bytes(), id)
			}
		}
	}
}

// TestLaggingListener: who does not read is told that it missed something, and
// holds up nobody.
func TestLaggingListener(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	p.refused("GET", "/v1/events?since=1", "", 400)
	answer := p.open(t.Context(), "GET", "/v1/events", nil, "")
	defer answer.Body.Close()
	// More events than the store and the socket hold for one listener.
	const rounds = 12
	for round := range rounds {
		batch := `{"jobs":[`
		for i := range 1000 {
			if i > 0 {
				batch += ","
			}
			batch += fmt.Sprintf(`{"id":"r%d-%d","image":"busybox","hold":"x"}`, round, i)
		}
		if code, body := p.do("POST", "/v1/jobs", batch+`]}`); code != 201 {
			t.Fatalf("%d %.200s", code, body)
		}
	}
	lagged := false
	for lines := bufio.NewScanner(answer.Body); !lagged && lines.Scan(); {
		e := decodeAs[apitype.Event](t, lines.Bytes())
		lagged = e.Lagged
		if e.Job == fmt.Sprintf("r%d-999", rounds-1) {
			break
		}
	}
	if !lagged {
		t.Error("a listener that missed events was not told")
	}
}
