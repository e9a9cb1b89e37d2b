package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
	"girderworker/sandbox/fifo"
	"girderworker/sandbox/gpu"
	"girderworker/sandbox/image"
	"girderworker/sandbox/runc"
	"girderworker/sandbox/scratch"
	"girderworker/transforms"
)

// The stages of an attempt, as events name them.
const (
	stagePreparing = "preparing"
	stageRunning   = "running"
	stageFinishing = "finishing"
)

const (
	// finishGrace is how long streams are still finished once the attempt is to end.
	finishGrace = 10 * time.Second
	// cancelGrace is the same where somebody canceled it, who wants no outputs.
	cancelGrace = 250 * time.Millisecond
	// settleAfter is when a job, or the wait for one, counts as a long one, for
	// which it pays to give back the memory that its start took.
	settleAfter = time.Second
)

// attemptRun is one attempt under way.
type attemptRun struct {
	dir      attempt.Dir
	gid      int
	exitFile *attempt.ExitFile
	events   *attempt.EventWriter
	stop     *stopper
	logger   *slog.Logger

	request   *attempt.Request
	log       *attempt.LogWriter
	output    *output
	transfer  *transfer       // nil where there is nothing to move
	late      *lateTransfer   // nil where there is one from the start
	pipes     *fifo.Dir       // nil where there are none
	disk      *scratch.Disk   // nil where the machine cannot make one
	init      string          // the program of its container's init; empty is this one
	ahead     *diskAhead      // what was ready for an attempt like this
	network   *privateNetwork // nil where it is none
	container sandbox.Container
	copied    chan error // result of output.copy
	call      *call      // nil where no function is called

	stopSignal os.Signal
	ready      *attemptRun   // a container that waits for an attempt like this
	work       string        // its work directory
	untold     []string      // notes from when there was no attempt
	leaving    chan ending   // where its end was not waited for: that nobody does any more
	started    time.Time     // when there was somebody who listens to it
	began      time.Time     // when it was taken over
	before     sandbox.Usage // of its container, until then

	secrets transforms.Secrets
	made    []attempt.HostVolume // in directories of the submitter
	ends    []*os.File           // the container's ends of its standard streams
	ran     bool                 // there was a container
	turn    *os.File             // to upload; nil: not this attempt's yet
	waited  time.Duration        // for Girder, by runners before this one
	// keepWork: another runner will go on with what is in the work directory.
	keepWork bool
}

// run carries the attempt out. When it returns, no process of the container is
// left, or it has been killed after it said that nothing of it will run, and
// everything that counts is on the disk but exit.json.
func (a *attemptRun) run(ctx context.Context) attempt.Exit {
	r, err := a.dir.ReadRequest()
	if err != nil {
		return failure(err)
	}
	a.request = r
	if a.secrets, err = a.dir.ReadSecrets(); err != nil {
		return failure(err)
	}
	a.stop.after(r.Limits.Hard, &stopReason{outcome: attempt.OutcomeTimeout, text: fmt.Sprintf("over its time limit of %v", r.Limits.Hard), grace: -1})
	a.stop.after(r.Limits.Soft, &stopReason{outcome: attempt.OutcomeTimeout, text: fmt.Sprintf("over its soft time limit of %v", r.Limits.Soft)})
	a.log = a.dir.NewLogWriter(r.Resources.Log, r.Grant.GroupID)

	if a.takeOver() {
		a.begin()
		// What its start has cost is not the attempt's.
		a.before, _ = a.container.Usage()
	} else {
		a.tell(attempt.Event{Stage: stagePreparing})
		spec, err := a.prepare(ctx)
		if err == nil {
			err = a.start(ctx, spec)
		}
		closeFiles(spec)
		if err != nil {
			return a.notStarted(err)
		}
		a.stopSignal = stopSignalOf(spec)
	}
	a.ran = true
	a.tell(attempt.Event{Stage: stageRunning, Started: &attempt.Started{PID: a.container.PID()}})
	go a.exitFile.SyncNames() // for which Commit waits
	if len(r.Plan.Hooks) == 0 && len(a.made) == 0 {
		// No other runner will go on with this attempt.
		if err := a.dir.RemoveSecrets(); err != nil {
			a.logger.Warn("Secrets are left until the end", "error", err)
		}
	}
	settled := time.AfterFunc(settleAfter, settle)
	exit, err := a.supervise(a.stopSignal)
	settled.Stop()
	if err != nil {
		return failure(err)
	}
	// What comes later does not change why the container ended.
	reason, _ := a.stop.reason()
	a.tell(attempt.Event{Stage: stageFinishing})
	return a.finish(exit, reason)
}

// prepare makes everything that the container starts with.
func (a *attemptRun) prepare(ctx context.Context) (spec *sandbox.Spec, err error) {
	r := a.request
	// First, because a transfer process is born where this one is.
	if err := leaveForContainer(path.Dir(r.Grant.Cgroup)); err != nil {
		return nil, err
	}
	if err := a.makeSpace(); err != nil {
		return nil, err
	}
	layers, root, config, err := a.root()
	if err != nil {
		return &sandbox.Spec{Mounts: root}, err
	}
	// A bad command must not be found after an hour of fetching.
	if spec, err = newSpec(r, config); err != nil {
		return &sandbox.Spec{Mounts: root}, err
	}
	spec.Mounts = slices.Concat(root, spec.Mounts)
	if needsTransfer(&r.Plan) && !onlyProgress(&r.Plan) {
		mounts, err := a.stage(ctx)
		mounts = slices.Concat(root, mounts)
		if err != nil {
			return &sandbox.Spec{Mounts: mounts}, err
		}
		if spec, err = newSpec(r, config); err != nil { // with what was fetched in its arguments
			return &sandbox.Spec{Mounts: mounts}, err
		}
		spec.Mounts = append(mounts, spec.Mounts...)
		// What is below another mount comes after it.
		slices.SortStableFunc(spec.Mounts, func(a, b sandbox.Mount) int { return strings.Compare(a.Target, b.Target) })
	}
	written := filepath.Join(a.space(), "scratch")
	// Closed, because the files in it have whatever modes the container gives
	// them. The overlay is mounted by this process and needs no more.
	if err := os.Mkdir(written, 0o700); err != nil {
		return spec, fmt.Errorf("cannot make the job's scratch directory: %w", err)
	}
	spec.Rootfs = sandbox.Rootfs{Layers: layers, Scratch: written}
	if r.Plan.OnHost() {
		spec.Rootfs.Mounts, spec.Mounts = rootsOwn(root, spec.Mounts)
	}
	if names := r.Resources.GPUs; len(names) > 0 {
		if err := gpu.Read(r.Grant.GPUs.Dirs, r.Grant.GPUs.Kinds).Apply(spec, names, r.Grant.GPUs.Hooks); err != nil {
			return spec, err
		}
	}
	if a.output, err = newOutput(a.log); err != nil {
		return spec, err
	}
	spec.Stdout, spec.Stderr = a.output.pipes[0].w, a.output.pipes[1].w
	if r.Plan.Python != nil {
		if a.call, err = newCall(r.Plan.Python); err != nil {
			return spec, err
		}
		spec.Stdin = a.call.theirs
	}
	return spec, a.connect(ctx, spec)
}

// root is what the container's root file system is made of, with what is mounted
// on it, and the configuration that goes with it: an image's, or the host's.
func (a *attemptRun) root() (layers []string, mounts []sandbox.Mount, config *image.Config, err error) {
	r := a.request
	if r.Plan.OnHost() {
		layer, mounts, err := a.hostRoot()
		return []string{layer}, mounts, hostConfig(r), err
	}
	img, layers, err := image.Use(r.Grant.ImageDir, r.ImageID)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("cannot use image %s: %w", r.Plan.Image, err)
	}
	return layers, nil, &img.Config, nil
}

// start starts the container and what listens to it.
func (a *attemptRun) start(ctx context.Context, spec *sandbox.Spec) error {
	a.hear()
	if err := a.launch(ctx, spec); err != nil {
		return err
	}
	a.begin()
	return nil
}

// launch starts the container.
func (a *attemptRun) launch(ctx context.Context, spec *sandbox.Spec) error {
	runner, err := runc.New(runc.Options{
		CacheDir: a.request.Grant.CacheDir,
		Cgroup:   path.Dir(a.request.Grant.Cgroup),
		Init:     a.init,
		Logger:   a.logger,
	})
	if err != nil {
		return err
	}
	if spec.Network == sandbox.NetworkPrivate {
		a.network = &privateNetwork{identity: a.request.Identity}
		if rules := a.request.Grant.Network; rules != nil {
			a.network.config.Rules = *rules
		}
		a.network.onLost = a.networkLost
		spec.OnTunnel = func(tun *os.File) error {
			a.network.attach(tun, a.crashed)
			return nil
		}
	}
	if a.container, err = runner.Start(ctx, spec); err != nil {
		return err
	}
	a.output.started()
	a.connected()
	return nil
}

// networkLost ends a container whose network is gone.
func (a *attemptRun) networkLost(text string) {
	a.stop.stop(&stopReason{outcome: attempt.OutcomeError, text: text, grace: -1})
}

// hear listens to the transfer process.
func (a *attemptRun) hear() {
	if a.transfer == nil {
		return
	}
	a.transfer.onActivity = a.output.touch
	a.transfer.onProgress = func(p attempt.Progress) {
		a.output.touch()
		a.tell(attempt.Event{Progress: &p})
	}
	a.transfer.onBroken = func(stream, text string) {
		a.stop.stop(&stopReason{outcome: attempt.OutcomeError, text: fmt.Sprintf("input %s broke off: %s", stream, text), grace: -1})
	}
	a.transfer.onLost = func() {
		if len(a.transfer.streams) == 0 {
			return // it has done all that it was there for
		}
		// The container would wait for ever at pipes that nobody serves.
		a.stop.stop(&stopReason{outcome: attempt.OutcomeInterrupted, text: errEndedEarly.Error(), grace: -1, lost: true})
	}
	a.transfer.listen(a.crashed)
}

// begin has the attempt's container heard and told.
func (a *attemptRun) begin() {
	if a.call != nil {
		a.call.start(a.secrets.Call, a.crashed)
	}
	if a.late != nil {
		a.late.await(a)
	}
	a.started = time.Now()
	a.output.touch()
	a.copied = make(chan error, 1)
	go func() {
		err := errors.New("internal error")
		defer func() { a.copied <- err }()
		defer a.crashed()
		err = a.output.copy()
	}()
	a.stop.whenIdle(a.request.Limits.Idle, a.output.lastOutput)
}

// leaveForContainer moves this process out of the control group below which the
// container's is to be made: in cgroup v2 a group with processes cannot have
// groups with limits below it.
func leaveForContainer(parent string) error {
	if !cgroup.Unified() {
		return nil
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("cannot learn the runner's cgroup: %w", err)
	}
	parent = path.Join("/", parent)
	if own := strings.TrimSpace(strings.TrimPrefix(string(data), "0::")); own != parent {
		return nil
	}
	group, err := cgroup.At(path.Join(parent, "runner"))
	if err == nil {
		err = group.Join(os.Getpid())
	}
	return err
}

// notStarted is the exit of an attempt whose container never ran.
func (a *attemptRun) notStarted(err error) attempt.Exit {
	exit := failure(err)
	reason, _ := a.stop.reason()
	switch {
	case reason != nil:
		exit.Outcome, exit.Error = reason.outcome, reason.text+" (before its container ran)"
		exit.Code, exit.Lost = codeOf(reason.outcome), reason.lost
	case errors.Is(err, errEndedEarly):
		exit.Outcome, exit.Lost = attempt.OutcomeInterrupted, true
	case errors.Is(err, sandbox.ErrNotFound):
		exit.Code = attempt.CodeNotFound
	case errors.Is(err, sandbox.ErrNotExecutable):
		exit.Code = attempt.CodeNotExecutable
	}
	return exit
}

// finish brings to the disk what the container produced, and says how it ended.
func (a *attemptRun) finish(ended sandbox.Exit, reason *stopReason) attempt.Exit {
	if !a.began.IsZero() {
		ended.Started = a.began
		ended.Usage.CPU -= a.before.CPU
		ended.Usage.ReadBytes -= a.before.ReadBytes
		ended.Usage.WriteBytes -= a.before.WriteBytes
	}
	exit := attempt.Exit{Outcome: attempt.OutcomeExited, Code: ended.Code, Container: &ended}
	switch {
	case reason != nil:
		exit.Outcome, exit.Error, exit.Code, exit.Lost = reason.outcome, reason.text, codeOf(reason.outcome), reason.lost
	case ended.OOMKilled:
		exit.Outcome, exit.Code = attempt.OutcomeOOM, attempt.CodeOOM
		exit.Error = fmt.Sprintf("out of memory: the job needed more than its limit of %d MiB", a.request.Resources.Memory>>20)
	case ended.Signal != 0:
		exit.Error = fmt.Sprintf("the job was killed by signal %d (%s)", ended.Signal, unix.SignalName(unix.Signal(ended.Signal)))
	}
	if a.network != nil {
		if text := a.network.end(); text != "" {
			a.note(text)
		}
	}
	if a.call != nil {
		result, err := a.call.end()
		if err == nil {
			err = a.keepResult(&exit, result)
		}
		if err != nil {
			a.note("the function's result is lost: " + err.Error())
		}
	}
	// Streams first: some of them end in the log.
	if a.late != nil {
		exit.Streams = a.late.end(a)
	}
	if a.transfer != nil {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		undo := context.AfterFunc(a.stop.ctx, func() {
			patience := finishGrace
			if reason != nil && reason.outcome == attempt.OutcomeCanceled {
				patience = cancelGrace
			}
			time.Sleep(patience)
			cancel()
		})
		exit.Streams = a.transfer.finish(ctx)
		undo()
		a.judgeStreams(&exit)
	}
	if a.disk != nil && a.disk.Full() {
		a.note(fmt.Sprintf("the job's scratch space of %s was full at its end; resources.scratch gives it more",
			transforms.FormatBytes(a.request.Resources.Scratch)))
	}
	if a.leaving != nil {
		a.output.drain()
	} else {
		a.output.ended()
	}
	if err := <-a.copied; err != nil {
		a.note(err.Error())
	}
	var err error
	if exit.LogBytes, exit.LogDropped, err = a.log.Close(); err != nil {
		a.note(err.Error())
	}
	return exit
}

// keepResult has what a function returned on the disk before exit.json, or within it.
func (a *attemptRun) keepResult(exit *attempt.Exit, result []byte) error {
	switch {
	case len(result) == 0:
		return nil
	case a.request.Grant.ResultInExit && len(result) <= attempt.MaxExitResult:
		exit.Result = result
		return nil
	}
	return a.dir.WriteResult(result, a.request.Grant.GroupID)
}

// judgeStreams makes a failed stream fail an attempt that is well otherwise.
func (a *attemptRun) judgeStreams(exit *attempt.Exit) {
	if a.transfer.lost && exit.Outcome == attempt.OutcomeExited && exit.Code == 0 {
		exit.Outcome, exit.Code, exit.Lost = attempt.OutcomeInterrupted, attempt.CodeError, true
		exit.Error = errEndedEarly.Error()
	}
	for _, s := range exit.Streams {
		switch {
		case s.Error != "" && exit.Outcome == attempt.OutcomeExited && exit.Code == 0:
			exit.Outcome, exit.Code = attempt.OutcomeError, attempt.CodeError
			exit.Error = fmt.Sprintf("stream %s: %s", s.Name, s.Error)
		case s.Error == "" && s.Partial && s.Kind == transforms.StreamInput:
			a.note(fmt.Sprintf("input %s: the container did not read all of it", s.Name))
		}
	}
	exit.Streams = slices.DeleteFunc(exit.Streams, func(s attempt.StreamResult) bool { return s.Name == slicerStream })
	if n := a.transfer.skipped; n > 0 {
		a.note(fmt.Sprintf("progress: %d lines were not progress and were skipped", n))
	}
}

func codeOf(o attempt.Outcome) int {
	switch o {
	case attempt.OutcomeCanceled:
		return attempt.CodeCanceled
	case attempt.OutcomeTimeout:
		return attempt.CodeTimeout
	case attempt.OutcomeOOM:
		return attempt.CodeOOM
	}
	return attempt.CodeError
}

// tell appends an event. One that cannot be written is lost, and nothing else.
func (a *attemptRun) tell(e attempt.Event) {
	if a.events == nil { // there is no attempt yet
		if e.Note != "" {
			a.untold = append(a.untold, e.Note)
		}
		return
	}
	if err := a.events.Append(e); err != nil {
		a.logger.Warn("An event is lost", "error", err)
	}
}

func (a *attemptRun) note(text string) { a.tell(attempt.Event{Note: text}) }

// crashed is deferred by every goroutine of an attempt: its panic ends the
// attempt with an error.
func (a *attemptRun) crashed() {
	if p := recover(); p != nil {
		a.logger.Error("Internal error", "panic", p, "stack", string(debug.Stack()))
		a.stop.stop(&stopReason{outcome: attempt.OutcomeError, text: fmt.Sprintf("internal error of girder-worker, please report it: %v", p), grace: -1})
	}
}

// cleanUp removes everything but the attempt's directory. What it cannot, the
// monitor does when this process has ended.
func (a *attemptRun) cleanUp() {
	if a.network != nil {
		a.network.end()
	}
	if a.late != nil {
		a.late.close()
	}
	if a.transfer != nil {
		a.transfer.end()
	}
	if a.output != nil {
		a.output.close()
	}
	if a.pipes != nil {
		a.pipes.Close()
	}
	if a.call != nil {
		a.call.close()
	}
	a.connected()
	var err error
	if a.leaving != nil {
		err = a.awaitEnd()
	}
	if err == nil && a.container != nil {
		err = a.container.Destroy()
	}
	if err == nil && a.disk != nil {
		err = a.disk.Close()
	}
	if err == nil && a.request != nil && !a.keepWork {
		if err = attempt.RemoveWork(a.workDir()); err == nil && a.work != "" {
			err = attempt.RemoveWork(a.request.Grant.WorkDir) // by which it is known that something is left
		}
	}
	if err != nil {
		a.logger.Error("Cannot clean up", "error", err)
	}
}

// closeFiles drops this process's copies of what a container was started with.
func closeFiles(spec *sandbox.Spec) {
	if spec == nil {
		return
	}
	for _, m := range slices.Concat(spec.Rootfs.Mounts, spec.Mounts) {
		if m.Source != nil {
			m.Source.Close()
		}
	}
	if spec.Stdin != nil {
		spec.Stdin.Close()
	}
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("cannot duplicate a descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
