package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// defaultGrace is how long a container has between its stop signal and being
// killed, where the plan says nothing.
const defaultGrace = 10 * time.Second

// A stopReason is why an attempt ends before its container does.
type stopReason struct {
	outcome attempt.Outcome
	text    string
	// grace is how long the container has after its stop signal; negative is
	// not at all, 0 the plan's.
	grace time.Duration
	lost  bool // see [attempt.Exit]
}

func (r *stopReason) Error() string { return r.text }

// A stopper collects the reasons to end an attempt. The first counts; a later
// one can only shorten the grace.
type stopper struct {
	// ctx ends with the first reason, which is its cause. The preparation runs
	// under it.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// changed holds a value when there is a reason that was not looked at.
	changed chan struct{}

	signals chan os.Signal
	wg      sync.WaitGroup
	done    context.CancelFunc
	alive   context.Context

	mu     sync.Mutex
	first  *stopReason
	grace  time.Duration
	timers []*time.Timer
	all    []*stopReason
	told   func(*stopReason) // of each reason; nil: nobody
}

// newStopper begins to catch the machine's orderly shutdown.
func newStopper() *stopper {
	s := &stopper{changed: make(chan struct{}, 1), signals: make(chan os.Signal, 1)}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.alive, s.done = context.WithCancel(context.Background())
	signal.Ignore(unix.SIGHUP)
	signal.Notify(s.signals, unix.SIGTERM, unix.SIGINT)
	s.wg.Go(func() {
		for {
			select {
			case <-s.signals:
				s.stop(&stopReason{outcome: attempt.OutcomeInterrupted, text: "the machine or the service is shutting down"})
			case <-s.alive.Done():
				return
			}
		}
	})
	return s
}

// watch obeys the cancels in an attempt's directory from now on.
func (s *stopper) watch(dir attempt.Dir) {
	s.wg.Go(func() {
		for c := range dir.Cancels(s.alive) {
			text := "canceled"
			if c.Reason != "" {
				text += ": " + c.Reason
			}
			s.stop(&stopReason{outcome: c.Outcome, text: text, grace: c.Grace})
		}
	})
}

// after stops the attempt after a time, unless that is 0.
func (s *stopper) after(limit time.Duration, r *stopReason) {
	if limit <= 0 {
		return
	}
	s.keep(time.AfterFunc(limit, func() { s.stop(r) }))
}

// whenIdle stops the attempt when last lies further back than limit.
func (s *stopper) whenIdle(limit time.Duration, last func() time.Time) {
	if limit <= 0 {
		return
	}
	var timer *time.Timer
	ready := make(chan struct{})
	timer = time.AfterFunc(limit, func() {
		<-ready
		if rest := limit - time.Since(last()); rest > 0 {
			timer.Reset(rest)
			return
		}
		s.stop(&stopReason{outcome: attempt.OutcomeTimeout, text: fmt.Sprintf("no output for %v, its limit", limit)})
	})
	close(ready)
	s.keep(timer)
}

func (s *stopper) keep(t *time.Timer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timers = append(s.timers, t)
}

// stop adds a reason.
func (s *stopper) stop(r *stopReason) {
	s.mu.Lock()
	if s.first == nil {
		s.first, s.grace = r, r.grace
		s.cancel(r)
	} else if r.grace < 0 || s.grace >= 0 && r.grace > 0 && (s.grace == 0 || r.grace < s.grace) {
		s.grace = r.grace
	}
	s.all = append(s.all, r)
	told := s.told
	s.mu.Unlock()
	if told != nil {
		told(r)
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// each has f called with every reason there was and will be.
func (s *stopper) each(f func(*stopReason)) {
	s.mu.Lock()
	s.told = f
	before := s.all
	s.mu.Unlock()
	for _, r := range before {
		f(r)
	}
}

// reason returns the first reason, or nil, and how much grace there is.
func (s *stopper) reason() (r *stopReason, grace time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.grace
}

// close ends what newStopper and watch began, and waits for it.
func (s *stopper) close() {
	signal.Stop(s.signals)
	s.mu.Lock()
	for _, t := range s.timers {
		t.Stop()
	}
	s.mu.Unlock()
	s.done()
	s.cancel(errors.New("the attempt is over"))
	s.wg.Wait()
}
