//go:build linux && cgo && seccomp

package runc

/*
#include "mountns.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"syscall"
)

// OwnMounts tells whether this process has a mount namespace of its own: one
// that was executed as [RunnerCommand] was given it before Go started.
func OwnMounts() error {
	switch n := C.own_mounts(); {
	case n == C.NOT_ASKED:
		return errors.New("cannot run containers: the program was not executed as " + RunnerCommand)
	case n != 0:
		return fmt.Errorf("cannot make a mount namespace: %w", syscall.Errno(n))
	}
	return nil
}
