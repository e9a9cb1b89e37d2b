package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/api"
	"girderworker/daemon/apitype"
	"girderworker/daemon/config"
	"girderworker/queue"
	"girderworker/transforms"
)

var (
	_ api.Control = (*front)(nil)
	_ api.Live    = (*front)(nil)
)

// Capacity is what admission counts.
func (f *front) Capacity() queue.Capacity {
	c := f.config.Load()
	m := c.Machine
	return queue.Capacity{Slots: m.Slots, CPUs: m.CPUs, Memory: m.Memory, GPUs: f.gpus.capacity(), Scratch: freeDisk(c.StateDir), Swap: c.Hardware.Swap}
}

// freeDisk is what is free for jobs on the file system of a directory, in bytes.
// Where it cannot be told nothing is held against it.
func freeDisk(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return math.MaxInt64
	}
	return int64(st.Bavail) * st.Bsize
}

// Paused tells whether claims are stopped.
func (f *front) Paused() (paused, draining bool) { return f.pause.get() }

// Pause stops claims, durably.
func (f *front) Pause(_ context.Context, drain bool) error {
	f.logger.Info("Pausing", "drain", drain)
	defer f.broker.wake()
	defer f.broker.drain()
	return f.pause.set(pauseState{Paused: true, Draining: drain})
}

// Resume ends a pause or a drain.
func (f *front) Resume(context.Context) error {
	f.logger.Info("Resuming")
	err := f.pause.set(pauseState{})
	f.lookAgain()
	return err
}

// Status is what the daemon knows of itself.
func (f *front) Status(context.Context) (apitype.Status, error) {
	c := f.config.Load()
	paused, draining := f.Paused()
	used := f.store.InUse()
	st := apitype.Status{
		Version: f.options.Version, Commit: f.options.Commit, PID: os.Getpid(), Started: f.begun,
		StateDir: c.StateDir, Paused: paused, Draining: draining,
		Jobs:     map[string]int{},
		Capacity: amounts(f.Capacity()),
		InUse:    amounts(used),
		Attempts: f.attempts.count(),
		GPUs:     f.gpus.view(),
	}
	st.Warnings = append(st.Warnings, *f.notes.Load()...)
	if problem := f.rules.Load().problem; problem != "" {
		st.Warnings = append(st.Warnings, problem)
	}
	st.Reports = f.reportStatus()
	f.surroundings(&st)
	st.Warnings = append(st.Warnings, f.gpus.problems()...)
	if _, problems := f.tasks.Tasks(); len(problems) > 0 {
		st.Warnings = append(st.Warnings, fmt.Sprintf("a task cannot be used: %v; `girder-worker tasks` tells of all", problems[0]))
	}
	for state, n := range f.store.Counts() {
		st.Jobs[string(state)] = n
	}
	return st, nil
}

func amounts(c queue.Capacity) map[string]float64 {
	return map[string]float64{"slots": float64(c.Slots), "cpus": c.CPUs, "memory": float64(c.Memory), "gpus": float64(c.GPUs)}
}

// CancelAttempt hands a cancel to a live attempt. One whose runner is only
// being started looks for it itself.
func (f *front) CancelAttempt(ctx context.Context, job queue.Job) error {
	r := f.attempts.of(job.ID, job.Attempt)
	if r == nil {
		return nil
	}
	f.gpus.wake() // it may wait for one
	return f.cancel(ctx, r, job.CancelReason)
}

// RemoveJob deletes a job's directories.
func (f *front) RemoveJob(ctx context.Context, id string) error { return f.monitor.RemoveJob(ctx, id) }

// Live is the stage and the last progress of an attempt.
func (f *front) Live(id string, attempt int) (stage string, progress *apitype.Progress) {
	r := f.attempts.of(id, attempt)
	if r == nil {
		return "", nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stage, r.progress
}

// containerOf is the first process of an attempt's container; 0: there is none.
func (f *front) containerOf(id string, attempt int) int {
	r := f.attempts.of(id, attempt)
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.process
}

// settings are what the API takes from the configuration.
func (f *front) settings(c *config.Config) api.Settings {
	return api.Settings{
		AdminGroups: f.who.adminGIDs,
		Defaults: transforms.Defaults{
			Resources: transforms.Resources{
				CPUs: c.Limits.CPUs, Memory: c.Limits.Memory, PIDs: c.Limits.PIDs,
				Shm: c.Limits.Shm, Scratch: c.Limits.Scratch, Log: c.Limits.Log,
			},
			Timeout:    c.Limits.Time,
			RetryDelay: 10 * time.Second,
			Girder:     c.GirderURL,
		},
		Machine: transforms.Resources{
			CPUs:   min(c.Machine.CPUs, c.Hardware.CPUs),
			Memory: min(c.Machine.Memory, c.Hardware.Memory),
			Shm:    min(c.Machine.Memory, c.Hardware.Memory),
			GPUs:   f.gpus.count(),
			// A job cannot ask for the disk that the queue and all others are on.
			Scratch: c.Hardware.Disk,
			Log:     c.Hardware.Disk,
			Swap:    c.Hardware.Swap,
		},
	}
}

// pauseState is pause.json.
type pauseState struct {
	Paused   bool `json:"paused"`
	Draining bool `json:"draining,omitempty"`
}

// pause is an admin's wish that outlives the daemon.
type pause struct {
	path string

	writing sync.Mutex // the file
	mu      sync.Mutex // nobody waits for the disk with it: the queue asks before each commit
	state   pauseState
}

func loadPause(path string) (*pause, error) {
	p := &pause{path: path}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &p.state)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot tell whether the queue is paused; repair or remove %s: %w", path, err)
	}
	return p, nil
}

func (p *pause) get() (paused, draining bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Paused, p.state.Draining
}

// set is durable when it returns. A pause that cannot be written holds all the
// same until the daemon ends, and the caller is told.
func (p *pause) set(s pauseState) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.mu.Lock()
	p.state = s
	p.mu.Unlock()
	data, err := json.Marshal(s)
	if err == nil {
		err = replaceFile(p.path, data)
	}
	if err != nil {
		return fmt.Errorf("cannot make the pause survive a restart: %w", err)
	}
	return nil
}

// replaceFile puts data at path in one step that survives a power cut.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
