//go:build linux && cgo && seccomp

package runc

/*
#include <stdlib.h>
#include "userns.h"
*/
import "C"

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"unsafe"

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
func newUserNamespace(uids, gids []sandbox.IDMapping) (*os.File, error) {
	u, g := C.CString(mappingLines(uids)), C.CString(mappingLines(gids))
	defer C.free(unsafe.Pointer(u))
	defer C.free(unsafe.Pointer(g))
	fd := int(C.open_userns(u, g))
	if fd < 0 {
		return nil, fmt.Errorf("cannot make a user namespace: %w", syscall.Errno(-fd))
	}
	return os.NewFile(uintptr(fd), "user namespace"), nil
}

// mappingLines is the content of uid_map and gid_map, which take one write.
func mappingLines(mappings []sandbox.IDMapping) string {
	var b strings.Builder
	for _, m := range mappings {
		fmt.Fprintf(&b, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return b.String()
}
