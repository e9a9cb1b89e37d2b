package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/monitor"
	"girderworker/queue"
	"girderworker/transforms"
)

// running is an attempt that a goroutine of the front sees through to its end.
type running struct {
	name  monitor.Attempt
	grace time.Duration // of the container after its stop signal
	// delays: it is starting, waits for nobody, and takes something from other starts.
	// The queue asks for it, and must not wait for mu.
	delays atomic.Bool
	start  func() time.Time // what recordStart returned, or nil; only its follower's

	mu       sync.Mutex
	imageID  string
	function bool // it has no image, and a result
	starting bool // claimed, and its runner not yet started
	// abort ends the pull of its image, while there is one.
	abort    context.CancelFunc
	canceled bool // the runner was told
	stage    string
	progress *apitype.Progress
	process  int      // the container's first, on the host; 0: not yet
	notes    []string // what the attempt wants a person to know, see addNote
}

// attempts are all running ones, by job.
type attempts struct {
	ctx  context.Context
	work *sync.WaitGroup

	mu    sync.Mutex
	byJob map[string]*running
}

func (a *attempts) init(ctx context.Context, work *sync.WaitGroup) {
	a.ctx, a.work, a.byJob = ctx, work, map[string]*running{}
}

// begin runs see in a goroutine of the attempt's own; know, where it is not nil,
// completes what is known of the attempt before.
func (a *attempts) begin(job *queue.Job, know func(*running), see func(context.Context, *queue.Job, *running)) {
	r := &running{
		name:     monitor.Attempt{Job: job.ID, Attempt: job.Attempt},
		starting: true,
		stage:    string(queue.Preparing),
	}
	r.delays.Store(true)
	if know != nil {
		know(r)
	}
	a.mu.Lock()
	a.byJob[job.ID] = r
	a.mu.Unlock()
	a.work.Go(func() {
		defer func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			// The job's next attempt may have begun since this one was recorded.
			if a.byJob[job.ID] == r {
				delete(a.byJob, job.ID)
			}
		}()
		see(a.ctx, job, r)
	})
}

// of is an attempt that is known to live; nil is none. The one before it may still be
// known when the queue has claimed the job again.
func (a *attempts) of(job string, attempt int) *running {
	a.mu.Lock()
	defer a.mu.Unlock()
	if r := a.byJob[job]; r != nil && r.name.Attempt == attempt {
		return r
	}
	return nil
}

func (a *attempts) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.byJob)
}

func (a *attempts) all() []*running {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*running, 0, len(a.byJob))
	for _, r := range a.byJob {
		all = append(all, r)
	}
	return all
}

func (a *attempts) starting() (n int) {
	for _, r := range a.all() {
		if r.delays.Load() {
			n++
		}
	}
	return n
}

// started notes that the runner lives, or that there will be none.
func (f *front) started(r *running) {
	r.mu.Lock()
	r.starting = false
	r.mu.Unlock()
	r.delays.Store(false)
	f.lookAgain()
}

// runAttempt sees a claimed job's attempt through.
func (f *front) runAttempt(ctx context.Context, job *queue.Job, r *running) {
	if f.stoppedInGirder(ctx, job) {
		f.started(r)
		f.finish(ctx, r.name, &queue.Result{
			Outcome: string(attempt.OutcomeCanceled), Code: attempt.CodeCanceled, Error: "its job had ended in Girder before it began",
		}, "", time.Now())
		return
	}
	file, err := transforms.ParseJobFile(job.Body)
	if err != nil {
		err = fmt.Errorf("cannot read the job's document: %w", err)
	} else {
		err = f.pullFor(ctx, job, file, r)
	}
	var req *attempt.Request
	var res transforms.Resources
	if err == nil {
		req, res, err = f.prepare(job, file, r)
	}
	var devices []string
	if err == nil {
		devices, err = f.awaitGPUs(ctx, job, r, res)
	}
	if errors.Is(err, errPullCanceled) || errors.Is(err, errCanceled) {
		text := err.Error()
		if errors.Is(err, errCanceled) {
			text = "canceled while it waited for a GPU"
		}
		f.started(r)
		f.finish(ctx, r.name, &queue.Result{Outcome: string(attempt.OutcomeCanceled), Code: attempt.CodeCanceled, Error: text}, "", time.Now())
		return
	}
	defer f.freeGPUs(r.name)
	if err == nil {
		req.Resources.GPUs = devices
		var secrets transforms.Secrets
		secrets, err = f.secrets(ctx, job.ID)
		if p := req.Plan.Python; err == nil && p != nil {
			if err = f.imports.check(ctx, p.Interpreter); err == nil {
				err = f.completeCall(job, p, &secrets)
			}
		}
		if err == nil {
			err = f.monitor.Start(ctx, *req, secrets)
		}
	}
	f.started(r)
	switch {
	case ctx.Err() != nil, errors.Is(err, monitor.ErrGone):
		return // the next front finds out what became of it
	case errors.Is(err, monitor.ErrNoSpace):
		// It has not begun, and the next job would fare no better.
		f.logger.Error("Cannot start an attempt: there is no room; starting none for a while", "attempt", r.name, "for", fullDiskPause, "error", err)
		f.restFor(fullDiskPause)
		f.interrupt(ctx, r.name, err.Error())
		return
	case err != nil:
		f.logger.Warn("Cannot start an attempt", "attempt", r.name, "error", err)
		if errors.Is(err, monitor.ErrRefused) {
			f.events.Refused(string(job.Source))
		}
		f.finish(ctx, r.name, failure(err.Error()), "", time.Now())
		return
	}
	f.follow(ctx, r)
}

// follow reads what the runner tells until it has ended, and records the end.
func (f *front) follow(ctx context.Context, r *running) {
	dir, err := attempt.NewDir(f.config.Load().StateDir, r.name.Job, r.name.Attempt)
	if err != nil {
		f.fail(err) // it was started under that name
		return
	}
	defer f.settled.Reset(settleAfter)
	// The runner's end ends the reading, too: after it nothing more is told.
	told, stop := context.WithCancel(ctx)
	defer stop()
	ended := f.monitor.Ended(r.name)
	defer context.AfterFunc(ended, stop)()
	f.cancelIfAsked(ctx, r)

	done, err := f.readEvents(told, dir, r)
	if err != nil && told.Err() == nil {
		// Its exit is what counts, and that can be waited for without events.
		f.logger.Error("Cannot follow an attempt; waiting for its end", "attempt", r.name, "error", err)
	}
	if done == nil {
		select {
		case <-ended.Done():
			// What the runner wrote last may not have been read.
			done, _ = f.readEvents(contextDone(), dir, r)
		case <-ctx.Done():
			r.untoldStart()
			return // it lives on
		}
	}
	f.conclude(ctx, dir, r, done)
}

// readEvents applies the events of an attempt until its last one, which it
// returns, or ctx ends.
func (f *front) readEvents(ctx context.Context, dir attempt.Dir, r *running) (*attempt.Done, error) {
	events, err := dir.Events(0)
	if err != nil {
		return nil, err
	}
	defer events.Close()
	for e, err := range events.Follow(ctx, f.watcher) {
		if err != nil {
			return nil, err
		}
		if e.Started != nil && r.start == nil && !f.pastStart(r) {
			r.start = f.recordStart(r.name, e.Time)
		}
		if e.Note != "" {
			f.logger.Info("Noted by an attempt", "attempt", r.name, "note", e.Note)
		}
		if e.Exited != nil {
			f.exited(ctx, dir, r)
		}
		r.mu.Lock()
		if e.Started != nil {
			r.process = e.Started.PID
		}
		r.addNote(e.Note)
		if e.Stage != "" {
			r.stage = e.Stage
		}
		if e.Doing != "" {
			r.stage = e.Doing
		}
		if p := e.Progress; p != nil {
			r.progress = &apitype.Progress{Total: p.Total, Current: p.Current, Message: p.Message}
		}
		r.mu.Unlock()
		if e.Stage == stageFinishing {
			f.freeGPUs(r.name) // its container has ended
		}
		if e.Done != nil {
			return e.Done, nil
		}
	}
	return nil, nil
}

// startTime is how long the record of a start waits for the end of the job: if it is a
// short one they share a commit.
const startTime = 20 * time.Millisecond

// recordStart records the start of an attempt in a moment. untold, called once, ends
// that: it returns when the attempt was started, unless that is on record.
func (f *front) recordStart(a monitor.Attempt, at time.Time) (untold func() time.Time) {
	done := make(chan struct{})
	timer := time.AfterFunc(startTime, func() {
		defer close(done)
		f.record(f.attempts.ctx, "record the start of", a, func(ctx context.Context) error {
			return f.store.Started(ctx, a.Job, a.Attempt, at)
		})
	})
	return func() time.Time {
		if timer.Stop() {
			return at
		}
		<-done
		return time.Time{}
	}
}

// untoldStart is when the attempt was started if that is to be recorded with its end.
func (r *running) untoldStart() (at time.Time) {
	if r.start != nil {
		at = r.start()
		r.start = nil
	}
	return at
}

// pastStart tells whether a start that is read is known: a front that comes back
// reads all events of an attempt whose uploads still go on.
func (f *front) pastStart(r *running) bool {
	job, err := f.store.Job(r.name.Job)
	return err == nil && job.State == queue.Finishing
}

// exited records the end of a container whose outputs are still on their way:
// its slot and its resources are free.
func (f *front) exited(ctx context.Context, dir attempt.Dir, r *running) {
	exit, err := dir.ReadExit()
	if err != nil {
		f.logger.Error("Cannot read how an attempt ended", "attempt", r.name, "error", err)
		return
	}
	f.record(f.attempts.ctx, "record the exit of", r.name, func(ctx context.Context) error {
		return f.store.Exited(ctx, r.name.Job, r.name.Attempt, *r.result(exit), exit.Finished)
	})
	f.cancelIfAsked(ctx, r)
}

// maxLosses is how many attempts of a job may be lost before it is the job that
// is to blame: one that kills its runner each time would never end.
const maxLosses = 10

// conclude records how an attempt ended that will say no more.
func (f *front) conclude(ctx context.Context, dir attempt.Dir, r *running, done *attempt.Done) {
	exit, err := dir.ReadExit()
	if err != nil {
		r.untoldStart()
	} else if done == nil { // nobody has said that it is on the disk
		if err := dir.SyncExit(); err != nil {
			f.logger.Error("A loss of power now may lose how an attempt ended", "attempt", r.name, "error", err)
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.lost(ctx, r, "its runner died")
	case err != nil:
		f.finish(ctx, r.name, failure(err.Error()), "", time.Now())
	case exit.Lost:
		result := r.result(exit)
		if text := f.tooManyLosses(r, exit.Error); text != "" {
			result.Outcome, result.Error = string(attempt.OutcomeError), text
		}
		f.finish(ctx, r.name, result, "", exit.Finished)
	default:
		problem := ""
		if done != nil {
			problem = done.Error
		} else if unfinished, err := dir.Unfinished(); err == nil && unfinished {
			problem = "its outputs were not all uploaded: the processes that should have done it died"
		}
		result := r.result(exit)
		if r.function {
			if again := functionEnd(dir, &exit, result); again != nil {
				f.finishAgain(ctx, r.name, result, *again, exit.Finished)
				return
			}
		}
		f.finish(ctx, r.name, result, problem, exit.Finished)
	}
}

// lost records the end of an attempt whose runner died without a word.
func (f *front) lost(ctx context.Context, r *running, reason string) {
	if text := f.tooManyLosses(r, reason); text != "" {
		f.finish(ctx, r.name, failure(text), "", time.Now())
		return
	}
	f.interrupt(ctx, r.name, reason)
}

// tooManyLosses is what to say of a job that is to blame for the loss of its
// attempts, else nothing.
func (f *front) tooManyLosses(r *running, reason string) string {
	job, err := f.store.Job(r.name.Job)
	if err != nil {
		f.trouble("look at the losses of", r.name, err)
		return ""
	}
	if losses := job.Attempt - job.Failures; losses >= maxLosses {
		return fmt.Sprintf("%s, after %d attempts that were lost", reason, losses-1)
	}
	return ""
}

func (f *front) finish(ctx context.Context, a monitor.Attempt, result *queue.Result, problem string, at time.Time) {
	f.record(ctx, "record the end of", a, func(ctx context.Context) error {
		job, err := f.store.Finish(ctx, a.Job, a.Attempt, result, problem, at)
		if err == nil {
			f.logger.Info("Attempt ended", "attempt", a, "outcome", result.Outcome, "code", result.Code, "job", job.State)
		}
		return err
	})
}

func (f *front) finishAgain(ctx context.Context, a monitor.Attempt, result *queue.Result, delay time.Duration, at time.Time) {
	f.record(ctx, "record the end of", a, func(ctx context.Context) error {
		job, err := f.store.FinishAgain(ctx, a.Job, a.Attempt, result, delay, at)
		if err == nil {
			f.logger.Info("Attempt asks for another one", "attempt", a, "after", delay, "job", job.State)
		}
		return err
	})
}

func (f *front) interrupt(ctx context.Context, a monitor.Attempt, reason string) {
	f.record(ctx, "record the loss of", a, func(ctx context.Context) error {
		job, err := f.store.Interrupt(ctx, a.Job, a.Attempt, reason)
		if err == nil {
			f.logger.Warn("Attempt lost", "attempt", a, "reason", reason, "job", job.State)
		}
		return err
	})
}

// record changes the queue, again and again while the disk is full.
func (f *front) record(ctx context.Context, what string, a monitor.Attempt, change func(context.Context) error) {
	for {
		err := change(ctx)
		if err == nil {
			return
		}
		if !errors.Is(err, queue.ErrNoSpace) {
			f.trouble(what, a, err)
			return
		}
		f.logger.Error("Cannot "+what+" an attempt: the disk is full; trying again", "attempt", a, "after", fullDiskPause, "error", err)
		select {
		case <-time.After(fullDiskPause):
		case <-ctx.Done():
			return // what happened is in the attempt's directory
		}
	}
}

// trouble is for a change of state that the queue did not take. One that it
// refuses for good was made by somebody else; after any other this process
// cannot know where the job stands, and a fresh one must find out.
func (f *front) trouble(what string, a monitor.Attempt, err error) {
	var transition *queue.TransitionError
	switch {
	case errors.As(err, &transition), errors.Is(err, queue.ErrNotFound):
		f.logger.Error("Cannot "+what+" an attempt", "attempt", a, "error", err)
	case errors.Is(err, context.Canceled), errors.Is(err, queue.ErrClosed):
	default:
		f.fail(fmt.Errorf("cannot %s attempt %s: %w", what, a, err))
	}
}

// killMargin is how long a runner may take, beyond its container's grace, to
// obey a cancel before it is ended by force.
const killMargin = 30 * time.Second

// defaultGrace is the runner's own where a plan names none.
const defaultGrace = 10 * time.Second

// cancelIfAsked tells the runner of a cancel that was committed, once.
func (f *front) cancelIfAsked(ctx context.Context, r *running) {
	job, err := f.store.Job(r.name.Job)
	if err != nil {
		f.trouble("look for a cancel of", r.name, err)
		return
	}
	if !job.CancelRequested || job.Attempt != r.name.Attempt {
		return
	}
	if err := f.cancel(ctx, r, job.CancelReason); err != nil {
		f.logger.Warn("Cannot cancel an attempt", "attempt", r.name, "error", err)
	}
}

// cancel hands a cancel to the runner of a started attempt, and sees to it that
// it is obeyed.
func (f *front) cancel(ctx context.Context, r *running, reason string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.starting && r.abort != nil {
		r.abort()
		return nil
	}
	if r.starting || r.canceled {
		return nil // it is looked for once the runner is there
	}
	err := f.monitor.Cancel(ctx, r.name, attempt.Cancel{Outcome: attempt.OutcomeCanceled, Reason: reason})
	if errors.Is(err, monitor.ErrNoAttempt) {
		return nil // it has ended
	}
	if err != nil {
		return err
	}
	r.canceled = true
	grace := r.grace
	if grace == 0 {
		grace = defaultGrace
	}
	time.AfterFunc(grace+killMargin, func() { f.force(r) })
	return nil
}

// force ends a runner that did not obey.
func (f *front) force(r *running) {
	if f.attempts.ctx.Err() != nil || f.attempts.of(r.name.Job, r.name.Attempt) != r {
		return
	}
	f.logger.Error("A runner did not obey its cancel; killing it", "attempt", r.name)
	ctx, cancel := context.WithTimeout(f.attempts.ctx, time.Minute)
	defer cancel()
	if err := f.monitor.Kill(ctx, r.name); err != nil {
		f.logger.Error("Cannot kill a runner", "attempt", r.name, "error", err)
	}
}

// contextDone is over already: what there is is read, and nothing waited for.
func contextDone() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// contextOf ends when ch is closed.
func contextOf(ch <-chan struct{}) context.Context { return channelContext{context.Background(), ch} }

type channelContext struct {
	context.Context
	done <-chan struct{}
}

func (c channelContext) Done() <-chan struct{} { return c.done }

func (c channelContext) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}
