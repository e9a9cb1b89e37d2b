package runner

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

const (
	// endPatience is how long the end of a killed container is waited for when how
	// the attempt ended is known.
	endPatience = time.Minute
	// leaveMemory is what a container may have had in use at most, in bytes, for its end
	// not to be waited for: the kernel gives back more than that too slowly for a next job
	// which counts on it.
	leaveMemory = 256 << 20
)

// An ending is how a container ended, or why that is not known.
type ending struct {
	exit sandbox.Exit
	err  error
}

// supervise waits for the end of the container, and brings it about when there
// is a reason to.
func (a *attemptRun) supervise(stopSignal os.Signal) (sandbox.Exit, error) {
	ended := make(chan ending, 1)
	ctx, forget := context.WithCancel(context.Background())
	defer forget()
	wait := func() {
		e := ending{err: errors.New("internal error")}
		defer func() { ended <- e }()
		defer a.crashed()
		e.exit, e.err = a.container.Wait(ctx)
	}
	go wait()
	var over <-chan int
	if a.call != nil {
		over = a.call.over
	}
	var asked time.Time // when the stop signal was sent
	kill := time.NewTimer(0)
	if !kill.Stop() {
		<-kill.C
	}
	defer kill.Stop()
	for failures := 0; ; {
		select {
		case e := <-ended:
			if e.err == nil {
				return e.exit, nil
			}
			if failures++; failures == 3 {
				return sandbox.Exit{}, e.err
			}
			a.logger.Error("Cannot wait for the container; trying again", "error", e.err)
			kill.Reset(time.Second)
			go wait()
		case status := <-over:
			if exit, ok := a.leave(status); ok {
				a.leaving = ended
				return exit, nil
			}
		case <-a.stop.changed:
			_, grace := a.stop.reason()
			if grace == 0 {
				grace = a.request.Plan.StopGrace
			}
			if grace == 0 {
				grace = defaultGrace
			}
			if asked.IsZero() {
				asked = time.Now()
				if grace > 0 && a.container.Ignores(stopSignal) {
					// Nothing would be gained by waiting: the kernel gives the first
					// process no signal that it is not prepared for.
					grace = 0
				}
				if grace > 0 {
					if err := a.container.Signal(stopSignal); err != nil {
						a.logger.Warn("Cannot send the stop signal", "error", err)
						grace = 0
					}
				}
			}
			kill.Reset(max(0, time.Until(asked.Add(grace))))
		case <-kill.C:
			if err := a.container.Kill(); err != nil {
				a.logger.Error("Cannot kill the container; trying again", "error", err)
				kill.Reset(time.Second)
			}
		}
	}
}

// leave kills a container whose function has told the status that its process is about
// to exit with, and takes it for ended, so that nobody waits for a kernel that takes an
// interpreter apart. It returns false where the end itself must be waited for.
func (a *attemptRun) leave(status int) (sandbox.Exit, bool) {
	var exit sandbox.Exit
	if reason, _ := a.stop.reason(); reason != nil || !a.mayLeave() {
		return exit, false
	}
	usage, err := a.container.Usage()
	if err == nil && usage.PeakMemory > leaveMemory {
		return exit, false
	}
	if err == nil {
		err = a.container.Signal(unix.SIGKILL)
	}
	if err != nil {
		return exit, false // it has ended, or its end says what is wrong
	}
	exit = sandbox.Exit{Started: a.started, Finished: time.Now(), Code: status, Usage: usage}
	exit.OOMKilled = usage.OOMKills > 0 && status != 0
	return exit, true
}

// mayLeave tells that nothing of the container is still to be moved, and that the next
// job needs nothing that only the end of its last process gives back.
func (a *attemptRun) mayLeave() bool {
	r := a.request
	switch {
	case len(r.Plan.Hooks) > 0, len(a.made) > 0, a.transfer != nil, a.late != nil && !a.late.untouched():
		return false
	case len(r.Resources.GPUs) > 0, r.Plan.Network == sandbox.NetworkHost: // whose ports it may listen on
		return false
	}
	return a.network == nil || a.network.untouched()
}

// awaitEnd waits for a container that was not waited for.
func (a *attemptRun) awaitEnd() error {
	if e := <-a.leaving; e.err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	_, err := a.container.Wait(ctx)
	return err
}

// killContainer ends a container that nobody supervises any more.
func (a *attemptRun) killContainer() {
	if a.container == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), endPatience)
	defer cancel()
	err := a.container.Kill()
	if err == nil && a.leaving == nil { // cleanUp waits for that one
		_, err = a.container.Wait(ctx)
	}
	if err != nil {
		a.logger.Error("Cannot end the container", "error", err)
	}
}
