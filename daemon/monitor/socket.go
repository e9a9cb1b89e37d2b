package monitor

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"girderworker/daemon/systemd"
)

// socketName is the name of the socket unit, by which an activated descriptor
// is known.
const socketName = "girder-worker.socket"

// listening is the API's socket. It is root's, so that the front cannot
// replace it, and the front accepts from it.
type listening struct {
	file *os.File
	path string // to be removed at the end; empty where the service manager owns it
}

// listen takes the socket that the service manager opened, or opens one.
func listen(path string, gid int) (*listening, error) {
	for name, files := range systemd.Sockets() {
		if name == socketName && len(files) == 1 {
			// It is waited for, whatever mode it comes in.
			f, err := nonblocking(files[0])
			if err != nil {
				return nil, fmt.Errorf("cannot use the activated socket: %w", err)
			}
			return &listening{file: f}, nil
		}
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("cannot use the activated sockets: want one named %s, have %d named %s", socketName, len(files), name)
	}
	file, err := bind(path, gid)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return &listening{file, path}, nil
}

// close may be called after file was passed on.
func (l *listening) close() {
	l.file.Close()
	if l.path != "" {
		os.Remove(l.path)
	}
}

// nonblocking takes a file over and returns it in that mode.
func nonblocking(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func bind(path string, gid int) (*os.File, error) {
	// Everyone may look for the socket; who may use it is its own mode's matter.
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), socketName)
	err = func() error {
		// No one connects between bind and chmod. The mask is the process's, and
		// nothing else makes files this early.
		old := syscall.Umask(0o177)
		err := unix.Bind(fd, &unix.SockaddrUnix{Name: path})
		syscall.Umask(old)
		if err != nil {
			return err
		}
		if err := os.Lchown(path, 0, gid); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o660); err != nil {
			return err
		}
		return unix.Listen(fd, unix.SOMAXCONN)
	}()
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// removeStale removes the socket of a daemon that is gone, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("the file is there and is no socket")
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return errors.New("another daemon answers there")
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
