package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxDying is how long a killed process may be in the middle of a call.
	maxDying  = 10 * time.Second
	lockPause = 5 * time.Millisecond
)

// noteProcess writes down, beneath an import's directory, who works in it.
func noteProcess(path string, pid int) error {
	began, err := startTime(pid)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: cannot note process %d: %w", errSilence, pid, err) // it is gone
	}
	if err != nil {
		return fmt.Errorf("cannot note process %d: %w", pid, err)
	}
	return os.WriteFile(path, fmt.Append(nil, pid, " ", began), 0o600)
}

// awaitEnd returns when a noted process has ended, but not after patience, nor
// when nobody is noted: in trash, in a document, in an import that was killed
// before it could write the note, or in the middle of it.
func awaitEnd(path string, patience time.Duration) (ended bool, err error) {
	note, err := os.ReadFile(path)
	if err != nil {
		return true, nil
	}
	var pid int
	var began uint64
	if _, err := fmt.Sscan(string(note), &pid, &began); err != nil {
		return true, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a number that no process has
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if now, err := startTime(pid); err != nil || now != began {
		return true, nil // another process has the number
	}
	for deadline := time.Now().Add(patience); ; {
		left := max(0, time.Until(deadline))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return false, os.NewSyscallError("poll", err)
		}
		if n > 0 || left == 0 {
			return n > 0, nil
		}
	}
}

// awaitChild returns when the child of a dead import writes nothing any longer.
// The kernel kills it with the import, but not in the same moment. Its first
// process is gone after all others of its pid namespace.
func awaitChild(dir string) error {
	ended, err := awaitEnd(filepath.Join(dir, childFile), maxDying)
	if err == nil && !ended {
		err = fmt.Errorf("the unpacker of %s, an import that was killed, does not end", dir)
	}
	return err
}

// awaitUnlocked returns when a dead import's directory is not locked any longer.
// A child that was forked, and not yet executed, has all its parent's files open,
// and so the lock, until it sees that its parent is dead.
func awaitUnlocked(dir string) error {
	for deadline := time.Now().Add(maxDying); time.Now().Before(deadline); time.Sleep(lockPause) {
		if _, err := os.Lstat(filepath.Join(dir, ownerFile)); err != nil {
			return nil // it is just beginning, or was killed then, or is just removing itself
		}
		if ended, err := awaitEnd(filepath.Join(dir, ownerFile), 0); err != nil || !ended {
			return err
		}
		if held, err := isLocked(dir); err != nil || !held {
			return err
		}
	}
	return nil // whoever has it noted a number of another pid namespace, and lives
}

// startTime is field 22 of /proc/PID/stat, which tells two processes with the
// same number apart.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is a name in parentheses, and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat is %q", pid, stat)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
