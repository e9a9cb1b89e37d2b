package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process is a runner's process, ours or one that an earlier monitor started.
type process struct {
	pid   int
	start uint64   // clock ticks after boot, which tells it from a later one of the same number
	pidfd *os.File // nonblocking, so that waiting costs no thread
	cmd   *exec.Cmd
}

// adopt takes over the pidfd of a child that was just started.
func adopt(cmd *exec.Cmd, pidfd int) (*process, error) {
	start, err := startTime(cmd.Process.Pid)
	if err == nil {
		err = unix.SetNonblock(pidfd, true)
	}
	if err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("cannot watch process %d: %w", cmd.Process.Pid, err)
	}
	return &process{cmd.Process.Pid, start, os.NewFile(uintptr(pidfd), "pidfd"), cmd}, nil
}

// findProcess opens the process of that number, if it is the one that started
// then; a start of 0 takes any. nil is no such process.
func findProcess(pid int, start uint64) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	// The number cannot change hands while the descriptor is open.
	now, err := startTime(pid)
	if err != nil || start != 0 && now != start {
		unix.Close(fd)
		return nil, nil
	}
	return &process{pid: pid, start: now, pidfd: os.NewFile(uintptr(fd), "pidfd")}, nil
}

// wait returns nil when the process has ended, and has reaped it if it was ours.
func (p *process) wait(ctx context.Context) error {
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot wait for process %d: %w", p.pid, err)
	}
	if err := p.pidfd.SetReadDeadline(time.Time{}); err != nil { // that of an earlier wait
		return fmt.Errorf("cannot wait for process %d: %w", p.pid, err)
	}
	stop := context.AfterFunc(ctx, func() { p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = raw.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return err == nil && n == 1
	})
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("cannot wait for process %d: %w", p.pid, err)
	}
	if p.cmd != nil {
		// How a runner ended is in its directory, or it was lost.
		_ = p.cmd.Wait()
	}
	return nil
}

// ended tells whether the process has ended.
func (p *process) ended() bool {
	ready := []unix.PollFd{{Events: unix.POLLIN}}
	raw, err := p.pidfd.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			ready[0].Fd = int32(fd)
			_, _ = unix.Poll(ready, 0)
		})
	}
	return err != nil || ready[0].Revents != 0
}

func (p *process) kill() error {
	var failed error
	raw, err := p.pidfd.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { failed = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
	}
	if err = errors.Join(err, failed); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("cannot kill process %d: %w", p.pid, err)
	}
	return nil
}

func (p *process) close() { p.pidfd.Close() }

// startTime is field 22 of /proc/PID/stat, counted after the name, which may
// contain anything.
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return 0, fmt.Errorf("cannot understand /proc/%d/stat", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
