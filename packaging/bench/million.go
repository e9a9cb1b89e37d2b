package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"girderworker/queue"
)

// millionSection fills a queue with jobs that cannot start yet and looks at what
// that costs: opening it with a cold cache, memory, and the speed of claims.
func millionSection(ctx context.Context, b *bench) error {
	n := b.n(1_000_000, 10_000)
	full, empty := filepath.Join(b.dir, "million"), filepath.Join(b.dir, "empty")
	if err := fill(ctx, full, n); err != nil {
		return err
	}
	if err := fill(ctx, empty, 0); err != nil {
		return err
	}
	var fullClaims, emptyClaims, opens, resident []float64
	for range b.n(3, 1) {
		for _, q := range []struct {
			dir    string
			claims *[]float64
		}{{full, &fullClaims}, {empty, &emptyClaims}} {
			syscall.Sync()
			if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
				return fmt.Errorf("cannot drop the caches: %w", err)
			}
			self, err := os.Executable()
			if err != nil {
				return err
			}
			// In a process of its own: memory is read there.
			child := exec.CommandContext(ctx, self, "million-child", q.dir)
			child.Stderr = os.Stderr
			out, err := child.Output()
			if err != nil {
				return err
			}
			var r childResult
			if err := json.NewDecoder(bytes.NewReader(out)).Decode(&r); err != nil {
				return err
			}
			*q.claims = append(*q.claims, r.Claims)
			if q.dir == full {
				opens = append(opens, r.Open.Seconds())
				resident = append(resident, mib(r.Resident))
			}
		}
	}
	what := fmt.Sprintf("%d queued jobs that cannot start", n)
	b.table.atLeast(0.8, "claims with "+what+", against an empty queue", perSecond(median(fullClaims)), perSecond(median(emptyClaims)), median(fullClaims)/median(emptyClaims))
	b.table.size(5, "s", "opening "+what+", caches dropped", median(opens))
	b.table.size(64, "MiB", "resident beyond clean file pages with "+what, median(resident))
	return nil
}

// parked is what the queue is filled with: half waits for its time, half for a
// processor that another job has.
func parked(i int, now time.Time) (queue.Submission, error) {
	sub, err := submission()
	sub.Owner = fmt.Sprintf("uid:%d", 1000+i%20)
	if i%2 == 0 {
		sub.NotBefore = now.Add(24 * time.Hour)
	} else {
		sub.Needs.CPUs = machine.CPUs
	}
	return sub, err
}

// machine is large enough that what is claimed here never fills it.
var machine = queue.Capacity{Slots: 1 << 20, CPUs: 1024, Memory: 1 << 60}

// small is a job that always fits.
func small() (queue.Submission, error) {
	sub, err := submission()
	sub.Needs = queue.Needs{CPUs: 0.01, Memory: 1 << 20}
	return sub, err
}

func fill(ctx context.Context, dir string, n int) error {
	s, err := queue.Open(queue.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	// The job that holds a processor, so that those which want all of them wait.
	holder, err := small()
	if err != nil {
		return err
	}
	if _, err := s.Submit(ctx, holder); err != nil {
		return err
	}
	if jobs, err := s.Claim(ctx, machine, "boot", 1); err != nil || len(jobs) != 1 {
		return fmt.Errorf("cannot claim the first job: %d claimed, %v", len(jobs), err)
	}
	now := time.Now()
	batch := make([]queue.Submission, 0, 1000)
	for i := range n {
		sub, err := parked(i, now)
		if err != nil {
			return err
		}
		if batch = append(batch, sub); len(batch) == cap(batch) || i == n-1 {
			if _, err := s.Submit(ctx, batch...); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return nil
}

type childResult struct {
	Open     time.Duration
	Claims   float64 // a second
	Resident int64   // bytes beyond clean file pages
}

// millionChild opens a queue, claims small jobs one by one and prints a childResult.
func millionChild(dir string) error {
	ctx := context.Background()
	var r childResult
	begin := time.Now()
	s, err := queue.Open(queue.Options{Dir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	sub, err := small()
	if err != nil {
		return err
	}
	if _, err := s.Submit(ctx, sub); err != nil { // in service: it accepts
		return err
	}
	r.Open = time.Since(begin)
	const claims = 2000
	sub.Owner = "uid:7"
	subs := make([]queue.Submission, claims/2)
	for i := range subs {
		subs[i] = sub
	}
	for range 2 {
		if _, err := s.Submit(ctx, subs...); err != nil {
			return err
		}
	}
	begin = time.Now()
	for range claims {
		jobs, err := s.Claim(ctx, machine, "boot", 1)
		if err != nil || len(jobs) != 1 {
			return fmt.Errorf("cannot claim: %d claimed, %v", len(jobs), err)
		}
	}
	r.Claims = claims / time.Since(begin).Seconds()
	figures := rollup(os.Getpid())
	r.Resident = figures["Rss"] - figures["Shared_Clean"] - figures["Private_Clean"]
	return json.NewEncoder(os.Stdout).Encode(r)
}

// restartSection kills a daemon with many jobs queued and times its return.
func restartSection(ctx context.Context, b *bench) error {
	n := b.n(100_000, 2_000)
	d, err := newDaemon(ctx, b, "restart")
	if err != nil {
		return err
	}
	defer func() { d.stop() }()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	if err := d.command(ctx, "pause"); err != nil {
		return err
	}
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer func() { c.Close() }()
	body := []byte(`{"jobs":[`)
	for i := range 1000 {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, document...)
	}
	body = append(body, "]}"...)
	for range n / 1000 {
		if _, _, err := c.do(ctx, "POST", "/v1/jobs", body); err != nil {
			return err
		}
	}
	var back []float64
	for range b.n(3, 1) {
		if err := d.kill(ctx); err != nil {
			return err
		}
		t, err := timed(func() error {
			if err := d.start(ctx); err != nil {
				return err
			}
			again, err := d.dial()
			if err != nil {
				return err
			}
			c.Close()
			c = again
			_, _, err = c.do(ctx, "POST", "/v1/jobs", document)
			return err
		})
		if err != nil {
			return err
		}
		back = append(back, t.Seconds())
	}
	b.table.size(2, "s", fmt.Sprintf("back in service after kill -9 with %d jobs queued", n), median(back))
	return nil
}
