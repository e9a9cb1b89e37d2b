package runner

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountsVariable tells the program that it was executed again.
const mountsVariable = "_GIRDER_WORKER_OWN_MOUNTS"

// ownMounts gives the process a mount namespace of its own, in which the
// container's file systems are mounted and go when it ends. It is a slave of
// the machine's: a disk that is mounted or ejected while a runner waits for its
// attempt is seen, or let go of, here as well.
//
// A namespace belongs to a thread, and a Go program has several before main. So
// one thread changes its own and executes the program again, which ends the
// others. Under a unit with PrivateMounts= there is nothing to do.
func ownMounts() error {
	if os.Getenv(mountsVariable) != "" {
		return os.Unsetenv(mountsVariable)
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("cannot look at the mount namespace: %w", err)
	}
	// Even root may be kept from looking at the first process.
	if machine, err := os.Readlink("/proc/1/ns/mnt"); err == nil && machine != own {
		return nil
	}
	failed := make(chan error)
	go func() {
		// Never unlocked: on failure the thread, which is no longer like the
		// others, ends with the goroutine.
		runtime.LockOSThread()
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return os.NewSyscallError("unshare", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
				return os.NewSyscallError("mount", err)
			}
			return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), mountsVariable+"=1")))
		}()
	}()
	return fmt.Errorf("cannot make a mount namespace: %w", <-failed)
}
