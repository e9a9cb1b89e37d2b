package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// unprivileged is a process of this program with the identity of the job's
// submitter. It does not outlive this one.
type unprivileged struct {
	*os.Process
	gone chan struct{} // closed when it was waited for
}

// startAs starts a sub-command of this program, one that takes on an identity
// before anything of it can be looked into (sandbox/runc/identity.c). The caller
// must call end.
func startAs(id attempt.Identity, command string, files ...*os.File) (*unprivileged, error) {
	if id.UID <= 0 || id.GID < 0 {
		return nil, fmt.Errorf("a process for a job's submitter cannot have the ids %d and %d", id.UID, id.GID)
	}
	cmd := exec.Command("/proc/self/exe", command, strconv.Itoa(id.UID), strconv.Itoa(id.GID))
	cmd.ExtraFiles = files
	groups := make([]uint32, len(id.Groups))
	for i, g := range id.Groups {
		groups[i] = uint32(g)
	}
	cmd.Args[0] = os.Args[0]
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Groups: groups}, // the rest it does itself
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	p := &unprivileged{gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		// What the kernel should deny to the process is denied to the thread
		// that forks it, because a Go program cannot do it to all of its own.
		// The thread stays until the process is gone, since its end would count
		// as the parent's death, and never becomes another goroutine's.
		runtime.LockOSThread()
		defer close(p.gone)
		err := noNewPrivileges()
		if err == nil {
			err = cmd.Start()
		}
		p.Process = cmd.Process
		started <- err
		if err == nil {
			_ = cmd.Wait() // what it had to say came over its socket
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// end ends the process, if it still runs, and waits for it: a moment only,
// since one that hangs in a file system's call cannot be killed.
func (p *unprivileged) end() {
	_ = p.Kill()
	select {
	case <-p.gone:
	case <-time.After(5 * time.Second):
	}
}

// dropPrivileges makes sure that nothing which this thread executes has
// capabilities or can get any. The thread itself keeps those that it needs to
// become another user.
func dropPrivileges() error {
	if err := noNewPrivileges(); err != nil {
		return err
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		switch err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); {
		case err == nil, errors.Is(err, unix.EINVAL): // the kernel is older than this capability
		case errors.Is(err, unix.EPERM):
			return nil // as a service: without SETPCAP, and no program gains a capability with no_new_privs either
		default:
			return fmt.Errorf("cannot drop capability %d: %w", c, err)
		}
	}
	return nil
}

func noNewPrivileges() error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	return nil
}

// checkUnprivileged is for a process that was started with startAs.
func checkUnprivileged() error {
	if os.Geteuid() == 0 {
		return errors.New("a process for a job's submitter must not be root")
	}
	// Other processes of the submitter have no business in here, and what is in
	// memory belongs in no core file.
	if seen, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || seen != 0 {
		return errors.New("this command is for a runner to start")
	}
	return nil
}
