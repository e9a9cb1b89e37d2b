// Package cli is the command line: one file a command, the output that people
// and scripts read, and the exit codes. It is the only package that knows every
// process's entry.
//
// Output that was asked for goes to stdout, everything said about it to stderr.
// An error is one line, `girder-worker: cannot VERB: reason; what to do`. Nothing
// is coloured and nothing redrawn where stderr is not a terminal.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/client"
)

// Process is what the command line takes from its process, so that a test can
// be one.
type Process struct {
	Args           []string // without the program's name
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	LookupEnv      func(string) (string, bool)
	// Version and Commit are stamped into the binary.
	Version, Commit string
	// Runner is the program of runners, as a file has it; empty is this one.
	Runner string
}

// The exit codes that are not a job's own.
const (
	exitOK       = 0
	exitTimeout  = 124
	exitError    = 125
	exitCanceled = 130
)

// An exitStatus ends the program with a code and without a message: everything
// was said.
type exitStatus int

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// Main runs the command that p names and returns the program's exit code.
func Main(p Process) int {
	// Before the tree of commands is built: these are started for every attempt.
	if code, ok := runOwnProcess(p); ok {
		return code
	}
	a := &app{Process: p}
	root := a.root()
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	ctx, stop := interruptible(a.leave)
	defer stop()
	return a.exitCode(root.ExecuteContext(ctx))
}

// interruptible is a context that the first SIGINT or SIGTERM ends. The second
// ends the program, whatever it is at, after last has said what there is to say.
func interruptible(last func()) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		cancel()
		<-signals
		said := make(chan struct{})
		go func() {
			defer close(said)
			last()
		}()
		select {
		case <-said:
		case <-signals:
		case <-time.After(time.Second): // a terminal that is stopped
		}
		os.Exit(exitCanceled)
	}()
	return ctx, func() { signal.Stop(signals); cancel() }
}

// exitCode says what went wrong, once, and with which code to end.
func (a *app) exitCode(err error) int {
	var status exitStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		return int(status)
	case errors.Is(err, context.Canceled):
		return exitCanceled
	}
	text := strings.Join(strings.Fields(err.Error()), " ")
	fmt.Fprintln(a.Stderr, "girder-worker:", text)
	return exitError
}

// An app is the state that the commands share.
type app struct {
	Process
	socket string
	json   bool
	// leaving, when set, is said by a program that a second signal ends.
	leaving atomic.Pointer[func() string]
}

func (a *app) leave() {
	if say := a.leaving.Load(); say != nil {
		fmt.Fprintln(a.Stderr, (*say)())
	}
}

func (a *app) client() *client.Client {
	socket := a.socket
	if socket == "" {
		socket, _ = a.LookupEnv("GIRDER_WORKER_SOCKET")
	}
	return client.New(socket, 0)
}

// cannot puts what was tried before why it failed, and leaves the end of the
// program by a signal as it is.
func cannot(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("cannot %s: %w", what, err)
}

// usageError is a command line that makes no sense.
func usageError(cmd *cobra.Command, format string, args ...any) error {
	return fmt.Errorf("%s; see `%s --help`", fmt.Sprintf(format, args...), cmd.CommandPath())
}
