// Package runner carries out one attempt of a job, from its request to its
// exit.json, in a process of its own that outlives the daemon. It decides
// nothing: what to run was decided by the front and granted by the monitor, and
// stands in the attempt's directory.
//
// The process is root, because it makes a container. What needs no privilege is
// done by [TransferMain], a second process with the submitter's identity, which
// opens the submitter's files and moves the data of the streams. It is there
// only when there is something to move.
//
// # Life
//
//	lock ─ request ─ space for exit.json ─ "preparing"
//	  transfer opens files ─ named pipes ─ container ─ "running"
//	    output to log; the first of: its end, cancel, limit, SIGTERM
//	  cgroup empty, or what is in it killed ─ "finishing" ─ streams drained and synced, log synced
//	exit.json ─ uploads, where there are any
//	Done ─ work directory removed
//
// A runner that is started for an attempt which has its exit.json begins at the
// uploads, where finish.json says that they are (finish.go). It uploads only in
// its turn, of which a machine has a few, and ends when there is none or when
// Girder is out of reach: the monitor starts another when there is a turn again.
//
// # Goroutines
//
//	main        the life above; waits for all others
//	wait        parked on the container's pidfd
//	output      parked on both output pipes (output.go)
//	cancels     parked on the attempt's directory; one more for signals (stop.go)
//	transfer    reads what the transfer process says; one with a thread of its
//	            own starts it and waits for its end (transfer.go)
//
// None but the last holds a thread while it waits.
package runner

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/image"
	"girderworker/sandbox/runc"
	"girderworker/transforms"
)

// Command, TransferCommand and NetworkCommand are the hidden sub-commands under
// which the binary must call [Main], [TransferMain] and [NetworkMain].
const (
	Command         = runc.RunnerCommand
	TransferCommand = runc.TransferCommand
	NetworkCommand  = runc.NetworkCommand
)

// Process runs the process of an attempt that a program's arguments name, unless
// they name none of them.
func Process(args []string) (code int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	switch args[0] {
	case Command:
		return Main(args[1:]), true
	case TransferCommand:
		return TransferMain(args[1:]), true
	case NetworkCommand:
		return NetworkMain(args[1:]), true
	}
	return 0, false
}

// Main is the sub-command "runner", with its arguments. It has two forms:
//
//	--directory DIR   run the attempt of that directory
//	--warm-fd N       get ready, and wait on the socket N for an attempt
//	                  (see [attempt.ReceiveStart]) or for its end; with
//	                  --scratch, --cache and --work it has a scratch disk ready,
//	                  with --ahead the container of a function's next call (ahead.go),
//	                  whose request comes first (see [attempt.ReceiveAhead]), and with
//	                  --cgroup it has left that cgroup to the container
//
// With --init PROGRAM that is the init of a container which is to have one; else
// it is this program, which must be in a file then.
//
// The exit code is 0 when exit.json tells how the attempt ended, however that
// was, and when a warm runner was not needed.
func Main(args []string) int {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", Command)
	// The main goroutine is bound to the main thread (sandbox/runc), and each time
	// that a bound one waits or goes on costs a switch between threads.
	ended := make(chan error)
	go func() { ended <- run(args, logger) }()
	if err := <-ended; err != nil {
		logger.Error("Cannot run the attempt", "error", err)
		return 1
	}
	return 0
}

func run(args []string, logger *slog.Logger) error {
	flags := flag.NewFlagSet(Command, flag.ContinueOnError)
	directory := flags.String("directory", "", "run the attempt of this directory")
	warmFD := flags.Int("warm-fd", -1, "wait on this socket for an attempt")
	init := flags.String("init", "", "the program that is a container's init")
	container := flags.Bool("ahead", false, "have a container ready for the request that comes first")
	above := flags.String("cgroup", "", "the cgroup below which the container's will be")
	var ahead diskAhead
	flags.StringVar(&ahead.cache, "cache", "", "the directory of caches of that attempt")
	flags.StringVar(&ahead.work, "work", "", "the directory that its work directory will be in")
	flags.Int64Var(&ahead.size, "scratch", 0, "the scratch space, in bytes, to have ready for it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || (*directory == "") == (*warmFD < 0) {
		return errors.New("want either --directory DIR or --warm-fd N")
	}
	if os.Geteuid() != 0 {
		return errors.New("a runner must be root")
	}
	// Named pipes and log are made with exact modes; files of the container's
	// root are the sandbox's.
	unix.Umask(0o022)
	if err := runc.OwnMounts(); err != nil {
		return err
	}
	// A container's start is over in milliseconds on one processor. More would
	// only keep memory for each.
	runtime.GOMAXPROCS(min(2, runtime.NumCPU()))
	hurry()

	// From here on a SIGTERM is an orderly end, whatever the stage.
	stop := newStopper()
	defer stop.close()

	if *directory != "" {
		dir, err := attempt.ParseDir(*directory)
		if err != nil {
			return err
		}
		lock, err := dir.Lock()
		if err != nil {
			return err
		}
		return runAttempt(dir, lock, *init, nil, nil, stop, logger)
	}
	socket, err := attempt.WarmSocket(*warmFD)
	if err == nil && *above != "" {
		err = leaveForContainer(*above)
	}
	if err != nil {
		return err
	}
	ahead.make()
	runc.Ready()
	rehearse()
	giveUp := func() { _ = socket.SetReadDeadline(time.Unix(1, 0)) }
	undo := context.AfterFunc(stop.ctx, giveUp)
	var ready *attemptRun
	if *container {
		ready = receiveAhead(socket, *init, stop, logger)
	}
	// What getting ready has left behind would stay for as long as the wait.
	settled := time.AfterFunc(settleAfter, debug.FreeOSMemory)
	unwatch := ready.watch(giveUp)
	dir, lock, err := attempt.ReceiveStart(socket)
	undo()
	unwatch()
	settled.Stop()
	if err != nil && ready != nil {
		ready.discard()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // there is no attempt, what it was to have is gone, or the machine is shutting down
	}
	if err != nil {
		return err
	}
	socket.Close()
	return runAttempt(dir, lock, *init, &ahead, ready, stop, logger)
}

// rehearse does for nobody what is done for each attempt, as the first time takes
// several times as long: encoding/json looks closely at each type that it meets.
func rehearse() {
	for _, v := range []any{new(attempt.Request), new(image.Image), new(attempt.Event), new(attempt.Exit), new(transforms.Secrets)} {
		data, err := json.Marshal(v)
		if err == nil {
			_ = json.Unmarshal(data, v)
		}
	}
	_, _ = newSpec(&attempt.Request{Plan: transforms.Plan{Args: []string{"true"}}}, &image.Config{})
}

// startMemory is what a runner may have in use before garbage is collected for
// the first time: several times what a start takes.
const startMemory = 32 << 20

// hurry has no time spent on memory that a short attempt gives back by ending.
func hurry() {
	debug.SetMemoryLimit(startMemory)
	debug.SetGCPercent(-1)
}

// settle is for an attempt that turns out to be a long one: from then on this
// process is to be small.
func settle() {
	debug.SetMemoryLimit(math.MaxInt64)
	debug.SetGCPercent(100)
	debug.FreeOSMemory()
}

// answerFirst leaves the processor to whoever waits for what a function returned, before
// what it had is taken apart.
const answerFirst = 5 * time.Millisecond

// runAttempt runs an attempt that is locked, and leaves exit.json.
func runAttempt(dir attempt.Dir, lock *attempt.Lock, init string, ahead *diskAhead, ready *attemptRun, stop *stopper, logger *slog.Logger) error {
	defer lock.Close()
	a := &attemptRun{dir: dir, init: init, ahead: ahead, ready: ready, stop: stop}
	defer func() {
		if a.ready != nil {
			a.ready.discard()
		}
	}()
	defer time.AfterFunc(settleAfter, settle).Stop()
	logger = logger.With("attempt", dir.ID())
	stop.watch(dir)

	gid, err := groupOf(dir.Path())
	if err != nil {
		return err
	}
	if unfinished, err := dir.Unfinished(); err != nil {
		return err
	} else if unfinished {
		return finishAttempt(dir, gid, stop, logger)
	}
	if abandoned, err := dir.Abandoned(); err != nil {
		return err
	} else if abandoned {
		return cleanUpAbandoned(dir, gid, stop, logger)
	}
	exitFile, err := dir.ReserveExit(gid)
	if err != nil {
		return err
	}
	defer func() {
		if err := exitFile.Close(); err != nil {
			logger.Warn("What was reserved for the exit is not given back", "error", err)
		}
	}()
	events, err := dir.CreateEvents(gid)
	if err != nil {
		// Nothing can be told but the end.
		return exitFile.Commit(failure(err))
	}
	defer events.Close()

	a.gid, a.events, a.logger, a.exitFile = gid, events, logger, exitFile
	defer a.cleanUp()
	defer func() {
		if a.call != nil {
			time.Sleep(answerFirst)
		}
	}()
	exit := a.guard(a.run)
	exit.Finished = time.Now()
	left := a.leftover(&exit)
	if left != nil {
		if err := a.syncSpace(); err != nil {
			logger.Error("The job's outputs would not survive a loss of power", "error", err)
		}
		if err := dir.WriteFinish(*left); err != nil {
			// It is what tells another runner. This one can still do the work.
			a.logger.Error("The uploads cannot be resumed if this process dies", "error", err)
		}
	}
	if err := exitFile.Commit(exit); err != nil {
		return err
	}
	a.endTransfer()
	return a.conclude(&exit, left)
}

// failure is the exit of an attempt that could not be carried out.
func failure(err error) attempt.Exit {
	return attempt.Exit{Outcome: attempt.OutcomeError, Code: attempt.CodeError, Error: err.Error()}
}

// guard turns a panic into an exit: an attempt must not be lost to a mistake
// in the program that runs it.
func (a *attemptRun) guard(run func(context.Context) attempt.Exit) (exit attempt.Exit) {
	defer func() {
		if p := recover(); p != nil {
			a.logger.Error("Internal error", "panic", p, "stack", string(debug.Stack()))
			a.killContainer()
			exit = failure(fmt.Errorf("internal error of girder-worker, please report it: %v", p))
		}
	}()
	return run(a.stop.ctx)
}

func groupOf(path string) (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("cannot read the attempt's directory: %w", err)
	}
	return int(st.Gid), nil
}
