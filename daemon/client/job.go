package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"girderworker/daemon/apitype"
)

// Submit sends one job document. The answer is durable: the job is in the queue.
func (c *Client) Submit(ctx context.Context, document []byte) (apitype.Job, error) {
	var job apitype.Job
	err := c.callRaw(ctx, "/v1/jobs", document, &job)
	return job, err
}

// SubmitBatch sends {"jobs": [document, …]}, see [apitype.Batch]: up to 1,000
// documents, which are accepted all or none.
func (c *Client) SubmitBatch(ctx context.Context, batch []byte) ([]apitype.Job, error) {
	var jobs apitype.Jobs
	err := c.callRaw(ctx, "/v1/jobs", batch, &jobs)
	return jobs.Jobs, err
}

// Job returns one job with its document.
func (c *Client) Job(ctx context.Context, id string) (apitype.Job, error) {
	var job apitype.Job
	err := c.callJob(ctx, http.MethodGet, id, "", nil, nil, &job)
	return job, err
}

// JobFilter chooses jobs of a listing; zero fields choose all.
type JobFilter struct {
	States []string
	Owner  string // "uid:1000"; only an admin may name another than its own
	Limit  int    // of one page; 0 is the daemon's
	Cursor string // apitype.Jobs.Next of the page before
}

// Jobs returns a page of jobs, newest first.
func (c *Client) Jobs(ctx context.Context, f JobFilter) (apitype.Jobs, error) {
	query := url.Values{}
	for _, state := range f.States {
		query.Add("state", state)
	}
	if f.Owner != "" {
		query.Set("owner", f.Owner)
	}
	if f.Limit > 0 {
		query.Set("limit", strconv.Itoa(f.Limit))
	}
	if f.Cursor != "" {
		query.Set("cursor", f.Cursor)
	}
	var jobs apitype.Jobs
	err := c.call(ctx, http.MethodGet, "/v1/jobs", query, nil, &jobs)
	return jobs, err
}

// Cancel asks for the end of a job. The reason is for people and may be empty.
func (c *Client) Cancel(ctx context.Context, id, reason string) (apitype.Job, error) {
	return c.change(ctx, id, "cancel", apitype.Reason{Reason: reason})
}

// Hold has a job that waits go on waiting until Release.
func (c *Client) Hold(ctx context.Context, id, reason string) (apitype.Job, error) {
	return c.change(ctx, id, "hold", apitype.Reason{Reason: reason})
}

// Release lets a held job queue again.
func (c *Client) Release(ctx context.Context, id string) (apitype.Job, error) {
	return c.change(ctx, id, "release", nil)
}

// Retry queues a copy of a job that has ended and returns the copy.
func (c *Client) Retry(ctx context.Context, id string) (apitype.Job, error) {
	return c.change(ctx, id, "retry", nil)
}

func (c *Client) change(ctx context.Context, id, verb string, body any) (apitype.Job, error) {
	var job apitype.Job
	err := c.callJob(ctx, http.MethodPost, id, verb, nil, body, &job)
	return job, err
}

// Remove deletes a job that has ended, with its log, and returns what it was.
func (c *Client) Remove(ctx context.Context, id string) (apitype.Job, error) {
	var job apitype.Job
	err := c.callJob(ctx, http.MethodDelete, id, "", nil, nil, &job)
	return job, err
}

// Why returns what a job waits for.
func (c *Client) Why(ctx context.Context, id string) (apitype.Why, error) {
	var why apitype.Why
	err := c.callJob(ctx, http.MethodGet, id, "why", nil, nil, &why)
	return why, err
}

// Wait returns when the job has ended. It outlasts restarts of the daemon, see
// [Patience].
func (c *Client) Wait(ctx context.Context, id string, p Patience) (apitype.Job, error) {
	query := url.Values{"timeout": {"60"}}
	for {
		var job apitype.Job
		err := c.callJob(ctx, http.MethodGet, id, "wait", query, nil, &job)
		switch {
		case err == nil && job.ExitCode != nil:
			return job, nil
		case err == nil:
			p.reset()
		case p.retry(ctx, err):
		default:
			return job, err
		}
	}
}

// Patience is how long to go on asking a daemon that went away, as it does for
// an upgrade: jobs run on without it. The zero value has none.
type Patience struct {
	// For is how long the daemon may stay away at a time.
	For time.Duration
	// Lost, when not nil, is called once each time it goes away.
	Lost func(error)
	// Back, when not nil, is called when it answers again.
	Back func()

	since    time.Time // when it went away; zero while it is there
	answered time.Time // its last answer since then that has not proved to be sound
	told     bool      // Back was called
}

// steady is how long an answer has to go on to show, without any of it, that
// the daemon was there.
const steady = 10 * time.Second

// heard is told of the beginning of an answer, reset of a part of it.
func (p *Patience) heard() {
	if p.since.IsZero() {
		return
	}
	p.answered = time.Now()
	if !p.told && p.Back != nil {
		p.Back()
	}
	p.told = true
}

func (p *Patience) reset() {
	p.heard()
	p.since, p.answered, p.told = time.Time{}, time.Time{}, false
}

// retry waits a moment and tells whether to ask again after err.
func (p *Patience) retry(ctx context.Context, err error) bool {
	if !IsLost(err) || p.For == 0 {
		return false
	}
	if !p.answered.IsZero() && time.Since(p.answered) > steady {
		p.reset()
	}
	p.answered = time.Time{}
	if p.since.IsZero() {
		p.since = time.Now()
		if p.Lost != nil {
			p.Lost(err)
		}
	}
	away := time.Since(p.since)
	if away > p.For {
		return false
	}
	timer := time.NewTimer(min(50*time.Millisecond+away/8, time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
