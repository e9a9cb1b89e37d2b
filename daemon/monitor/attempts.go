package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/cgroup"
	"girderworker/transforms"
)

// live is an attempt from before its runner exists until nothing of it is left
// but its directory.
type live struct {
	dir    attempt.Dir
	proc   *process      // nil where only the lock tells that the runner lives
	slice  int           // -1: none of the range
	cgroup string        // its container's; empty while there is no runner
	gone   chan struct{} // closed at the end
	// restarts counts the runners that went on with its uploads since one of
	// them, the last of turns, ended in order.
	restarts, turns int
	killed          bool // nobody is to go on with it
	between         bool // one runner has ended, and the next is not there
	// hurry is closed when it has to go on at once, whoever's turn it is.
	hurry    chan struct{}
	hurrying sync.Once
}

func newLive(d attempt.Dir, slice int) *live {
	return &live{dir: d, slice: slice, gone: make(chan struct{}), hurry: make(chan struct{})}
}

func (l *live) goAtOnce() { l.hurrying.Do(func() { close(l.hurry) }) }

func (l *live) name() Attempt { return Attempt{l.dir.Job(), l.dir.Number()} }

// start starts an attempt, once in its life.
func (m *Monitor) start(ctx context.Context, a Attempt, r *attempt.Request, secrets transforms.Secrets) error {
	err := m.tryStart(ctx, a, r, secrets)
	if errors.Is(err, ErrRefused) {
		m.auditRefusal(r, err)
	}
	return err
}

func (m *Monitor) tryStart(ctx context.Context, a Attempt, r *attempt.Request, secrets transforms.Secrets) error {
	if r.Job != a.Job || r.Attempt != a.Attempt {
		return fmt.Errorf("%w: the request is another attempt's", ErrRefused)
	}
	dir, err := attempt.NewDir(m.files.state, a.Job, a.Attempt)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := m.bounds.check(r); err != nil {
		return err
	}
	rights, err := m.judge(r)
	if err != nil {
		return err
	}
	m.warm()
	if secrets.MachineKey, err = m.girderKey(r, &secrets); err != nil {
		return err
	}
	l, err := m.admit(ctx, dir, owner(r))
	if err != nil {
		return err
	}
	if err := m.launch(ctx, l, r, rights, secrets); err != nil {
		// The launcher left no process. What else there is goes, too.
		m.settle(l, false)
		return fmt.Errorf("cannot start attempt %s: %w", dir.ID(), err)
	}
	m.audit.write(m.auditOf(auditStart, r))
	m.watch(l)
	return nil
}

// warm is for a runner that will move its container into a group some milliseconds
// from now: the wait that this costs begins here. Only time is lost if it fails.
func (m *Monitor) warm() {
	if !m.warming.CompareAndSwap(false, true) {
		return
	}
	m.wg.Go(func() {
		defer m.warming.Store(false)
		_ = cgroup.Warm()
	})
}

// admit enters an attempt into the table, unless its job has one there that is
// not over.
func (m *Monitor) admit(ctx context.Context, dir attempt.Dir, owner string) (*live, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.vacate(ctx, dir.Job()); err != nil {
		return nil, err
	}
	if m.removing[dir.Job()] {
		return nil, fmt.Errorf("%w: its files are being removed", ErrBusy)
	}
	slice, err := m.ranges.take(owner)
	if err != nil {
		return nil, fmt.Errorf("cannot start attempt %s: %w", dir.ID(), err)
	}
	l := newLive(dir, slice)
	m.live[l.name()] = l
	return l, nil
}

// vacate returns when a job has no attempt in the table. One whose exit is
// recorded is only cleaning up, and waited for. The caller holds the lock, which
// is free meanwhile.
func (m *Monitor) vacate(ctx context.Context, job string) error {
	for {
		var other *live
		for _, l := range m.live {
			if l.dir.Job() == job {
				other = l
			}
		}
		if other == nil {
			return nil
		}
		over, err := other.dir.Ended()
		if err != nil {
			return fmt.Errorf("cannot tell whether %s is over: %w", other.dir.ID(), err)
		}
		if over {
			// Uploads may take as long as Girder is away.
			unfinished, err := other.dir.Unfinished()
			if err != nil {
				return fmt.Errorf("cannot tell whether %s is over: %w", other.dir.ID(), err)
			}
			over = !unfinished
		}
		if !over {
			return fmt.Errorf("%w: %s", ErrBusy, other.dir.ID())
		}
		m.mu.Unlock()
		select {
		case <-other.gone:
		case <-ctx.Done():
		}
		m.mu.Lock()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// watch waits for the end of an attempt's runner and cleans up after it.
func (m *Monitor) watch(l *live) {
	m.wg.Go(func() {
		if err := m.waitRunner(l); err != nil {
			if m.ctx.Err() == nil {
				m.logger.Error("Cannot watch a runner", "attempt", l.dir.ID(), "error", err)
				m.stop(err)
			}
			return
		}
		if m.goOn(l) {
			return
		}
		m.settle(l, true)
	})
}

// lockPoll is how often a lock is looked at whose holder is not known.
const lockPoll = 200 * time.Millisecond

func (m *Monitor) waitRunner(l *live) error {
	if l.proc != nil {
		defer l.proc.close()
		return l.proc.wait(m.ctx)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		locked, err := l.dir.Locked()
		if err != nil || !locked {
			return err
		}
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return m.ctx.Err()
		}
	}
}

// settle ends what a runner left, however long that takes, and only then lets
// the attempt go. tell says whether the front must hear of it.
func (m *Monitor) settle(l *live, tell bool) {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 10*time.Second) {
		err := m.sweep(l.dir, l.cgroup)
		if err == nil {
			break
		}
		if m.ctx.Err() != nil {
			return // the next monitor finds the work directory and goes on
		}
		m.logger.Error("Cannot clean up after an attempt; trying again", "attempt", l.dir.ID(), "error", err)
		select {
		case <-time.After(pause):
		case <-m.ctx.Done():
			return
		}
	}
	m.forget(l.dir)
	m.mu.Lock()
	delete(m.live, l.name())
	m.mu.Unlock()
	if l.slice >= 0 {
		m.ranges.release(l.slice)
	}
	if tell {
		m.auditExit(l.dir) // while the directory cannot be removed
	}
	close(l.gone)
	if m.options.Over != nil {
		m.options.Over()
	}
	if tell {
		m.tell(l.name())
	}
}

// killPatience bounds one try to empty a cgroup.
const killPatience = 10 * time.Second

// sweep removes everything of an attempt but its directory: processes,
// cgroups, mounts, and last its work directory, by which the next monitor would
// know that something is left.
func (m *Monitor) sweep(d attempt.Dir, cgroup string) error {
	ctx, cancel := context.WithTimeout(m.ctx, killPatience)
	defer cancel()
	rec, err := m.runners.of(d)
	if err != nil {
		return err
	}
	if err := m.runners.launcher.end(ctx, rec); err != nil {
		return err
	}
	if err := endCgroup(ctx, cgroup); err != nil {
		return err
	}
	if r, err := d.ReadRequest(); err == nil && r.Grant.Ahead != "" {
		if err := m.removeAhead(filepath.Base(r.Grant.Ahead)); err != nil {
			return err
		}
	}
	work, err := attempt.WorkDir(m.files.state, d.Job(), d.Number())
	if err != nil {
		return err
	}
	if _, err := os.Lstat(work); errors.Is(err, os.ErrNotExist) {
		return nil // the runner did it all
	}
	m.reaped.Add(1)
	if err := unmountBelow(work); err != nil {
		return err
	}
	return attempt.RemoveWork(work)
}

// forget removes what nobody needs of an attempt that is over.
func (m *Monitor) forget(d attempt.Dir) {
	if err := d.RemoveSecrets(); err != nil {
		m.logger.Error("Secrets are left", "attempt", d.ID(), "error", err)
	}
}

// scan finds the attempts that outlived an earlier monitor by their work
// directories, and sweeps those that did not.
func (m *Monitor) scan(ctx context.Context) error {
	entries, err := os.ReadDir(m.files.work())
	if err != nil {
		return fmt.Errorf("cannot find live attempts: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), attempt.AheadPrefix) {
			continue // after them all
		}
		cut := strings.LastIndexByte(e.Name(), '-')
		if cut < 0 {
			m.logger.Warn("Leaving a stranger in the work directory", "name", e.Name())
			continue
		}
		number, err := strconv.Atoi(e.Name()[cut+1:])
		if err == nil {
			var dir attempt.Dir
			if dir, err = attempt.NewDir(m.files.state, e.Name()[:cut], number); err == nil {
				err = m.revive(ctx, dir)
			}
		}
		if errors.Is(err, attempt.ErrInvalid) {
			m.logger.Warn("Leaving a stranger in the work directory", "name", e.Name())
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot find live attempts: %w", err)
		}
	}
	return m.sweepAhead()
}

// revive watches an attempt if its runner lives, and else sweeps it.
func (m *Monitor) revive(ctx context.Context, d attempt.Dir) error {
	rec, err := m.runners.of(d)
	if err != nil {
		return err
	}
	proc, alive, err := m.findRunner(ctx, d, rec)
	if err != nil {
		return err
	}
	l := newLive(d, -1)
	l.proc, l.cgroup = proc, path.Join(m.runners.launcher.parent(rec), d.ID())
	r, err := d.ReadRequest()
	switch {
	case err == nil:
		l.cgroup, l.slice = r.Grant.Cgroup, m.options.IDs.sliceOf(r.Grant.UIDMappings)
	case alive:
		// Written by a newer release, before a downgrade: its slice is not known,
		// so none can be given out safely.
		return fmt.Errorf("attempt %s is alive and its request cannot be read: %w", d.ID(), err)
	}
	unfinished, uerr := d.Unfinished()
	if uerr != nil {
		return uerr
	}
	if !unfinished && !alive {
		if unfinished, err = d.Abandoned(); err != nil {
			return err
		}
	}
	if !alive && !unfinished {
		m.forget(d)
		m.logger.Info("Cleaning up after an attempt that has no runner", "attempt", d.ID())
		err := m.sweep(d, l.cgroup)
		if err == nil {
			m.auditExit(d)
		}
		return err
	}
	m.logger.Info("Found a live attempt", "attempt", d.ID(), "uploading", unfinished)
	m.mu.Lock()
	m.live[l.name()] = l
	m.mu.Unlock()
	if l.slice >= 0 {
		m.ranges.hold(l.slice)
	}
	if alive {
		if proc != nil {
			m.runners.describe(rec, proc, d)
		}
		m.watch(l)
		return nil
	}
	// It has no runner, and needs one.
	m.wg.Go(func() {
		if !m.goOn(l) {
			m.settle(l, true)
		}
	})
	return nil
}

// findRunner finds the process that holds an attempt's lock.
func (m *Monitor) findRunner(ctx context.Context, d attempt.Dir, rec record) (p *process, alive bool, err error) {
	if alive, err = d.Locked(); err != nil {
		return nil, false, err
	}
	if alive && rec.PID > 0 {
		if p, err = findProcess(rec.PID, rec.Start); err != nil || p != nil {
			return p, true, err
		}
	}
	p, err = m.runners.launcher.find(ctx, rec)
	return p, alive || p != nil, err
}

func (m *Monitor) find(a Attempt) (*live, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.live[a]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoAttempt, a)
	}
	return l, nil
}

// overPatience is how long a stopping monitor waits for attempts that are over.
const overPatience = 5 * time.Second

// finishOver waits for the attempts that are only cleaning up, so that an orderly
// stop leaves nothing but what lives.
func (m *Monitor) finishOver() {
	m.mu.Lock()
	var over []*live
	for _, l := range m.live {
		if cleaning(l.dir) {
			over = append(over, l)
		}
	}
	m.mu.Unlock()
	patience := time.After(overPatience)
	for _, l := range over {
		select {
		case <-l.gone:
		case <-patience:
			return
		}
	}
}

// cleaning reports whether an attempt's exit is recorded and it has nothing to
// upload, which may take days.
func cleaning(d attempt.Dir) bool {
	ended, err := d.Ended()
	if err != nil || !ended {
		return false
	}
	unfinished, err := d.Unfinished()
	if err != nil || !unfinished {
		return err == nil
	}
	left, err := d.ReadFinish()
	if errors.Is(err, os.ErrNotExist) {
		return true // it was removed just now
	}
	if err != nil {
		return false
	}
	r, err := d.ReadRequest()
	return err == nil && left.Hook >= len(r.Plan.Hooks)
}

// cancel leaves the word for the runner, which watches its directory.
func (m *Monitor) cancel(a Attempt, how attempt.Cancel) error {
	l, err := m.find(a)
	if err != nil {
		return err
	}
	if err := l.dir.WriteCancel(how); err != nil {
		return err
	}
	l.goAtOnce()
	return nil
}

// kill ends a runner by force; the watcher then ends its container.
func (m *Monitor) kill(ctx context.Context, a Attempt) error {
	l, err := m.find(a)
	if errors.Is(err, ErrNoAttempt) {
		return nil
	}
	if err != nil {
		return err
	}
	m.mu.Lock()
	l.killed = true
	proc, between := l.proc, l.between
	m.mu.Unlock()
	l.goAtOnce()
	if !between {
		if proc == nil {
			return fmt.Errorf("cannot kill attempt %s: its runner's process is not known", a)
		}
		if err := proc.kill(); err != nil {
			return err
		}
	}
	select {
	case <-l.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// list returns the attempts that are alive.
func (m *Monitor) list() []Attempt {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Attempt, 0, len(m.live))
	for a := range m.live {
		all = append(all, a)
	}
	return all
}

// remove deletes the directories of a job that has no live attempt.
func (m *Monitor) remove(ctx context.Context, job string) error {
	first, err := attempt.NewDir(m.files.state, job, 1)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m.mu.Lock()
	if err := m.vacate(ctx, job); err != nil {
		m.mu.Unlock()
		return err
	}
	m.removing[job] = true
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		delete(m.removing, job)
		m.mu.Unlock()
	}()
	return attempt.RemoveWork(filepath.Dir(first.Path()))
}
