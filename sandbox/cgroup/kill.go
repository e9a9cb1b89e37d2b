package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kill ends every process in the group and below it with SIGKILL, also those
// that are stopped, frozen or forking all the time, and returns when the group
// is empty. It works for as long as ctx allows: a process in an uninterruptible
// sleep dies only when that ends. Killing an empty or absent group succeeds.
func (g Group) Kill(ctx context.Context) error {
	for {
		empty, err := g.Empty()
		if err != nil {
			return fmt.Errorf("cannot look into the control group %s: %w", g.path, err)
		}
		if empty {
			return nil
		}
		pids, err := g.killOnce(ctx)
		if err != nil {
			return fmt.Errorf("cannot kill the control group %s: %w", g.path, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("cannot empty the control group %s: processes %v are still there: %w", g.path, pids, context.Cause(ctx))
		}
	}
}

// killOnce signals whatever is in the group now and waits a moment for it.
func (g Group) killOnce(ctx context.Context) ([]int, error) {
	g.stopForks()
	var all []int
	for _, d := range g.dirs {
		if d.v2 {
			err := writeFile(filepath.Join(d.path, "cgroup.kill"), "1")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
		pids, err := pidsBelow(d.path)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	all = slices.Compact(all)

	var handles []unix.PollFd
	defer func() {
		for _, h := range handles {
			_ = unix.Close(int(h.Fd))
		}
	}()
	for _, pid := range all {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // gone
		}
		// The number may have been given to another process since it was read.
		if !g.holds(pid) {
			_ = unix.Close(fd)
			continue
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			_ = unix.Close(fd)
			return nil, err
		}
		// Enough to wait for; a fork bomb must not cost us all our descriptors.
		if len(handles) < 64 {
			handles = append(handles, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
		} else {
			_ = unix.Close(fd)
		}
	}

	const pause = 50 * time.Millisecond
	deadline := time.Now().Add(pause)
	for len(handles) > 0 && ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return all, nil
		}
		n, err := unix.Poll(handles, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		if n > 0 {
			handles = slices.DeleteFunc(handles, func(h unix.PollFd) bool {
				if h.Revents == 0 {
					return false
				}
				_ = unix.Close(int(h.Fd))
				return true
			})
		}
	}
	if len(all) == 0 {
		// Someone dies, but is no longer listed.
		time.Sleep(time.Millisecond)
	}
	return all, nil
}

// stopForks does what can be done so that killing outruns forking, and undoes
// a freeze, under which v1 would keep a killed process. All of it is best
// effort: the loop of Kill is what guarantees the end.
func (g Group) stopForks() {
	if file := g.file("pids", "pids.max"); file != "" {
		_ = writeFile(file, "0")
	}
	if file := g.file("freezer", "freezer.state"); file != "" {
		_ = writeFile(file, "THAWED")
	}
}

// holds reports whether a process is in the group or below it.
func (g Group) holds(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) == 3 && (fields[2] == g.path || strings.HasPrefix(fields[2], g.path+"/")) {
			return true
		}
	}
	return false
}

// writeFile writes a control file that exists.
func writeFile(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}
