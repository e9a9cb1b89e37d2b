package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// What is done after the exit: uploads, and the removal of volumes outside the
// work directory. The container is gone by then, so nothing changes any more
// what it left; it is read by a transfer process of its own, the same whether
// this runner ran the container or one before it.

// removePatience is how long the removal of a volume may take.
const removePatience = time.Minute

// leftover is what remains to be done after the exit, or nil.
func (a *attemptRun) leftover(exit *attempt.Exit) *attempt.Finish {
	if a.request == nil {
		return nil
	}
	f := &attempt.Finish{Hook: len(a.request.Plan.Hooks), Volumes: a.made}
	if a.ran && len(hooksFor(a.request.Plan.Hooks, exit)) > 0 {
		f.Hook = 0
	}
	if f.Hook == len(a.request.Plan.Hooks) && len(f.Volumes) == 0 {
		return nil
	}
	return f
}

// hooksFor are the hooks that an exit calls for: all after success, those that
// say so after a failure, and none where somebody wants the attempt to end.
func hooksFor(hooks []transforms.Hook, exit *attempt.Exit) []transforms.Hook {
	switch {
	case exit.Outcome == attempt.OutcomeExited && exit.Code == 0:
		return hooks
	case exit.Outcome == attempt.OutcomeCanceled || exit.Outcome == attempt.OutcomeInterrupted:
		return nil
	}
	var some []transforms.Hook
	for _, h := range hooks {
		if h.OnException {
			some = append(some, h)
		}
	}
	return some
}

// finishAttempt goes on where a runner before this one was when it died.
func finishAttempt(dir attempt.Dir, gid int, stop *stopper, logger *slog.Logger) error {
	events, err := dir.CreateEvents(gid)
	if err != nil {
		return err
	}
	defer events.Close()
	exit, err := dir.ReadExit()
	if err != nil {
		return err
	}
	if err := dir.SyncExit(); err != nil {
		return err
	}
	left, err := dir.ReadFinish()
	if err != nil {
		return err
	}
	a := &attemptRun{dir: dir, gid: gid, events: events, stop: stop, logger: logger}
	defer a.cleanUp()
	if a.request, err = dir.ReadRequest(); err != nil {
		return err
	}
	if a.secrets, err = dir.ReadSecrets(); err != nil {
		return err
	}
	if err := a.reopenSpace(); err != nil {
		// The uploads say what is missing.
		logger.Error("What the container wrote is out of reach", "error", err)
	}
	return a.conclude(&exit, &left)
}

// cleanUpAbandoned removes the volumes of an attempt that was lost with its
// runner, and leaves it lost.
func cleanUpAbandoned(dir attempt.Dir, gid int, stop *stopper, logger *slog.Logger) error {
	events, err := dir.CreateEvents(gid)
	if err != nil {
		return err
	}
	defer events.Close()
	left, err := dir.ReadFinish()
	if err != nil {
		return err
	}
	a := &attemptRun{dir: dir, gid: gid, events: events, stop: stop, logger: logger}
	if a.request, err = dir.ReadRequest(); err != nil {
		return err
	}
	if err := a.removeVolumes(left.Volumes); err != nil {
		a.note(err.Error())
	}
	return dir.RemoveFinish()
}

// conclude does what is left to be done after the exit, and tells Done. When the
// machine goes down first, it is left to the next runner.
func (a *attemptRun) conclude(exit *attempt.Exit, left *attempt.Finish) (err error) {
	done := attempt.Done{}
	if left != nil {
		if a.container != nil {
			// Uploads may take days.
			if err := a.container.Destroy(); err != nil {
				a.logger.Error("Cannot unmount the container's files; trying again at the end", "error", err)
			}
		}
		func() {
			defer func() {
				if p := recover(); p != nil {
					a.logger.Error("Internal error", "panic", p)
					left.Error = fmt.Sprintf("internal error of girder-worker, please report it: %v", p)
				}
			}()
			err = a.finishUp(exit, left)
		}()
		if err != nil {
			a.keepWork = true
			if errors.Is(err, errNotYet) {
				return nil
			}
			return err
		}
		done.Error = left.Error
	}
	// Before Done: who reads that may look for them.
	if err := a.dir.RemoveSecrets(); err != nil {
		a.logger.Error("Secrets are left", "error", err)
	}
	a.tell(attempt.Event{Done: &done})
	if left == nil {
		return nil
	}
	if err := a.events.Sync(); err != nil {
		a.logger.Warn("Cannot sync the events", "error", err)
	}
	return a.dir.RemoveFinish()
}

// errNotYet: another attempt's uploads are at turn.
var errNotYet = errors.New("the uploads go on when it is their turn")

// errToBeResumed: the work after the exit is not done, and nobody gave it up.
var errToBeResumed = errors.New("the machine or the service is shutting down; the uploads go on afterwards")

func (a *attemptRun) finishUp(exit *attempt.Exit, left *attempt.Finish) error {
	a.tell(attempt.Event{Stage: stageFinishing})
	a.tell(attempt.Event{Exited: &attempt.Exited{}})
	hooks := a.request.Plan.Hooks
	due := map[string]bool{}
	for _, h := range hooksFor(hooks, exit) {
		due[h.Name] = true
	}
	ctx := a.endOfWork()
	if left.Hook < len(hooks) {
		err := a.runHooks(ctx, left, due)
		var reason *stopReason
		switch {
		case errors.As(context.Cause(ctx), &reason) && reason.outcome == attempt.OutcomeInterrupted:
			return errToBeResumed
		case errors.Is(err, errNotYet) && reason == nil:
			left.Turns++
			if err := a.dir.WriteFinish(*left); err != nil {
				// The file as it is leads to the same work.
				a.logger.Warn("Cannot note a turn; the uploads go on later all the same", "error", err)
			}
			return errNotYet
		case reason != nil:
			left.Error = reason.text + " (before everything was uploaded)"
		case err != nil && left.Error == "":
			left.Error = err.Error()
		}
		if left.Hook < len(hooks) {
			left.Hook = len(hooks)
			if err := a.dir.WriteFinish(*left); err != nil {
				a.logger.Warn("Cannot note that nothing more is uploaded; it is told with the end", "error", err)
			}
		}
	}
	if len(left.Volumes) > 0 {
		if err := a.removeVolumes(left.Volumes); err != nil {
			a.note(err.Error())
		}
	}
	return nil
}

// endOfWork is a context that ends when somebody wants this process to end. A
// limit on the container's time is none on the uploads.
func (a *attemptRun) endOfWork() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	a.stop.each(func(r *stopReason) {
		if r.outcome == attempt.OutcomeCanceled || r.outcome == attempt.OutcomeInterrupted {
			cancel(r)
		}
	})
	return ctx
}

// resumeTransfer starts a process that knows the volumes in directories of the
// submitter, and with all the other places and the servers.
func (a *attemptRun) resumeTransfer(ctx context.Context, made []attempt.HostVolume, all bool) error {
	if err := a.newTransfer(); err != nil {
		return err
	}
	for i := range made {
		if made[i].Ino == 0 {
			continue
		}
		if err := a.transfer.tell(ctx, message{Op: opFound, Made: &made[i]}, nil); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	if err := a.addServers(ctx, a.patience()); err != nil {
		return err
	}
	for _, v := range a.request.Plan.Volumes {
		if v.HostDir != "" {
			continue
		}
		f, err := a.handVolume(ctx, v)
		if err != nil {
			return err
		}
		f.Close()
	}
	for _, b := range a.request.Plan.Binds {
		if b.Name == "" {
			continue
		}
		f, err := a.transfer.openBind(ctx, b)
		if err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

func (a *attemptRun) endTransfer() {
	if a.transfer != nil {
		a.transfer.end()
		a.transfer = nil
	}
}

// turnPatience is how long a runner waits for a server that is out of reach
// before it makes room.
const turnPatience = time.Minute

// patience is how long this runner waits for a server with its uploads.
func (a *attemptRun) patience() time.Duration {
	return min(cmp.Or(a.request.Limits.Turn, turnPatience), max(a.outage()-a.waited, time.Second))
}

// takeTurn tells whether it is this attempt's turn to upload.
func (a *attemptRun) takeTurn() bool {
	if a.turn != nil {
		return true
	}
	var err error
	if a.turn, err = attempt.TakeTurn(filepath.Dir(filepath.Dir(a.request.Grant.WorkDir)), a.request.Identity.TurnOwner()); err != nil {
		a.logger.Error("Uploading without a turn", "error", err)
		return true
	}
	if a.turn == nil {
		a.doing("waiting for the uploads of other jobs")
	}
	return a.turn != nil
}

// transferTries is how many transfer processes may die over one hook.
const transferTries = 10

// runHooks runs the hooks that are due, in their order, each until it is over.
// The first that fails is what is told; the others run all the same, as what
// they upload may be what somebody waits for.
func (a *attemptRun) runHooks(ctx context.Context, left *attempt.Finish, due map[string]bool) error {
	defer a.endTransfer()
	a.waited = left.Waited
	deaths := 0
	for hooks := a.request.Plan.Hooks; left.Hook < len(hooks); {
		h := hooks[left.Hook]
		var err error
		if due[h.Name] && ctx.Err() == nil {
			if !a.takeTurn() {
				return errNotYet
			}
			err = a.runHook(ctx, left, &h)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var away *awayError
		if errors.As(err, &away) {
			if waited := left.Waited + a.patience(); waited < a.outage() {
				left.Waited = waited
				return errNotYet
			}
		}
		if errors.Is(err, errEndedEarly) {
			a.endTransfer()
			if deaths++; deaths < transferTries {
				continue
			}
		}
		deaths = 0
		if err != nil {
			a.note(err.Error())
			if left.Error == "" {
				left.Error = err.Error()
			}
		}
		left.Hook++
		left.State, left.Waited = nil, 0
		if err := a.dir.WriteFinish(*left); err != nil {
			return err
		}
	}
	return nil
}

func (a *attemptRun) runHook(ctx context.Context, left *attempt.Finish, h *transforms.Hook) error {
	if a.transfer == nil {
		if err := a.resumeTransfer(ctx, left.Volumes, true); err != nil {
			a.endTransfer()
			return err
		}
		a.transfer.onCommit = func(state []byte) error {
			left.State, left.Waited = append([]byte(nil), state...), 0
			return a.dir.WriteFinish(*left)
		}
	}
	return a.transfer.tell(ctx, message{Op: opHook, Hook: h, State: left.State}, nil)
}

func (a *attemptRun) removeVolumes(made []attempt.HostVolume) error {
	ctx, cancel := context.WithTimeout(context.Background(), removePatience)
	defer cancel()
	defer a.endTransfer()
	if err := a.resumeTransfer(ctx, made, false); err != nil {
		return err
	}
	var failed error
	for i := range made {
		failed = errors.Join(failed, a.transfer.tell(ctx, message{Op: opRemove, Made: &made[i]}, nil))
	}
	return failed
}
