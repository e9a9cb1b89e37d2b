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
}

// openUserNamespace opens the user namespace of a spec, if it has one.
func openUserNamespace(spec *sandbox.Spec) userNamespace {
	if len(spec.UIDMappings) == 0 {
		return userNamespace{}
	}
	file, err := newUserNamespace(spec.UIDMappings, spec.GIDMappings)
	return userNamespace{file, err}
}

func (ns userNamespace) close() {
	if ns.file != nil {
		_ = ns.file.Close()
	}
}

// newUserNamespace opens a user namespace with these mappings, as the kernel
// wants it to map the ids of a mount. Nothing runs in it.
func newUserNamespace(uids, gids []sandbox.IDMapping) (_ *os.File, err error) {
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
		return nil, os.NewSyscallError("clone", syscall.Errno(-pid))
	}
	defer func() {
		_ = unix.Kill(pid, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
				return
			}
		}
	}()
	proc := "/proc/" + strconv.Itoa(pid)
	if err := os.WriteFile(proc+"/uid_map", mappingLines(uids), 0); err != nil {
		return nil, err
	}
	if err := os.WriteFile(proc+"/gid_map", mappingLines(gids), 0); err != nil {
		return nil, err
	}
	return os.Open(proc + "/ns/user")
}

// mappingLines is the content of uid_map and gid_map, which take one write.
func mappingLines(mappings []sandbox.IDMapping) []byte {
	var b strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return []byte(b.String())
}
