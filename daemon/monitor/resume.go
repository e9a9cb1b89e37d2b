package monitor

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"girderworker/daemon/attempt"
)

// maxRestarts is how many runners may die over the uploads of one attempt.
const maxRestarts = 10

// errKilled: the attempt was killed while it had no runner.
var errKilled = errors.New("killed")

// goOn starts another runner for an attempt whose exit is recorded and whose
// uploads are not done, or whose runner was lost and has left volumes. It tells
// whether the attempt is still to be kept: also where this monitor ends, and the
// next one goes on.
func (m *Monitor) goOn(l *live) bool {
	m.mu.Lock()
	l.between = true
	m.mu.Unlock()
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Minute) {
		m.mu.Lock()
		killed := l.killed
		m.mu.Unlock()
		unfinished, err := l.dir.Unfinished()
		start := m.inTurn
		if err == nil && !unfinished {
			unfinished, err = l.dir.Abandoned()
			start = m.relaunch
		}
		if err != nil {
			m.logger.Error("Cannot tell whether an attempt is done", "attempt", l.dir.ID(), "error", err)
		}
		if killed || !unfinished {
			return false
		}
		if left, err := l.dir.ReadFinish(); err == nil && left.Turns > l.turns {
			l.turns, l.restarts = left.Turns, 0
		}
		if l.restarts++; l.restarts > maxRestarts {
			m.logger.Error("Giving up what is left of an attempt to do: too many runners died over it", "attempt", l.dir.ID())
			return false
		}
		select {
		case <-time.After(pause):
		case <-l.hurry:
		case <-m.ctx.Done():
			return true
		}
		if err := start(l); err != nil {
			switch {
			case m.ctx.Err() != nil:
				return true
			case errors.Is(err, errKilled):
				return false
			}
			m.logger.Error("Cannot go on with an attempt's uploads; trying again", "attempt", l.dir.ID(), "error", err)
			continue
		}
		m.watch(l)
		return true
	}
}

// turnPoll is how often a turn is looked for.
const turnPoll = 100 * time.Millisecond

// inTurn goes on with the uploads of an attempt when there is a turn for it,
// which its runner then takes: one attempt of an owner after another, in the
// order in which they came.
func (m *Monitor) inTurn(l *live) error {
	r, err := l.dir.ReadRequest()
	if err != nil {
		return m.relaunch(l) // a runner of another release may know it
	}
	owner := r.Identity.TurnOwner()
	turnstile := m.turnstile(owner)
	select {
	case turnstile <- struct{}{}:
	case <-l.hurry:
		return m.relaunch(l)
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
	defer func() { <-turnstile }()
	tick := time.NewTicker(turnPoll)
	defer tick.Stop()
	for {
		turn, err := attempt.TakeTurn(m.options.State, owner)
		if turn != nil {
			turn.Close()
		}
		if turn != nil || err != nil { // its runner says what is wrong, and goes on without a turn
			return m.relaunch(l)
		}
		select {
		case <-tick.C:
		case <-l.hurry:
			return m.relaunch(l)
		case <-m.ctx.Done():
			return m.ctx.Err()
		}
	}
}

// turnstile holds an element while an attempt waits at the head of its owner's.
func (m *Monitor) turnstile(owner string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.turnstiles[owner] == nil {
		m.turnstiles[owner] = make(chan struct{}, 1)
	}
	return m.turnstiles[owner]
}

// relaunch starts a runner for an attempt that has had one.
func (m *Monitor) relaunch(l *live) error {
	rec, err := m.runners.of(l.dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.ctx, killPatience)
	defer cancel()
	// What the last runner left, but for its work directory, goes first.
	if err := m.runners.launcher.end(ctx, rec); err != nil {
		return err
	}
	if err := endCgroup(ctx, l.cgroup); err != nil {
		return err
	}
	if err := unmountBelow(filepath.Join(m.files.work(), l.dir.ID())); err != nil {
		return err
	}
	m.mu.Lock()
	killed := l.killed
	m.mu.Unlock()
	if killed {
		return errKilled
	}
	lock, err := l.dir.Lock()
	if err != nil {
		return err
	}
	m.logger.Debug("Going on with an attempt's uploads", "attempt", l.dir.ID())
	// What is left to do needs no container.
	proc, err := m.runners.start(m.ctx, l.dir, lock, 0, func(string) error { return nil })
	m.mu.Lock()
	l.proc, l.between = proc, err != nil
	m.mu.Unlock()
	return err
}
