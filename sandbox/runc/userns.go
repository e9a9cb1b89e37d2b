//go:build linux && cgo && seccomp

package runc

/*
#include "userns.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// userNamespace is an open user namespace, or none, or why there is none.
type userNamespace struct {
	file *os.File
	err  error
	// holder is the process that it was opened through: killed, and to be reaped
	// once it has had the time to die. 0: none.
	holder int
}

// openUserNamespace opens the user namespace of a spec, if it has one.
func openUserNamespace(spec *sandbox.Spec) userNamespace {
	if len(spec.UIDMappings) == 0 {
		return userNamespace{}
	}
	file, holder, err := newUserNamespace(spec.UIDMappings, spec.GIDMappings)
	return userNamespace{file, err, holder}
}

func (ns userNamespace) close() {
	if ns.file != nil {
		_ = ns.file.Close()
	}
}

// newUserNamespace opens a user namespace with these mappings, as the kernel
// wants it to map the ids of a mount. Nothing runs in it; holder is to be reaped.
func newUserNamespace(uids, gids []sandbox.IDMapping) (_ *os.File, holder int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot make a user namespace: %w", err)
		}
	}()
	// The process that holds the namespace until it is open dies with the thread
	// that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid := int(C.fork_userns())
	if pid < 0 {
		return nil, 0, os.NewSyscallError("clone", syscall.Errno(-pid))
	}
	defer func() { _ = unix.Kill(pid, unix.SIGKILL) }()
	proc := "/proc/" + strconv.Itoa(pid)
	if err := os.WriteFile(proc+"/uid_map", mappingLines(uids), 0); err != nil {
		return nil, pid, err
	}
	if err := os.WriteFile(proc+"/gid_map", mappingLines(gids), 0); err != nil {
		return nil, pid, err
	}
	file, err := os.Open(proc + "/ns/user")
	return file, pid, err
}

// reap waits for a process that was killed.
func reap(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

// mappingLines is the content of uid_map and gid_map, which take one write.
func mappingLines(mappings []sandbox.IDMapping) []byte {
	var b strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return []byte(b.String())
}
