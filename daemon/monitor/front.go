package monitor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"girderworker/daemon/systemd"
)

// The descriptors that the front is started with.
const (
	FrontConn     = 3 // for [Connect]
	FrontLock     = 4 // the state directory's, to be held and nothing else
	FrontListener = 5 // for [Listen]: the API's connections
)

// FrontExit is the end of a front that ended by itself: it has said why.
type FrontExit struct{ Code int }

// Error names the exit code.
func (e *FrontExit) Error() string {
	return fmt.Sprintf("the daemon's front ended with exit code %d", e.Code)
}

type frontProcess struct{ cmd *exec.Cmd }

func (m *Monitor) startFront(listener *os.File) (*frontProcess, error) {
	conn, theirs, err := socketpair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	env := make([]string, 0, len(os.Environ()))
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		// What the service manager says is for the process that it started.
		case "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES":
		default:
			env = append(env, kv)
		}
	}
	every, err := systemd.Watchdog()
	if err != nil {
		conn.Close()
		return nil, err
	}
	if every > 0 {
		env = append(env, fmt.Sprintf("WATCHDOG_USEC=%d", every.Microseconds()))
	}
	self := m.options.Self
	cmd := exec.Command(self[0], append(append(self[1:len(self):len(self)], "front"), m.options.Front...)...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, m.lock, listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// No supplementary groups: the front needs none.
		Credential: &syscall.Credential{Uid: uint32(m.options.UID), Gid: uint32(m.options.GID)},
		// ctrl-C in a terminal is the monitor's to pass on, once.
		Setpgid: true,
	}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot start the daemon's front as user %d: %w", m.options.UID, err)
	}
	m.conn = conn
	return &frontProcess{cmd}, nil
}

// wait returns how the front ended; nil is in order.
func (f *frontProcess) wait() error {
	err := f.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return &FrontExit{exit.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("the daemon's front died: %w", err)
	}
	return nil
}

// signal does nothing to a front that has ended.
func (f *frontProcess) signal(sig unix.Signal) { _ = f.cmd.Process.Signal(sig) }
