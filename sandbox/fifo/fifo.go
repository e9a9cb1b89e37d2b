// Package fifo makes the named pipes through which a container exchanges data
// with its host, and moves that data.
//
// The container is not trusted to open a pipe at all, to read or write all of
// it, or to leave anything in its place: [Dir] is mounted read-only into the
// container, each pipe is opened beneath the directory's descriptor and checked
// to be the one made, and every wait ends with the container or with a context.
// A [Sender] feeds a pipe that the container reads, a [Receiver] drains one that
// it writes. Both count and hash what went through.
package fifo

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrReplaced: what has a pipe's name is not the pipe that was made.
var ErrReplaced = errors.New("named pipe was replaced")

// pipeSizes are the capacities to ask for: 1 MiB is what a process without
// privileges may have, and less once its user holds many pipes.
var pipeSizes = []int{1 << 20, 256 << 10}

// A Dir is a directory of named pipes, known by its descriptor.
type Dir struct {
	f *os.File
	// pins keep the inode numbers of the pipes made here from being used again.
	pins []*os.File
}

// A Pipe names one pipe of a directory and the inode that was made for it.
type Pipe struct {
	Name string `json:"name"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
}

// Create makes a directory, 0755, for pipes that everyone in the container may
// open. Whoever can reach it on the host can open them as well, so its parent
// must be closed to others.
func Create(path string) (*Dir, error) {
	err := os.Mkdir(path, 0o755)
	if err == nil {
		err = os.Chmod(path, 0o755) // whatever the umask is
	}
	var fd int
	if err == nil {
		fd, err = unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a directory for named pipes: %w", err)
	}
	return &Dir{f: os.NewFile(uintptr(fd), path)}, nil
}

// OpenDir takes over a descriptor that another process got from [Dir.File].
func OpenDir(f *os.File) *Dir { return &Dir{f: f} }

// File is the directory's descriptor (O_PATH), to be mounted or handed on.
func (d *Dir) File() *os.File { return d.f }

// Close closes the descriptors and removes nothing.
func (d *Dir) Close() error {
	for _, f := range d.pins {
		f.Close()
	}
	return d.f.Close()
}

// Make makes a pipe, 0666. The name is one path element.
func (d *Dir) Make(name string) (Pipe, error) {
	dirfd := int(d.f.Fd())
	err := unix.Mkfifoat(dirfd, name, 0o666)
	if err == nil {
		err = unix.Fchmodat(dirfd, name, 0o666, 0)
	}
	var pin *os.File
	var p Pipe
	if err == nil {
		pin, p, err = d.find(name)
	}
	if err != nil {
		return Pipe{}, fmt.Errorf("cannot make the named pipe %s: %w", name, err)
	}
	d.pins = append(d.pins, pin)
	return p, nil
}

// find looks a name up directly in the directory. The descriptor (O_PATH) is
// of a named pipe, and opening it again cannot miss it.
func (d *Dir) find(name string) (*os.File, Pipe, error) {
	fd, err := unix.Openat2(int(d.f.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w: %w", ErrReplaced, err)
		}
		return nil, Pipe{}, err
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
		err = ErrReplaced
	}
	if err != nil {
		f.Close()
		return nil, Pipe{}, err
	}
	return f, Pipe{Name: name, Dev: st.Dev, Ino: st.Ino}, nil
}

// open opens one end of a pipe without blocking, so that the runtime's poller
// waits for it and a deadline ends the wait. A writer without a reader fails
// with ENXIO.
func (d *Dir) open(p Pipe, flags int) (*os.File, error) {
	fd := -1
	found, have, err := d.find(p.Name)
	if err == nil {
		if have != p {
			err = ErrReplaced
		} else {
			fd, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", found.Fd()), flags|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		}
		found.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the named pipe %s: %w", p.Name, err)
	}
	return os.NewFile(uintptr(fd), p.Name), nil
}

// OpenStdin opens the reading end as a program expects its standard input: a
// read waits. Connect the [Sender] before the program starts.
func (d *Dir) OpenStdin(p Pipe) (*os.File, error) {
	f, err := d.open(p, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot open the named pipe %s: %w", p.Name, err)
	}
	return f, nil
}

// OpenStdout opens the writing end as a program expects its standard output: a
// write waits. The [Receiver] must be there.
func (d *Dir) OpenStdout(p Pipe) (*os.File, error) {
	f, err := d.open(p, unix.O_WRONLY)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot open the named pipe %s: %w", p.Name, err)
	}
	return f, nil
}

// OpenPath opens neither end: the descriptor (O_PATH) is to be mounted.
func (d *Dir) OpenPath(p Pipe) (*os.File, error) {
	f, have, err := d.find(p.Name)
	if err == nil && have != p {
		f.Close()
		err = ErrReplaced
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the named pipe %s: %w", p.Name, err)
	}
	return f, nil
}

// widen asks for a larger pipe. The default of 64 KiB halves the throughput,
// and loses nothing.
func widen(f *os.File) {
	conn, err := f.SyscallConn()
	if err != nil {
		return
	}
	// The descriptor is used through Control, because Fd would make it blocking.
	_ = conn.Control(func(fd uintptr) {
		for _, size := range pipeSizes {
			if _, err := unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size); err == nil {
				return
			}
		}
	})
}
