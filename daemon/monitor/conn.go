package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// maxMessage bounds a message. What may be larger (a request to start, an
// archive) travels as a descriptor.
const maxMessage = 64 << 10

// conn carries JSON messages with at most one descriptor each over a
// SOCK_SEQPACKET socket, which keeps the boundaries. One goroutine receives;
// many may send.
type conn struct {
	sock     *net.UnixConn
	mu       sync.Mutex // one sender at a time, so that replies are not starved by a full buffer's retries
	buf, oob []byte     // the receiver's, from its first message on
}

// socketpair returns both ends, the second for a child process.
func socketpair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socketpair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "monitor")
	ours := os.NewFile(uintptr(fds[0]), "front")
	c, err := newConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c, theirs, nil
}

// newConn takes f over.
func newConn(f *os.File) (*conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("cannot use the socket between monitor and front: %w", err)
	}
	sock, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("cannot use the socket between monitor and front: it is no Unix socket")
	}
	return &conn{sock: sock}, nil
}

func (c *conn) Close() error { return c.sock.Close() }

// send writes one message; file may be nil and stays the caller's.
func (c *conn) send(message any, file *os.File) error {
	if file == nil {
		return c.sendFD(message, -1)
	}
	defer runtime.KeepAlive(file)
	return c.sendFD(message, int(file.Fd()))
}

func (c *conn) sendFD(message any, fd int) error {
	data, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("cannot encode a message: %w", err)
	}
	if len(data) > maxMessage {
		return fmt.Errorf("cannot send a message of %d bytes: the limit is %d", len(data), maxMessage)
	}
	var oob []byte
	if fd >= 0 {
		oob = unix.UnixRights(fd)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, _, err := c.sock.WriteMsgUnix(data, oob, nil); err != nil {
		return fmt.Errorf("cannot send a message: %w", err)
	}
	return nil
}

// receive reads one message into a value. The descriptor that came with it is
// the caller's, or nil. io.EOF is the other side's end.
func (c *conn) receive(message any) (*os.File, error) {
	if c.buf == nil {
		c.buf = make([]byte, maxMessage+1)
		// Room for more descriptors than one, so that too many are seen and closed.
		c.oob = make([]byte, unix.CmsgSpace(16*4))
	}
	n, oobn, flags, _, err := c.sock.ReadMsgUnix(c.buf, c.oob)
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("cannot receive a message: %w", err)
	}
	files, err := descriptors(c.oob[:oobn])
	if err != nil {
		return nil, err
	}
	if len(files) > 1 || n > maxMessage || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		closeAll(files)
		return nil, errors.New("cannot receive a message: it is too large")
	}
	if err := strict(c.buf[:n], message); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("cannot understand a message: %w", err)
	}
	if len(files) == 0 {
		return nil, nil
	}
	return files[0], nil
}

func descriptors(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("cannot receive a descriptor: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("cannot receive a descriptor: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// strict decodes exactly one JSON value that has no field the type does not know.
func strict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the value")
	}
	return nil
}

// maxRequest bounds what a descriptor with a request to start may hold: a
// document with every argument and variable that execve(2) takes, and more.
const maxRequest = 8 << 20

// sealedJSON puts a value into a memory file that travels as a descriptor.
func sealedJSON(name string, value any) (*os.File, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("cannot encode %s: %w", name, err)
	}
	if len(data) > maxRequest {
		return nil, fmt.Errorf("cannot encode %s: it has %d bytes, the limit is %d", name, len(data), maxRequest)
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make a memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot write a memory file: %w", err)
	}
	return f, nil
}

// readJSON reads what sealedJSON wrote. The sender may still hold the file and
// change it: everything is copied before anything is looked at. A descriptor
// that could block the reader is refused.
func readJSON(f *os.File, into any) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("cannot read the request: its descriptor is no file")
	}
	var data bytes.Buffer
	data.Grow(int(min(max(st.Size, 0), maxRequest)) + bytes.MinRead)
	if _, err := data.ReadFrom(io.NewSectionReader(f, 0, maxRequest+1)); err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	if data.Len() > maxRequest {
		return fmt.Errorf("cannot read the request: it has more than %d bytes", maxRequest)
	}
	if err := strict(data.Bytes(), into); err != nil {
		return fmt.Errorf("cannot understand the request: %w", err)
	}
	return nil
}
