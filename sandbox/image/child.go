package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// maxDying is how long a killed child may be in the middle of a call.
const maxDying = 10 * time.Second

// noteChild writes down, beneath an import's directory, the first process of its
// child, for whoever finds the import dead.
func noteChild(dir string, pid int) error {
	began, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("cannot note the confined unpacker: %w", err)
	}
	return os.WriteFile(filepath.Join(dir, childFile), fmt.Append(nil, pid, " ", began), 0o600)
}

// awaitChild returns when the child of a dead import writes nothing any longer.
// The kernel kills it with the import, but not in the same moment. Its first
// process is gone after all others of its pid namespace.
func awaitChild(dir string) error {
	note, err := os.ReadFile(filepath.Join(dir, childFile))
	if err != nil {
		return nil // trash, a document, or an import that was killed before it had a child
	}
	var pid int
	var began uint64
	if _, err := fmt.Sscan(string(note), &pid, &began); err != nil {
		return nil // a note that was cut off: its child never got an order
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil // no such process
	}
	defer unix.Close(fd)
	if now, err := startTime(pid); err != nil || now != began {
		return nil // another process has the number
	}
	for deadline := time.Now().Add(maxDying); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case err == unix.EINTR && time.Now().Before(deadline):
		case err != nil && err != unix.EINTR:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return fmt.Errorf("process %d of an import that was killed does not end", pid)
		default:
			return nil
		}
	}
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
