//go:build linux && cgo && seccomp

package runc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// control is the runner's end of the socket to a container's first process
// for as long as that is still ours. Over it go, in this order: the compiled
// filter; the word to install it; the answer; and, only if the job's command
// cannot be executed, libcontainer's message why. It closes when the command
// is executed.
type control struct {
	file  *os.File
	child *os.File
}

// answerMark is the first byte of the filter thread's answer: ANSWER_MARK of
// filter_thread.h. No message of libcontainer's begins with it.
const answerMark = 0

// seccompHeader precedes the filter's instructions.
type seccompHeader struct {
	Flags uint32
	Count uint32 // of instructions; 0: no filter
}

func newControl() (*control, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	// Non-blocking for Go's poller, so that a context can end a read.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_ = unix.Close(fds[0])
		_ = unix.Close(fds[1])
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &control{
		file:  os.NewFile(uintptr(fds[0]), "control"),
		child: os.NewFile(uintptr(fds[1]), "control"),
	}, nil
}

// sendFilter sends the program; the container keeps it until [control.install].
func (c *control) sendFilter(f *filter) error {
	var message bytes.Buffer
	header := seccompHeader{}
	if f != nil {
		header = seccompHeader{Flags: f.flags, Count: uint32(len(f.program) / sizeofSockFilter)}
	}
	if err := binary.Write(&message, binary.NativeEndian, header); err != nil {
		return err
	}
	if f != nil {
		message.Write(f.program)
	}
	_, err := c.file.Write(message.Bytes())
	return err
}

// closeChild closes the container's end here, after the process has its own.
func (c *control) closeChild() { _ = c.child.Close() }

// install has the filter installed. To be called when libcontainer's init
// waits for its FIFO, see [container.awaitFIFO].
func (c *control) install() error {
	if _, err := c.file.Write([]byte{1}); err != nil {
		return fmt.Errorf("cannot reach the container's first process: %w", err)
	}
	var mark [1]byte
	if _, err := io.ReadFull(c.file, mark[:]); err != nil {
		return fmt.Errorf("cannot learn whether the seccomp filter is installed: %w", err)
	}
	if mark[0] != answerMark {
		reason, err := c.executed()
		return errors.Join(fmt.Errorf("the container's first process failed: %s%s", mark[:], reason), err)
	}
	var answer int32
	if err := binary.Read(c.file, binary.NativeEndian, &answer); err != nil {
		return fmt.Errorf("cannot learn whether the seccomp filter is installed: %w", err)
	}
	if answer != 0 {
		return fmt.Errorf("cannot install the seccomp filter: %w", syscall.Errno(answer))
	}
	return nil
}

// executed waits until the job's command is executed and returns "", or the
// reason why it cannot be. It returns "" as well when the process was killed.
func (c *control) executed() (string, error) {
	const longest = 4096
	message, err := io.ReadAll(io.LimitReader(c.file, longest))
	if err != nil {
		return "", fmt.Errorf("cannot learn whether the command is executed: %w", err)
	}
	return string(bytes.TrimSpace(message)), nil
}

func (c *control) close() {
	_ = c.child.Close()
	_ = c.file.Close()
}
