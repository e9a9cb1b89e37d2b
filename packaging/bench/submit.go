package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"girderworker/queue"
	"girderworker/transforms"
)

// document is a job of an ordinary size; it never runs here.
var document = []byte(`{"image":"bench:latest","args":["segment","--input","/data/slide-0001.tif","--threshold","0.35","--output","/data/out/mask.png"],"env":{"OMP_NUM_THREADS":"1"},"name":"segment slide 1"}`)

// submitSection compares durable submissions through the socket with the same
// records committed directly, and both with the disk's own rate.
func submitSection(ctx context.Context, b *bench) error {
	d, err := newDaemon(ctx, b, "submit")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	if err := d.command(ctx, "pause"); err != nil {
		return err
	}
	store, err := queue.Open(queue.Options{Dir: filepath.Join(b.dir, "direct")})
	if err != nil {
		return err
	}
	defer store.Close()
	sub, err := submission()
	if err != nil {
		return err
	}

	round := time.Duration(b.n(1000, 100)) * time.Millisecond
	rounds := b.n(3, 1)
	for _, clients := range []int{1, 8, 64, 512} {
		var disk, direct, socket []float64
		for range rounds {
			rate, err := fdatasyncRate(b.dir, round)
			if err != nil {
				return err
			}
			disk = append(disk, rate)
			rate, err = perSecondOf(ctx, clients, round, func(int) (func() error, func(), error) {
				return func() error { _, err := store.Submit(ctx, sub); return err }, func() {}, nil
			})
			if err != nil {
				return err
			}
			direct = append(direct, rate)
			rate, err = perSecondOf(ctx, clients, round, func(int) (func() error, func(), error) {
				c, err := d.dial()
				if err != nil {
					return nil, nil, err
				}
				return func() error { _, _, err := c.do(ctx, "POST", "/v1/jobs", document); return err }, func() { c.Close() }, nil
			})
			if err != nil {
				return err
			}
			socket = append(socket, rate)
		}
		ours, base := median(socket), median(direct)
		what := fmt.Sprintf("submissions through the socket, %d clients, against direct commits", clients)
		switch clients {
		case 1:
			b.table.atLeast(0.5, what, perSecond(ours), perSecond(base), ours/base)
		case 64:
			b.table.atLeast(0.25, what, perSecond(ours), perSecond(base), ours/base)
		default:
			b.table.note(what, perSecond(ours), perSecond(base), ours/base)
		}
		b.table.note(fmt.Sprintf("submissions through the socket, %d clients, against one fdatasync each", clients),
			perSecond(ours), perSecond(median(disk)), ours/median(disk))
	}
	return batches(ctx, b, d, store, sub, round, rounds)
}

// batches compares requests of 1,000 jobs with 64 direct writers.
func batches(ctx context.Context, b *bench, d *daemon, store *queue.Store, sub queue.Submission, round time.Duration, rounds int) error {
	body := []byte(`{"jobs":[`)
	for i := range transforms.MaxBatch {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, document...)
	}
	body = append(body, "]}"...)
	var batch, direct []float64
	for range rounds {
		rate, err := perSecondOf(ctx, 1, round, func(int) (func() error, func(), error) {
			c, err := d.dial()
			if err != nil {
				return nil, nil, err
			}
			return func() error { _, _, err := c.do(ctx, "POST", "/v1/jobs", body); return err }, func() { c.Close() }, nil
		})
		if err != nil {
			return err
		}
		batch = append(batch, rate*transforms.MaxBatch)
		rate, err = perSecondOf(ctx, 64, round, func(int) (func() error, func(), error) {
			return func() error { _, err := store.Submit(ctx, sub); return err }, func() {}, nil
		})
		if err != nil {
			return err
		}
		direct = append(direct, rate)
	}
	ours, base := median(batch), median(direct)
	b.table.atLeast(0.6, "jobs in requests of 1,000, against 64 direct writers", perSecond(ours), perSecond(base), ours/base)
	return nil
}

// submission is what the API makes of document.
func submission() (queue.Submission, error) {
	files, _, err := transforms.ParseJobFiles(document)
	if err != nil {
		return queue.Submission{}, err
	}
	f := files[0]
	f.Resources = transforms.Resources{CPUs: 1, Memory: 4 << 30, PIDs: 4096, Shm: 64 << 20, Scratch: 10 << 30, Log: 64 << 20}
	f.Timeout = 7 * 24 * time.Hour
	body := f.AppendJSON(nil)
	hash := sha256.Sum256(body)
	return queue.Submission{
		Source: queue.SourceSocket, Owner: "uid:65533", Identity: queue.Identity{UID: 65533, GID: 65533},
		Name: f.Name, Task: f.Task, Image: f.Image,
		Needs:  queue.Needs{CPUs: 1, Memory: 4 << 30},
		Limits: queue.Limits{Hard: f.Timeout},
		Body:   body, BodyHash: hex.EncodeToString(hash[:]),
	}, nil
}

// perSecondOf runs clients loops for about a time and returns how many calls
// ended in a second. open makes the call of one client.
func perSecondOf(ctx context.Context, clients int, d time.Duration, open func(client int) (call func() error, done func(), err error)) (float64, error) {
	type tally struct {
		n   int
		err error
	}
	calls := make([]func() error, clients)
	for i := range calls {
		call, done, err := open(i)
		if err != nil {
			return 0, err
		}
		defer done()
		calls[i] = call
	}
	tallies := make([]tally, clients)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range calls {
		wg.Go(func() {
			t := &tallies[i]
			for time.Since(begin) < d && ctx.Err() == nil {
				if t.err = calls[i](); t.err != nil {
					return
				}
				t.n++
			}
		})
	}
	wg.Wait()
	took := time.Since(begin).Seconds()
	total := 0
	for _, t := range tallies {
		if t.err != nil {
			return 0, t.err
		}
		total += t.n
	}
	return float64(total) / took, ctx.Err()
}

// fdatasyncRate appends a page and syncs it, over and over.
func fdatasyncRate(dir string, d time.Duration) (float64, error) {
	f, err := os.CreateTemp(dir, "fdatasync-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	n, begin := 0, time.Now()
	for time.Since(begin) < d {
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := fdatasync(f); err != nil {
			return 0, err
		}
		n++
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}
