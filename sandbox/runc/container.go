//go:build linux && cgo && seccomp

package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
)

// killPatience is how long a process may take to die of SIGKILL. It is long
// because one that waits for a slow disk dies when that answers.
const killPatience = time.Minute

// container is a container from its creation until it is destroyed.
type container struct {
	id     string
	group  cgroup.Group
	made   func() ([]cgroup.Hierarchy, error) // makes the group, once
	warmed chan struct{}                      // closed when that, and the wait for it, are over
	filter *filter
	work   *workspace
	lc     *libcontainer.Container

	// Set when the first process was started.
	process *libcontainer.Process
	pid     int
	pidfd   *os.File
	started time.Time

	mu     sync.Mutex
	reaped bool

	// Wait's own.
	measured bool
	exit     sandbox.Exit
}

// makeGroup makes the group, and the first move into it fast, while other things
// are done. The group comes first, because none can be made during that wait.
func (c *container) makeGroup() {
	c.made, c.warmed = sync.OnceValues(c.group.Make), make(chan struct{})
	go func() {
		defer close(c.warmed)
		if _, err := c.made(); err == nil {
			_ = cgroup.Warm()
		}
	}()
}

// removeGroup removes the group of a container that was never started.
func (c *container) removeGroup() error {
	<-c.warmed
	return c.group.Remove()
}

// PID implements [sandbox.Container].
func (c *container) PID() int { return c.pid }

// Wait implements [sandbox.Container].
func (c *container) Wait(ctx context.Context) (sandbox.Exit, error) {
	if err := c.waitReadable(ctx); err != nil {
		return sandbox.Exit{}, err
	}
	if err := c.reap(); err != nil {
		return sandbox.Exit{}, err
	}
	if !c.measured { // or what was removed would count as nothing
		usage, err := c.group.Usage()
		if err != nil {
			return sandbox.Exit{}, err
		}
		c.exit.Usage = usage
		c.exit.OOMKilled = usage.OOMKills > 0 && c.exit.Code != 0
		c.measured = true
	}
	// The kernel ended whoever shared the process namespace. What might have been put
	// there from outside is killed. The group stays for now: removing it waits for
	// whoever moves a process just then, anywhere on the machine.
	if err := c.group.Kill(ctx); err != nil {
		return sandbox.Exit{}, err
	}
	return c.exit, nil
}

// waitReadable returns when the first process has ended.
func (c *container) waitReadable(ctx context.Context) error {
	c.mu.Lock()
	reaped := c.reaped
	c.mu.Unlock()
	if reaped {
		return nil
	}
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot wait for container %s: %w", c.id, err)
	}
	if err := c.pidfd.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("cannot wait for container %s: %w", c.id, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n == 1
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("cannot wait for container %s any longer: %w", c.id, context.Cause(ctx))
	default:
		return fmt.Errorf("cannot wait for container %s: %w", c.id, err)
	}
}

// reap takes the exit status of the first process, which has ended.
func (c *container) reap() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return nil
	}
	finished := time.Now()
	state, err := c.process.Wait()
	if state == nil {
		return fmt.Errorf("cannot learn how container %s ended: %w", c.id, err)
	}
	c.reaped = true
	c.exit = sandbox.Exit{Started: c.started, Finished: finished}
	switch status := state.Sys().(syscall.WaitStatus); {
	case status.Signaled():
		c.exit.Signal = int(status.Signal())
		c.exit.Code = 128 + c.exit.Signal
	default:
		c.exit.Code = status.ExitStatus()
	}
	return nil
}

// Signal implements [sandbox.Container].
func (c *container) Signal(sig os.Signal) error {
	number, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("cannot send %v to container %s: it is not a signal of this system", sig, c.id)
	}
	if err := c.sendSignal(number); err != nil {
		return fmt.Errorf("cannot send %v to container %s: %w", sig, c.id, err)
	}
	return nil
}

// Ignores implements [sandbox.Container]. What it cannot tell it takes for no.
func (c *container) Ignores(sig os.Signal) bool {
	number, ok := sig.(syscall.Signal)
	if !ok || number == unix.SIGKILL || number == unix.SIGSTOP {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return false
	}
	// The number is the process's for as long as it is not reaped.
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", c.pid))
	if err != nil {
		return false
	}
	for _, task := range tasks {
		if cares(task, number) {
			return false
		}
	}
	return len(tasks) > 0
}

// cares tells whether a thread catches, blocks or waits for a signal. One that
// waits has it unblocked meanwhile, so what it waits in is looked at as well.
func cares(task string, sig syscall.Signal) bool {
	status, err := os.ReadFile(filepath.Join(task, "status"))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH)
	}
	call, err := os.ReadFile(filepath.Join(task, "syscall"))
	if err != nil || strings.HasPrefix(string(call), strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)+" ") {
		return true
	}
	for line := range strings.Lines(string(status)) {
		for _, field := range []string{"SigCgt:", "SigBlk:"} {
			if hex, ok := strings.CutPrefix(line, field); ok {
				mask, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
				if err != nil || mask&(1<<(sig-1)) != 0 {
					return true
				}
			}
		}
	}
	return false
}

// sendSignal goes by descriptor: the process's number may be another's already.
func (c *container) sendSignal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	conn, err := c.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(sent, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return sent
}

// Kill implements [sandbox.Container].
func (c *container) Kill() error {
	// The first process takes its whole process namespace along, at once and
	// without a race against whoever forks.
	if err := c.sendSignal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot kill container %s: %w", c.id, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	return c.group.Kill(ctx)
}

// Usage implements [sandbox.Container].
func (c *container) Usage() (sandbox.Usage, error) { return c.group.Usage() }

// Destroy implements [sandbox.Container].
func (c *container) Destroy() error {
	if err := c.lc.Destroy(); err != nil {
		return fmt.Errorf("cannot destroy container %s: %w", c.id, err)
	}
	if err := c.group.Remove(); err != nil {
		return err
	}
	if c.pidfd != nil {
		_ = c.pidfd.Close()
	}
	return c.work.remove()
}

// killUntil kills whatever the container has, again and again, because
// libcontainer may be about to start it.
func (c *container) killUntil(done <-chan struct{}) {
	const pause = 10 * time.Millisecond
	for {
		ctx, cancel := context.WithTimeout(context.Background(), pause)
		_ = c.group.Kill(ctx)
		cancel()
		select {
		case <-done:
			return
		case <-time.After(pause):
		}
	}
}

// abandon removes a container whose start failed.
func (c *container) abandon() error {
	ctx, cancel := context.WithTimeout(context.Background(), killPatience)
	defer cancel()
	err := c.group.Kill(ctx)
	if c.process != nil {
		_, waitErr := c.process.Wait()
		if _, ok := errors.AsType[*exec.ExitError](waitErr); !ok {
			err = errors.Join(err, waitErr)
		}
	}
	return errors.Join(err, c.Destroy())
}
