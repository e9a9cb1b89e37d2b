package runner

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

//go:embed call.py
var callScript []byte

// callPath is where a container finds the program that calls the function.
const callPath = "/run/girder_worker/call.py"

// pythonCommand is what runs in a function's container.
func pythonCommand(p *transforms.Python) []string {
	// -I: neither the environment nor the directory says what is imported.
	return []string{p.Interpreter, "-I", "-B", "-X", "utf8", callPath}
}

// A call is what a function is called with, on its way there, and its result on
// the way back: both through the container's standard input, a socket. What comes
// back is kept as it is and looked at by the front alone.
type call struct {
	theirs *os.File
	ours   net.Conn
	done   chan struct{}
	err    error
}

// newCall is one for whose function an interpreter imports what it must as soon as it is there.
func newCall(p *transforms.Python) (*call, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a function's socket: %w", os.NewSyscallError("socketpair", err))
	}
	c := &call{theirs: os.NewFile(uintptr(fds[0]), "call"), done: make(chan struct{})}
	ours := os.NewFile(uintptr(fds[1]), "call")
	defer ours.Close()
	if c.ours, err = net.FileConn(ours); err != nil {
		c.theirs.Close()
		return nil, fmt.Errorf("cannot use a function's socket: %w", err)
	}
	data, _ := json.Marshal(map[string]any{"module": p.Module, "plugin": p.Plugin, "path": p.Path, "app_main": p.AppMain, "girder": len(p.Girders) > 0})
	// Less than a socket takes. Who does not read it is told by a missing result.
	_, _ = c.ours.Write(append(data, '\n'))
	return c, nil
}

// start sends what the function is called with and waits for its result, which keep is
// given while the container ends.
func (c *call) start(with []byte, keep func([]byte) error, crashed func()) {
	go func() {
		defer close(c.done)
		defer crashed()
		// Who does not read it is told by a missing result.
		_, _ = c.ours.Write(with)
		_ = c.ours.(*net.UnixConn).CloseWrite()
		result, err := io.ReadAll(io.LimitReader(c.ours, attempt.MaxResult+1))
		if len(result) > attempt.MaxResult {
			result, err = nil, fmt.Errorf("it returned more than %s", transforms.FormatBytes(attempt.MaxResult))
			// What comes now is nobody's, and must not be waited for.
			_, _ = io.Copy(io.Discard, c.ours)
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		if err == nil && len(result) > 0 {
			err = keep(result)
		}
		c.err = err
	}()
}

// lateResult is for what is on its way when no process is left that could send
// more; but one outside may hold a descriptor of the socket that it was sent.
const lateResult = 5 * time.Second

// end returns why what came back is lost, when no process of the container is left.
func (c *call) end() error {
	_ = c.ours.SetDeadline(time.Now().Add(lateResult))
	<-c.done
	return c.err
}

func (c *call) close() { c.ours.Close() }
