package attempt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// A warm runner has done everything that does not depend on the attempt. It
// holds one end of a SOCK_SEQPACKET socket pair and waits there for a
// [Start]: one JSON message with the attempt's locked descriptor beside it
// (SCM_RIGHTS), so that the attempt is never without a holder of its lock. The
// runner answers with one byte once it has adopted the lock, so that the
// monitor knows that it may drop its own copy, and ends quietly when the
// socket closes first. One that is to have a container ready gets the container's
// request before, as a file beside a message without a directory.

// Start is the one message that a warm runner waits for.
type Start struct {
	Version int `json:"version"`
	// Directory is the attempt's, as [Dir.Path].
	Directory string `json:"directory"`
}

// maxStart bounds the message: a path and a number.
const maxStart = 8 << 10

// WarmPair makes the two ends of a warm runner's socket.
func WarmPair() (monitor, runner *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "warm-monitor"), os.NewFile(uintptr(fds[1]), "warm-runner"), nil
}

// WarmSocket takes over, in a warm runner, its end of the pair, which is passed by
// number. In the place of a standard input there is nothing to read then.
func WarmSocket(number int) (_ *os.File, err error) {
	fd := number
	if fd <= 2 {
		if fd, err = unix.FcntlInt(uintptr(number), unix.F_DUPFD_CLOEXEC, 3); err != nil {
			return nil, fmt.Errorf("cannot use descriptor %d: %w", number, err)
		}
		null, err := os.Open(os.DevNull)
		if err == nil {
			err = unix.Dup3(int(null.Fd()), number, 0)
			null.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("cannot do without descriptor %d: %w", number, err)
		}
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("cannot use descriptor %d: %w", number, err)
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "warm-runner"), nil
}

// SendStart gives an attempt to a warm runner and waits until that has taken
// it over; a read deadline on the socket bounds the wait. After an error, end
// that runner and wait for its end before starting another: the lock is
// shared by all who were handed it.
func SendStart(socket *os.File, d Dir, lock *Lock) error {
	err := send(socket, Start{Version: Version, Directory: d.path}, lock.f)
	if err == nil {
		var ack [1]byte
		if _, err = io.ReadFull(socket, ack[:]); errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
	}
	if err != nil {
		return fmt.Errorf("cannot hand the attempt to a warm runner: %w", err)
	}
	return nil
}

// SendAhead gives a warm runner that waits for one the request, a file, of the
// container that it is to have ready.
func SendAhead(socket, request *os.File) error {
	if err := send(socket, Start{Version: Version}, request); err != nil {
		return fmt.Errorf("cannot tell a warm runner what container to make: %w", err)
	}
	return nil
}

func send(socket *os.File, s Start, f *os.File) error {
	msg, err := json.Marshal(s)
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(f.Fd()))
	return control(socket, func(fd int) error { return unix.Sendmsg(fd, msg, rights, nil, unix.MSG_NOSIGNAL) }, true)
}

// ReceiveStart waits in a warm runner for its attempt. It returns io.EOF when
// the monitor closed the socket: there will be none.
func ReceiveStart(socket *os.File) (Dir, *Lock, error) {
	s, f, err := receive(socket)
	if err != nil {
		return Dir{}, nil, err
	}
	d, err := ParseDir(s.Directory)
	if err != nil {
		f.Close()
		return Dir{}, nil, err
	}
	lock, err := d.AdoptLock(f)
	if err != nil {
		return Dir{}, nil, err
	}
	if _, err := socket.Write([]byte{1}); err != nil {
		// The monitor is gone or has given up on this runner: the attempt is
		// not ours.
		lock.Close()
		return Dir{}, nil, io.EOF
	}
	return d, lock, nil
}

// ReceiveAhead waits in a warm runner for what [SendAhead] sends, as ReceiveStart does.
func ReceiveAhead(socket *os.File) (*os.File, error) {
	_, f, err := receive(socket)
	return f, err
}

// receive waits for a message and the descriptor beside it.
func receive(socket *os.File) (s Start, _ *os.File, err error) {
	buf, oob := make([]byte, maxStart), make([]byte, unix.CmsgSpace(4*4))
	var n, oobn, flags int
	err = control(socket, func(fd int) (err error) {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
		return err
	}, false)
	if err != nil {
		return s, nil, fmt.Errorf("cannot wait for an attempt: %w", err)
	}
	if n == 0 {
		return s, nil, io.EOF
	}
	f, err := oneRight(oob[:oobn])
	if err != nil {
		return s, nil, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("%w: start message is too long", ErrInvalid)
	} else if err = json.Unmarshal(buf[:n], &s); err != nil {
		err = fmt.Errorf("%w: start message: %w", ErrInvalid, err)
	} else if s.Version > Version {
		err = fmt.Errorf("start message of version %d: %w", s.Version, ErrVersion)
	}
	if err != nil {
		f.Close()
		return s, nil, err
	}
	return s, f, nil
}

// control runs a system call on the socket's descriptor whenever the poller
// says that it may succeed.
func control(socket *os.File, call func(fd int) error, write bool) error {
	conn, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	wait := conn.Read
	if write {
		wait = conn.Write
	}
	var failed error
	err = wait(func(fd uintptr) bool {
		failed = call(int(fd))
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	return errors.Join(err, failed)
}

// oneRight takes exactly one descriptor out of a control message.
func oneRight(oob []byte) (*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: start message: %w", ErrInvalid, err)
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		fds = append(fds, got...)
	}
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("%w: start message with %d descriptors, want one", ErrInvalid, len(fds))
	}
	return os.NewFile(uintptr(fds[0]), "received"), nil
}
