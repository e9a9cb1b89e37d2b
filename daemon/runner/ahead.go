package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// Most of what a short function costs is the start of its container and of its
// interpreter. Where a call is likely to be followed by another of the same caller, the
// monitor has a warm runner do that before there is an attempt: the container runs, its
// interpreter has imported the function's module, and waits for one call. It is used
// for one, as any container, and is then gone; what it may and whose it is was settled
// when it was made, and it is used only for an attempt to which the very same was granted.

// maxAhead bounds the request that a container is made by.
const maxAhead = 8 << 20

// receiveAhead waits for the request of a container and makes it; nil is none.
func receiveAhead(socket *os.File, init string, stop *stopper, logger *slog.Logger) *attemptRun {
	f, err := attempt.ReceiveAhead(socket)
	if err != nil {
		return nil // which it is for the attempt's, too
	}
	defer f.Close()
	ready, err := prepareAhead(f, init, stop, logger)
	if err != nil && stop.ctx.Err() == nil {
		logger.Warn("Cannot have a container ready; the next attempt starts slower", "error", err)
	}
	return ready
}

// prepareAhead makes the container that the request in f describes.
func prepareAhead(f *os.File, init string, stop *stopper, logger *slog.Logger) (*attemptRun, error) {
	data, err := io.ReadAll(io.NewSectionReader(f, 0, maxAhead))
	if err != nil {
		return nil, fmt.Errorf("cannot read what container to make: %w", err)
	}
	r := new(attempt.Request)
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("cannot understand what container to make: %w", err)
	}
	if _, ok := r.Ahead(); !ok {
		return nil, errors.New("cannot make a container ahead of its attempt: each needs something of its own")
	}
	a := &attemptRun{init: init, stop: stop, logger: logger, request: r, work: r.Grant.WorkDir}
	spec, err := a.prepare(stop.ctx)
	if err == nil {
		err = a.launch(stop.ctx, spec)
	}
	closeFiles(spec)
	if err != nil {
		a.discard()
		return nil, err
	}
	a.stopSignal = stopSignalOf(spec)
	return a, nil
}

// watch calls ended when a container ends that waits for its attempt. The caller stops
// that before anything else waits for the container; nil is none.
func (a *attemptRun) watch(ended func()) (stop func()) {
	if a == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if _, err := a.container.Wait(ctx); ctx.Err() == nil {
			if err != nil {
				a.logger.Warn("Cannot watch the container that waits", "error", err)
			}
			ended()
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

// discard ends a container that has no attempt.
func (a *attemptRun) discard() {
	a.killContainer()
	a.cleanUp()
}

// takeOver has the attempt go on with a container that waits for such a one. It returns
// false where there is none, or none that will do.
func (a *attemptRun) takeOver() bool {
	w := a.ready
	a.ready = nil
	if w == nil {
		return false
	}
	r := a.request
	if !w.request.Same(r) || path.Base(r.Grant.Cgroup) != path.Base(w.request.Grant.Cgroup) || r.Grant.Ahead != w.work || w.container.PID() == 0 || isDead(w.container.PID()) {
		w.discard()
		return false
	}
	a.work, a.output, a.late, a.pipes, a.disk = w.work, w.output, w.late, w.pipes, w.disk
	a.network, a.container, a.call, a.ends, a.stopSignal = w.network, w.container, w.call, w.ends, w.stopSignal
	a.output.log = a.log
	for _, text := range w.untold {
		a.note(text)
	}
	a.began = time.Now()
	return true
}

// isDead tells whether a child that was not waited for has ended.
func isDead(pid int) bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || info.Signo != 0
}
