// Package peer asks the kernel who is at the other end of a Unix socket.
package peer

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Credentials are those of the process that connected, when it did. It may be
// gone, and its PID another's.
type Credentials struct {
	UID, GID, PID int
	// Groups are all groups of the process, GID among them or not. They are what
	// the process had, so that those of a directory service are there.
	Groups []int
}

// Of reads SO_PEERCRED and SO_PEERGROUPS (unix(7)).
func Of(fd int) (Credentials, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Credentials{}, os.NewSyscallError("SO_PEERCRED", err)
	}
	groups, err := groupsOf(fd)
	if err != nil {
		return Credentials{}, err
	}
	return Credentials{UID: int(cred.Uid), GID: int(cred.Gid), PID: int(cred.Pid), Groups: groups}, nil
}

// groupsOf is SO_PEERGROUPS, for which x/sys has no function. The kernel
// answers ERANGE with the length that is needed.
func groupsOf(fd int) ([]int, error) {
	const size = uint32(unsafe.Sizeof(uint32(0)))
	buf := make([]uint32, 64)
	for {
		length := uint32(len(buf)) * size
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&length)), 0)
		switch {
		case errno == syscall.ERANGE && length/size > uint32(len(buf)):
			buf = make([]uint32, length/size)
			continue
		case errno != 0:
			return nil, os.NewSyscallError("SO_PEERGROUPS", errno)
		}
		groups := make([]int, length/size)
		for i := range groups {
			groups[i] = int(buf[i])
		}
		return groups, nil
	}
}
