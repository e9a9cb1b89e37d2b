package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/fifo"
	"girderworker/transforms"
)

// What runner and transfer say to each other: one JSON document a packet of a
// SOCK_SEQPACKET socket pair, at most one descriptor beside it. Both are of one
// binary, so there is no version.
//
//	runner                               transfer
//	roots: where files may lie      ──►
//	girder: a server and its token, ──►
//	or whom to ask for tokens
//	                                ◄──  opened
//	volume, perhaps with descriptor ──►
//	                                ◄──  opened, with a descriptor where none came
//	bind: a source                  ──►
//	                                ◄──  opened, with an O_PATH descriptor
//	fetch                           ──►
//	                                ◄──  doing, now and then
//	                                ◄──  opened, with the path in the volume
//	stream, perhaps with descriptor ──►
//	                                ◄──  opened
//	pipes, with their directory     ──►
//	                                ◄──  ready: the host's ends are open
//	                                ◄──  progress, activity, broken, at any time
//	ended: no process is left       ──►
//	                                ◄──  result, one a stream; finished
//
// Uploads are done by a process of their own, which is told of servers, volumes
// and binds as above, and then
//
//	hook, with its state            ──►
//	                                ◄──  doing, note, commit with a new state
//	committed: it is on the disk    ──►
//	                                ◄──  opened: the hook is over
//	remove: a volume                ──►
//	                                ◄──  opened
//
// The machine's API key is known to a process of an identity of its own, which is
// told of the server and then gives tokens to the other process, see keeper.go:
//
//	girder                          ──►
//	                                ◄──  opened
//	keep, with a socket             ──►
//	                                ◄──  opened
//
// Transfer runs as the submitter, who may have a hand in it. What it says is
// taken for a claim of the submitter's: it is bounded, and moves nothing but
// the submitter's own files and figures.
type message struct {
	Op string `json:"op"`

	Roots  []attempt.Root `json:"roots,omitempty"`
	Closed []string       `json:"closed,omitempty"`
	// Reach is nil where everything may be connected to.
	Reach  []string             `json:"reach"`
	Bind   *transforms.Bind     `json:"bind,omitempty"`
	Stream *transforms.Stream   `json:"stream,omitempty"`
	Pipes  map[string]fifo.Pipe `json:"pipes,omitempty"`
	Server *server              `json:"server,omitempty"`
	Volume *transforms.Volume   `json:"volume,omitempty"`
	Made   *attempt.HostVolume  `json:"made,omitempty"`
	Fetch  *transforms.Fetch    `json:"fetch,omitempty"`
	Hook   *transforms.Hook     `json:"hook,omitempty"`
	State  json.RawMessage      `json:"state,omitempty"`
	Path   string               `json:"path,omitempty"`
	Text   string               `json:"text,omitempty"`
	// Headers are the stream's HTTP headers. Slicer reads progress in it.
	Headers  map[string]string     `json:"headers,omitempty"`
	Slicer   bool                  `json:"slicer,omitempty"`
	Progress *attempt.Progress     `json:"progress,omitempty"`
	Result   *attempt.StreamResult `json:"result,omitempty"`
	// Skipped counts the lines of a progress stream that were not progress.
	Skipped int64 `json:"skipped,omitempty"`
	// Error, in an answer or about the stream named in Result, is for a person.
	// Away says that it is a server's that was out of reach for too long.
	Error string `json:"error,omitempty"`
	Away  bool   `json:"away,omitempty"`
}

// The operations.
const (
	opRoots    = "roots"
	opGirder   = "girder"
	opVolume   = "volume"
	opFound    = "found"
	opRemove   = "remove"
	opBind     = "bind"
	opFetch    = "fetch"
	opHook     = "hook"
	opDoing    = "doing"
	opNote     = "note"
	opCommit   = "commit"
	opDone     = "committed"
	opKeep     = "keep"
	opStream   = "stream"
	opOpened   = "opened"
	opPipes    = "pipes"
	opReady    = "ready"
	opProgress = "progress"
	opActivity = "activity"
	opBroken   = "broken"
	opEnded    = "ended"
	opResult   = "result"
	opFinished = "finished"
)

// maxMessage bounds a packet: the pipes of all streams, a hook, or a server with its headers.
const maxMessage = 128 << 10

// wire is one end of the socket.
type wire struct {
	f   *os.File
	buf []byte
	oob []byte
}

func newWire(f *os.File) *wire {
	return &wire{f: f, buf: make([]byte, maxMessage), oob: make([]byte, unix.CmsgSpace(4*4))}
}

// wirePair makes a socket pair; theirs is to be inherited.
func wirePair() (ours *wire, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	return newWire(os.NewFile(uintptr(fds[0]), "transfer")), os.NewFile(uintptr(fds[1]), "transfer"), nil
}

// send sends a message with a descriptor, or without for nil.
func (w *wire) send(m message, with *os.File) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot encode a message: %w", err)
	}
	if len(data) > maxMessage {
		return fmt.Errorf("message %q of %d bytes is too long", m.Op, len(data))
	}
	var rights []byte
	if with != nil {
		rights = unix.UnixRights(int(with.Fd()))
	}
	conn, err := w.f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Write(func(fd uintptr) bool {
		failed = unix.Sendmsg(int(fd), data, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	return errors.Join(err, failed)
}

// receive returns the next message and the descriptor that came with it, or
// nil; io.EOF when the other end is closed. One goroutine at a time receives.
func (w *wire) receive() (m message, with *os.File, err error) {
	conn, err := w.f.SyscallConn()
	if err != nil {
		return m, nil, err
	}
	var n, oobn, flags int
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		n, oobn, flags, _, failed = unix.Recvmsg(int(fd), w.buf, w.oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	if err = errors.Join(err, failed); err != nil {
		return m, nil, err
	}
	if n == 0 {
		return m, nil, io.EOF
	}
	if with, err = descriptor(w.oob[:oobn]); err != nil {
		return m, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = errors.New("message is too long")
	} else if err = json.Unmarshal(w.buf[:n], &m); err != nil {
		err = fmt.Errorf("cannot decode a message: %w", err)
	}
	if err != nil && with != nil {
		with.Close()
		with = nil
	}
	return m, with, err
}

// interrupt ends a receive that waits, and all later ones.
func (w *wire) interrupt() {
	// It fails only if the socket is closed.
	_ = w.f.SetReadDeadline(time.Unix(1, 0))
}

func (w *wire) close() error { return w.f.Close() }

// descriptor takes the descriptor out of a control message, if there is one,
// and closes any further ones.
func descriptor(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("cannot read a descriptor: %w", err)
	}
	var f *os.File
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if f == nil {
				f = os.NewFile(uintptr(fd), "received")
			} else {
				unix.Close(fd)
			}
		}
	}
	return f, nil
}
