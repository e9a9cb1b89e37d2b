package runner

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// output copies a container's standard output and error to the log, in the
// order in which they arrive.
//
// Two pipes have no common order. What comes nearest is the order in which the
// kernel's epoll lists them: with edge triggering a pipe takes its place in
// that list when data arrives in it after it was last emptied. The epoll
// descriptor itself is waited for by the runtime's poller, so that waiting
// costs no thread.
type output struct {
	log   *attempt.LogWriter
	epoll *os.File
	pipes [2]outputPipe
	made  time.Time
	last  atomic.Int64 // when the last output came, in nanoseconds after made
	buf   []byte
	// draining: what is in the pipes is all that counts.
	draining atomic.Bool
}

type outputPipe struct {
	stream attempt.LogStream
	fd     int      // the reading end; -1 after its end
	queued bool     // it may have data, and waits for its turn
	w      *os.File // the container's end, until it was started
}

// drainPatience is how long output may still come when the cgroup is empty. All
// of it is in the pipes then.
const drainPatience = 10 * time.Second

func newOutput(log *attempt.LogWriter) (_ *output, err error) {
	o := &output{log: log, buf: make([]byte, 64<<10), made: time.Now()}
	o.pipes[0] = outputPipe{stream: attempt.LogStdout, fd: -1}
	o.pipes[1] = outputPipe{stream: attempt.LogStderr, fd: -1}
	defer func() {
		if err != nil {
			o.close()
			err = fmt.Errorf("cannot make the output pipes: %w", err)
		}
	}()
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	// Non-blocking is what tells os.NewFile that it can be polled.
	if err := unix.SetNonblock(ep, true); err != nil {
		unix.Close(ep)
		return nil, err
	}
	o.epoll = os.NewFile(uintptr(ep), "output")
	for i := range o.pipes {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			return nil, err
		}
		p := &o.pipes[i]
		p.fd, p.w = fds[0], os.NewFile(uintptr(fds[1]), "output")
		if err := unix.SetNonblock(p.fd, true); err != nil {
			return nil, err
		}
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(i)}
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, p.fd, &event); err != nil {
			return nil, err
		}
	}
	o.touch()
	return o, nil
}

// openEnd opens another writing end of standard output or error. Its waits are
// the poller's, and it does not share its mode with the container's.
func (o *output) openEnd(stderr bool) (*os.File, error) {
	p := &o.pipes[0]
	if stderr {
		p = &o.pipes[1]
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", p.w.Fd()), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log's pipe: %w", err)
	}
	return os.NewFile(uintptr(fd), "log"), nil
}

// touch says that there is life in the container.
func (o *output) touch() { o.last.Store(int64(time.Since(o.made))) }

// lastOutput has a monotonic reading: the machine's clock may be set meanwhile.
func (o *output) lastOutput() time.Time { return o.made.Add(time.Duration(o.last.Load())) }

// started drops the container's ends, which it has by now.
func (o *output) started() {
	for i := range o.pipes {
		if o.pipes[i].w != nil {
			o.pipes[i].w.Close()
			o.pipes[i].w = nil
		}
	}
}

// copy runs until both pipes have ended, or drain was called and they are empty, or
// ended was called and its time is over.
func (o *output) copy() error {
	conn, err := o.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var events [len(o.pipes)]unix.EpollEvent
	queue := make([]*outputPipe, 0, len(o.pipes)) // in the order of arrival
	enqueue := func(p *outputPipe) {
		if !p.queued && p.fd >= 0 {
			p.queued = true
			queue = append(queue, p)
		}
	}
	var until time.Time // set when it only drains; somebody may write for ever
	for open := len(o.pipes); open > 0; {
		// Look for more after every read, so that a flood in one pipe does not
		// hold up the other; wait only when there is nothing to read.
		var n int
		var failed error
		poll := func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events[:], 0)
			return n != 0 && !errors.Is(failed, unix.EINTR)
		}
		if len(queue) == 0 && until.IsZero() {
			o.log.Flush()
			err = conn.Read(poll)
			if o.draining.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
				until = time.Now().Add(drainPatience)
			}
		}
		if len(queue) > 0 || !until.IsZero() {
			err = conn.Control(func(fd uintptr) { poll(fd) })
		}
		if err == nil && !errors.Is(failed, unix.EINTR) {
			err = failed
		}
		if err != nil {
			o.log.Flush()
			return fmt.Errorf("cannot read all output: %w", err)
		}
		for _, e := range events[:max(n, 0)] {
			enqueue(&o.pipes[e.Fd])
		}
		if !until.IsZero() && (len(queue) == 0 || time.Now().After(until)) {
			break
		}
		if len(queue) == 0 {
			continue
		}
		p := queue[0]
		queue = append(queue[:0], queue[1:]...)
		p.queued = false
		if o.read(p) {
			enqueue(p)
		}
		if p.fd < 0 {
			open--
		}
	}
	o.log.Flush()
	return nil
}

// read takes one chunk, and tells whether there may be more.
func (o *output) read(p *outputPipe) (more bool) {
	n, err := unix.Read(p.fd, o.buf)
	switch {
	case errors.Is(err, unix.EINTR):
		return true
	case errors.Is(err, unix.EAGAIN):
		return false
	case n <= 0:
		unix.Close(p.fd)
		p.fd = -1
		return false
	}
	now := time.Now()
	o.last.Store(int64(now.Sub(o.made)))
	o.log.Append(p.stream, now, o.buf[:n])
	return true
}

// ended says that no process of the container is left. What it wrote is in the
// pipes; whoever else holds them open cannot keep copy waiting.
func (o *output) ended() {
	// It fails only if the file is closed.
	_ = o.epoll.SetReadDeadline(time.Now().Add(drainPatience))
}

// drain says that what the container has written is all that counts.
func (o *output) drain() {
	o.draining.Store(true)
	_ = o.epoll.SetReadDeadline(time.Unix(1, 0))
}

func (o *output) close() {
	o.started()
	for i := range o.pipes {
		if o.pipes[i].fd >= 0 {
			unix.Close(o.pipes[i].fd)
			o.pipes[i].fd = -1
		}
	}
	if o.epoll != nil {
		o.epoll.Close()
	}
}
