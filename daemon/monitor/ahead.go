package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
)

// An ahead is a runner with a container in which an interpreter waits for one call. It
// is for who has just called a function of that module, with the same rights and limits,
// and for nobody else.
type ahead struct {
	*warmRunner
	name        string // of its container's cgroup and its work directory
	cgroup      string
	key         string
	interpreter string
	slice       int // of ids, which it holds
	expires     *time.Timer
}

// aheads are all of them; a nil one has none.
type aheads struct {
	m *Monitor

	mu      sync.Mutex
	ready   []*ahead           // oldest first
	demands map[string]*demand // by key, of those whose calls were just made
	closed  bool
	wg      sync.WaitGroup // of what makes and what ends them
}

// aheadRefill leaves the processor to the attempt that was just started.
const aheadRefill = 20 * time.Millisecond

func (s *aheads) work(name string) string { return filepath.Join(s.m.files.work(), name) }

// keyOf tells requests apart that need a container each; "" is one for which none can be
// ready. Whoever comes from the message queue has ids that are chosen anew.
func (s *aheads) keyOf(r *attempt.Request) string {
	if s == nil {
		return ""
	}
	like, ok := r.Ahead()
	if !ok {
		return ""
	}
	if like.Identity.Source == policy.AMQP {
		like.Identity.UID, like.Identity.GID = 0, 0
		like.Grant.UIDMappings, like.Grant.GIDMappings = nil, nil
	}
	data, err := json.Marshal(like)
	if err != nil {
		return ""
	}
	return string(data)
}

// take returns one that will do for requests of a key, which is then the caller's, or nil. One
// that is being made, and that nobody else waits for, is waited for: another would not be
// there earlier.
func (s *aheads) take(ctx context.Context, key string) *ahead {
	if key == "" {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		s.bury()
		if i := slices.IndexFunc(s.ready, func(a *ahead) bool { return a.key == key }); i >= 0 {
			a := s.ready[i]
			s.ready = slices.Delete(s.ready, i, i+1)
			a.expires.Stop()
			return a
		}
		d := s.demands[key]
		if d == nil || d.waiting >= d.making || ctx.Err() != nil {
			return nil
		}
		made := d.made
		d.waiting++
		s.mu.Unlock()
		select {
		case <-made:
		case <-ctx.Done():
		}
		s.mu.Lock()
		d.waiting--
	}
}

// prepare makes what is wanted for the next requests like r, whose key it gets, in a while.
func (s *aheads) prepare(key string, r *attempt.Request, rights *policy.Rights) {
	if key == "" {
		return
	}
	like, _ := r.Ahead()
	who := owner(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.bury()
	for range s.called(key, time.Now()) {
		s.wg.Go(func() {
			time.Sleep(aheadRefill)
			like := like
			var a *ahead
			var err error
			if !memoryShort() {
				a, err = s.make(&like, who, rights)
			}
			if err != nil {
				s.m.logger.Warn("Cannot keep an interpreter ready; the next call starts slower", "error", err)
			}
			s.mu.Lock()
			if a != nil {
				a.key = key
				a.expires = time.AfterFunc(s.m.options.AheadTime, func() { s.endWhere(func(other *ahead) bool { return other == a }) })
				s.ready = append(s.ready, a)
			}
			s.bury()
			over := s.surplus()
			if s.closed {
				over, s.ready = append(over, s.ready...), nil
			}
			s.ended(key)
			s.mu.Unlock()
			for _, a := range over {
				s.discard(a)
			}
		})
	}
}

func (s *aheads) make(like *attempt.Request, who string, rights *policy.Rights) (_ *ahead, err error) {
	slice, err := s.m.ranges.take(who)
	if err != nil {
		return nil, err
	}
	w, err := s.m.runners.spawn(s.m.runners.ctx, true)
	if err != nil {
		s.m.ranges.release(slice)
		return nil, err
	}
	a := &ahead{warmRunner: w, name: attempt.AheadPrefix + w.name, interpreter: like.Plan.Python.Interpreter, slice: slice}
	a.cgroup = path.Join(s.m.runners.launcher.parent(w.record), a.name)
	defer func() {
		if err != nil {
			s.discard(a)
		}
	}()
	s.m.grant(like, slice, s.work(a.name), rights)
	like.Grant.Cgroup = a.cgroup
	file, err := sealedJSON("a request", like)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := os.Mkdir(s.work(a.name), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a work directory: %w", err)
	}
	return a, attempt.SendAhead(a.socket, file)
}

// forget ends all of an interpreter.
func (s *aheads) forget(interpreter string) {
	if s != nil {
		s.endWhere(func(a *ahead) bool { return a.interpreter == interpreter })
	}
}

// endWhere ends those that wait and are meant.
func (s *aheads) endWhere(meant func(*ahead) bool) {
	s.mu.Lock()
	var over []*ahead
	s.ready = slices.DeleteFunc(s.ready, func(a *ahead) bool {
		if meant(a) {
			over = append(over, a)
			return true
		}
		return false
	})
	s.wg.Add(1)
	defer s.wg.Done()
	s.mu.Unlock()
	for _, a := range over {
		s.discard(a)
	}
}

// bury takes out those whose interpreters have ended, for the kernel needed their memory,
// and cleans up after them. The lock is held.
func (s *aheads) bury() {
	if s.closed {
		return
	}
	s.ready = slices.DeleteFunc(s.ready, func(a *ahead) bool {
		dead := a.ended()
		if dead {
			s.wg.Go(func() { s.discard(a) })
		}
		return dead
	})
}

// discard ends one, and all that is of it.
func (s *aheads) discard(a *ahead) {
	s.end(a)
	s.m.ranges.release(a.slice)
}

// end leaves its ids to the attempt that it was for.
func (s *aheads) end(a *ahead) {
	if a.expires != nil {
		a.expires.Stop()
	}
	s.m.runners.discard(a.warmRunner)
	if err := s.m.removeAhead(a.name); err != nil {
		s.m.logger.Error("Cannot clean up after an interpreter that waited; the daemon's next start does", "name", a.name, "error", err)
	}
}

// close ends all of them.
func (s *aheads) close() {
	s.mu.Lock()
	s.closed = true
	for _, d := range s.demands {
		d.over.Stop()
	}
	s.mu.Unlock()
	s.endWhere(func(*ahead) bool { return true })
	s.wg.Wait()
}

// removeAhead removes what a runner that has ended has left of a container.
func (m *Monitor) removeAhead(name string) error {
	if !strings.HasPrefix(name, attempt.AheadPrefix) || strings.Contains(name, "/") {
		return fmt.Errorf("%w: %q is no container of ours", ErrRefused, name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	rec := m.runners.launcher.named(strings.TrimPrefix(name, attempt.AheadPrefix))
	if rec.Unit != "" {
		if err := m.runners.launcher.end(ctx, rec); err != nil {
			return err
		}
	}
	if err := endCgroup(ctx, path.Join(m.runners.launcher.parent(rec), name)); err != nil {
		return err
	}
	work := filepath.Join(m.files.work(), name)
	if err := unmountBelow(work); err != nil {
		return err
	}
	for try := 0; ; try++ {
		err := attempt.RemoveWork(work)
		if try == removeTries || !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		time.Sleep(removePause) // its runner, which has lost its monitor, removes it as well
	}
}

const (
	removeTries = 50
	removePause = 20 * time.Millisecond
)

// sweepAhead removes what an earlier monitor has left that is no live attempt's.
func (m *Monitor) sweepAhead() error {
	entries, err := os.ReadDir(m.files.work())
	if err != nil {
		return fmt.Errorf("cannot find what waited for attempts: %w", err)
	}
	inUse := map[string]bool{}
	m.mu.Lock()
	for _, l := range m.live {
		if r, err := l.dir.ReadRequest(); err == nil && r.Grant.Ahead != "" {
			inUse[filepath.Base(r.Grant.Ahead)] = true
		}
	}
	m.mu.Unlock()
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), attempt.AheadPrefix) && !inUse[e.Name()] {
			if err := m.removeAhead(e.Name()); err != nil {
				return fmt.Errorf("cannot remove %s: %w", e.Name(), err)
			}
		}
	}
	return nil
}
