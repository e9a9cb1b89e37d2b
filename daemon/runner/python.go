package runner

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
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
// back are two lines: the result, which is kept as it is and looked at by the front
// alone, and when nothing of the function will run any more, the exit status with
// which its process is about to end.
type call struct {
	theirs *os.File
	ours   net.Conn
	over   chan int // gets that status, if it comes
	done   chan struct{}
	result []byte // after done
	err    error
}

// newCall is one for whose function an interpreter imports what it must as soon as it is there.
func newCall(p *transforms.Python) (*call, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a function's socket: %w", os.NewSyscallError("socketpair", err))
	}
	c := &call{theirs: os.NewFile(uintptr(fds[0]), "call"), over: make(chan int, 1), done: make(chan struct{})}
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

// start sends what the function is called with and waits for its result.
func (c *call) start(with []byte, crashed func()) {
	conn := c.ours.(*net.UnixConn)
	// The interpreter goes on before anything else is done here.
	rest := sendSome(conn, with)
	if len(rest) == 0 {
		_ = conn.CloseWrite()
	}
	go func() {
		defer close(c.done)
		defer crashed()
		if len(rest) > 0 {
			// Who does not read it is told by a missing result.
			_, _ = conn.Write(rest)
			_ = conn.CloseWrite()
		}
		c.result, c.err = c.receive()
	}()
}

// sendSome sends what a socket takes at once, and returns the rest.
func sendSome(conn *net.UnixConn, data []byte) (rest []byte) {
	n := 0
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Write(func(fd uintptr) bool {
			n, _ = unix.Write(int(fd), data)
			return true
		})
	}
	return data[max(0, n):]
}

// receive returns with the second line, or when the socket is closed.
func (c *call) receive() (result []byte, err error) {
	r := bufio.NewReader(io.LimitReader(c.ours, attempt.MaxResult+int64(len("\n255\n"))))
	result, err = r.ReadBytes('\n')
	result, whole := bytes.CutSuffix(result, []byte{'\n'})
	if len(result) > attempt.MaxResult {
		// What comes now is nobody's, and must not be waited for.
		_, _ = io.Copy(io.Discard, c.ours)
		return nil, fmt.Errorf("it returned more than %s", transforms.FormatBytes(attempt.MaxResult))
	}
	if whole {
		var line string
		line, err = r.ReadString('\n')
		if status, bad := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 8); err == nil && bad == nil {
			c.over <- int(status)
			return result, nil
		}
		_, _ = io.Copy(io.Discard, c.ours)
	}
	if err == io.EOF || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return result, err
}

// lateResult is for what is on its way when no process is left that could send
// more; but one outside may hold a descriptor of the socket that it was sent.
const lateResult = 5 * time.Second

// end returns the result, or why it is lost, when no process of the container is left
// that could send more.
func (c *call) end() ([]byte, error) {
	_ = c.ours.SetDeadline(time.Now().Add(lateResult))
	<-c.done
	return c.result, c.err
}

func (c *call) close() { c.ours.Close() }
