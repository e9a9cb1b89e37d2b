package runner

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/network"
)

const (
	// networkPatience is how long the network's process may take to report when
	// the container has ended.
	networkPatience = 5 * time.Second
	// maxReport bounds what it reports.
	maxReport = 64 << 10
	// toldTargets is how many refused destinations a note names.
	toldTargets = 5
)

// privateNetwork is the runner's side of the process behind a container's
// private network. That is started with the container's first packet: most
// jobs never send one.
type privateNetwork struct {
	identity attempt.Identity
	config   network.Config
	onLost   func(text string) // it ended before the container did

	over   chan struct{}  // nil without a container; closed when all of this has ended
	report network.Report // valid when over is closed

	mu     sync.Mutex
	tun    *os.File
	begun  bool          // there was a packet
	conn   *net.UnixConn // to the process, once there is one
	ending bool
}

// attach takes the container's device.
func (n *privateNetwork) attach(tun *os.File, crashed func()) {
	n.tun, n.over = tun, make(chan struct{})
	go func() {
		defer close(n.over)
		defer crashed()
		defer tun.Close()
		if !waitForPacket(tun) {
			return
		}
		n.mu.Lock()
		n.begun = true
		n.mu.Unlock()
		err := n.serve()
		n.mu.Lock()
		lost := !n.ending
		n.mu.Unlock()
		if lost {
			n.onLost("the process for the job's network died: " + clean(cmp.Or(err, errors.New("it ended early")).Error()))
		}
	}()
}

// waitForPacket returns true when there is one, and false when the device was
// closed.
func waitForPacket(tun *os.File) bool {
	conn, err := tun.SyscallConn()
	if err != nil {
		return false
	}
	return conn.Read(hasPacket) == nil
}

func hasPacket(tun uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(tun), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n == 1 && poll[0].Revents&unix.POLLIN != 0
}

// untouched tells that the container has sent no packet so far.
func (n *privateNetwork) untouched() bool {
	if n.over == nil {
		return true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.begun {
		return false
	}
	waiting := true
	conn, err := n.tun.SyscallConn()
	if err == nil {
		err = conn.Control(func(fd uintptr) { waiting = hasPacket(fd) })
	}
	return err == nil && !waiting
}

// serve starts the process and returns when it has ended.
func (n *privateNetwork) serve() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "network"), os.NewFile(uintptr(fds[1]), "network")
	defer theirs.Close()
	c, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return err
	}
	conn := c.(*net.UnixConn)
	defer conn.Close()
	process, err := startAs(n.identity, NetworkCommand, n.tun, theirs)
	if err != nil {
		return fmt.Errorf("cannot start it: %w", err)
	}
	defer process.end()
	// What remains is the process's: the device and the conversation end with it.
	n.tun.Close()
	theirs.Close()
	config, err := json.Marshal(n.config)
	if err != nil {
		return err
	}
	if _, err := conn.Write(append(config, '\n')); err != nil {
		return err
	}
	n.mu.Lock()
	n.conn = conn
	ending := n.ending
	n.mu.Unlock()
	if ending {
		askToEnd(conn)
	}
	data, err := io.ReadAll(io.LimitReader(conn, maxReport))
	if err == nil && len(data) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(data, &n.report)
}

// askToEnd gives the process the word to report and end, and little time.
func askToEnd(conn *net.UnixConn) {
	_ = conn.CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(networkPatience))
}

// end ends the network, whose container is gone, and returns what to note of it.
// It may be called again.
func (n *privateNetwork) end() string {
	if n.over == nil {
		return ""
	}
	n.mu.Lock()
	n.ending = true
	if n.conn != nil {
		askToEnd(n.conn)
	} else {
		n.tun.Close()
	}
	n.mu.Unlock()
	<-n.over
	return noteOf(n.report)
}

// noteOf tells a person what was not let through.
func noteOf(r network.Report) string {
	if r.Refused <= 0 {
		return ""
	}
	targets := slices.SortedFunc(maps.Keys(r.Targets), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Targets[b], r.Targets[a]), strings.Compare(a, b))
	})
	var text strings.Builder
	fmt.Fprintf(&text, "network: %d refused", r.Refused)
	for i, t := range targets {
		if i == toldTargets {
			text.WriteString(", and others")
			break
		}
		separator := ", "
		if i == 0 {
			separator = ": "
		}
		fmt.Fprintf(&text, "%s%s", separator, t)
		if k := r.Targets[t]; k > 1 {
			fmt.Fprintf(&text, " %d times", k)
		}
	}
	return clean(text.String())
}
