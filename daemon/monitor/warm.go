package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"girderworker/daemon/attempt"
)

// runners starts the runners of attempts. One is kept warm: it has been executed and
// waits for its attempt.
type runners struct {
	launcher launcher
	layout   layout
	logger   *slog.Logger

	ctx  context.Context // ends with close
	stop context.CancelFunc
	// begun is part of the names of runners: the record of one that an earlier
	// monitor started must never mean one of ours.
	begun int64

	mu     sync.Mutex
	next   int         // number of the next runner
	disk   int64       // the scratch space of the last attempt; 0 is none yet
	warm   *warmRunner // nil while one is being made, or none could be
	making chan struct{}
	closed bool
	wg     sync.WaitGroup
}

type warmRunner struct {
	*process
	name   string
	record record
	socket *os.File
}

// refill is how long after a start the next runner is made: it would compete
// for the processor with the one that was just started.
const refill = 10 * time.Millisecond

// handover is how long a runner may take to answer; a machine may be very busy.
const handover = time.Minute

// newRunners begins to make the first runner.
func newRunners(l launcher, layout layout, logger *slog.Logger) *runners {
	s := &runners{launcher: l, layout: layout, logger: logger, begun: time.Now().UnixNano()}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.prepare(0)
	return s
}

// prepare makes the next warm runner after a while.
func (s *runners) prepare(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.making != nil || s.warm != nil {
		return
	}
	made := make(chan struct{})
	s.making = made
	s.wg.Go(func() {
		time.Sleep(after)
		w, err := s.spawn(s.ctx, false)
		if err != nil && s.ctx.Err() == nil {
			s.logger.Warn("Cannot keep a runner ready; the next attempt starts slower", "error", err)
		}
		s.mu.Lock()
		s.making = nil
		if s.closed && w != nil {
			defer s.discard(w)
		} else {
			s.warm = w
		}
		s.mu.Unlock()
		close(made)
	})
}

// take returns a runner that waits for its attempt.
func (s *runners) take(ctx context.Context) (*warmRunner, error) {
	s.mu.Lock()
	w, making := s.warm, s.making
	s.warm = nil
	s.mu.Unlock()
	if w == nil && making != nil {
		// It is nearly there, and of several that wait one gets it.
		select {
		case <-making:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
		w, s.warm = s.warm, nil
		s.mu.Unlock()
	}
	if w != nil {
		return w, nil
	}
	return s.spawn(ctx, false)
}

// start runs the runner of an attempt whose directory is ready and whose lock is held.
// It takes the lock over in any case. Before a runner has the attempt, place is told the
// cgroup that is the parent of its container's. After an error no process is left. The
// process is nil when it has ended already. scratch is its scratch space in bytes, as
// the next one will hardly differ.
func (s *runners) start(ctx context.Context, d attempt.Dir, lock *attempt.Lock, scratch int64, place func(cgroup string) error) (_ *process, err error) {
	defer lock.Close()
	if scratch > 0 {
		s.mu.Lock()
		s.disk = scratch
		s.mu.Unlock()
	}
	defer s.prepare(refill)
	// A warm runner may have died while it waited: then a fresh one gets the attempt.
	for try := 0; ; try++ {
		w, err := s.take(ctx)
		if err != nil {
			return nil, err
		}
		if err = place(s.launcher.parent(w.record)); err == nil {
			err = w.recordIn(lock)
		}
		if err != nil {
			s.discard(w)
			return nil, err
		}
		if err = s.hand(w, d, lock); err == nil {
			return w.process, nil
		}
		s.discard(w)
		if try > 0 {
			// As with one that dies a moment later: its attempt is lost, and the job is not.
			s.logger.Error("A runner died before it had its attempt", "attempt", d.ID(), "error", err)
			return nil, nil
		}
		s.logger.Warn("A runner that was kept ready failed; taking another", "attempt", d.ID(), "error", err)
	}
}

// recordIn comes before the lock is theirs, so that whoever finds it locked finds a record.
func (w *warmRunner) recordIn(lock *attempt.Lock) error { return writeRecord(lock.File(), w.record) }

// hand gives a runner its attempt. After an error it must be discarded.
func (s *runners) hand(w *warmRunner, d attempt.Dir, lock *attempt.Lock) error {
	if w.ended() {
		return errors.New("it has ended")
	}
	err := w.socket.SetReadDeadline(time.Now().Add(handover))
	if err == nil {
		err = attempt.SendStart(w.socket, d, lock)
	}
	if err != nil {
		return errors.Join(err, w.kill()) // it may have the attempt all the same
	}
	w.socket.Close()
	s.describe(w.record, w.process, d)
	return nil
}

// describeAfter is how old an attempt gets before its runner is described: most are over.
const describeAfter = 200 * time.Millisecond

// describe has whoever lists the machine's services see which job a runner's is.
func (s *runners) describe(rec record, p *process, d attempt.Dir) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || rec.Unit == "" {
		return
	}
	s.wg.Go(func() {
		select {
		case <-time.After(describeAfter):
		case <-s.ctx.Done():
			return
		}
		if p.ended() {
			return
		}
		if err := s.launcher.describe(s.ctx, rec, "girder-worker job "+d.Job()); err != nil {
			s.logger.Debug("Cannot describe a runner", "attempt", d.ID(), "error", err)
		}
	})
}

// spawn executes a runner that waits for an attempt on its socket: one that first waits
// for the request of a container to have ready, or one with a scratch disk.
func (s *runners) spawn(ctx context.Context, container bool) (_ *warmRunner, err error) {
	ours, theirs, err := attempt.WarmPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	var args []string
	s.mu.Lock()
	s.next++
	name := strconv.FormatInt(s.begun, 36) + "-" + strconv.Itoa(s.next)
	if container {
		args = []string{"--ahead"}
	} else if s.disk > 0 {
		args = []string{"--scratch", strconv.FormatInt(s.disk, 10), "--cache", s.layout.cache(), "--work", s.layout.work()}
	}
	s.mu.Unlock()
	rec := s.launcher.named(name)
	p, err := s.launcher.spawn(ctx, rec, args, theirs)
	if err != nil {
		ours.Close()
		return nil, err
	}
	rec.PID, rec.Start = p.pid, p.start
	return &warmRunner{p, name, rec, ours}, nil
}

// runnerEnvironment is all that a runner inherits.
func runnerEnvironment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"JOURNAL_STREAM", "TZ", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// endPatience is how long a runner that is not needed has to end by itself.
const endPatience = 2 * time.Second

// discard ends a runner that has no attempt.
func (s *runners) discard(w *warmRunner) {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	w.socket.Close()
	patience, over := context.WithTimeout(ctx, endPatience)
	err := w.wait(patience)
	over()
	if err != nil {
		if err = w.kill(); err == nil {
			err = w.wait(ctx)
		}
	}
	w.close()
	if err = errors.Join(err, s.launcher.end(ctx, w.record)); err != nil {
		s.logger.Error("Cannot end a runner that was kept ready", "pid", w.pid, "error", err)
	}
}

// of is what is known of an attempt's runner, by its record or by how older releases
// called it.
func (s *runners) of(d attempt.Dir) (record, error) {
	rec, err := readRecord(d)
	if err != nil {
		return record{}, fmt.Errorf("cannot find the runner of %s: %w", d.ID(), err)
	}
	if rec.Unit == "" {
		rec.Unit = s.launcher.older(d)
	}
	return rec, nil
}

// close ends the warm runner, and waits for it. Those with an attempt live on.
func (s *runners) close() {
	s.stop()
	s.mu.Lock()
	s.closed = true
	w := s.warm
	s.warm = nil
	s.mu.Unlock()
	s.wg.Wait()
	if w != nil {
		s.discard(w)
	}
	s.launcher.close()
}
