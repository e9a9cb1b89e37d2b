package fifo

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// teeSize is how much of a file is taken at a time: half of what a pipe of 1 MiB
// holds, so that the next half is on its way while one is hashed.
const teeSize = 512 << 10

// A source that is a file need not be copied into the pipe: its pages are spliced
// into a pipe of our own and from there given to the container's as well
// (tee(2)). The only copy made on this side is the one that is hashed. Both
// are the same pages, so a file that somebody writes to at the same time could
// be hashed as it was and read as it is: it is looked at again afterwards, and
// one that has changed is an error.

// errNoTee: the file is of a kind that pages cannot be taken from. Nothing was
// moved.
var errNoTee = errors.New("cannot splice")

// stamp is what changes with a file.
type stamp struct {
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(f *os.File) (stamp, error) {
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return stamp{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return stamp{}, errNoTee
	}
	return stamp{st.Size, st.Mtim, st.Ctim}, nil
}

func control(f *os.File, call func(fd int) error) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { failed = call(int(fd)) })
	return errors.Join(err, failed)
}

// pumpFile is [pump] for a file as the source.
func pumpFile(dst *os.File, src *os.File) (sum total, readErr, writeErr error) {
	before, err := stampOf(src)
	if err != nil {
		return sum, errNoTee, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return sum, errNoTee, nil
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	for _, size := range pipeSizes {
		if _, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, size); err == nil {
			break
		}
	}
	conn, err := dst.SyscallConn()
	if err != nil {
		return sum, nil, err
	}

	hash := sha256.New()
	full, free := make(chan []byte, chunks), make(chan []byte, chunks)
	hashed := make(chan struct{})
	for range chunks {
		free <- nil
	}
	go func() {
		defer close(hashed)
		for b := range full {
			hash.Write(b)
			free <- b[:cap(b)]
		}
	}()
	defer func() {
		close(full)
		<-hashed
		hash.Sum(sum.hash[:0])
	}()

	for {
		var n int64
		err := control(src, func(fd int) (err error) {
			n, err = retry(func() (int64, error) { return unix.Splice(fd, nil, fds[1], nil, teeSize, unix.SPLICE_F_NONBLOCK) })
			return err
		})
		switch {
		case err != nil && sum.bytes == 0:
			return sum, errNoTee, nil
		case err != nil:
			return sum, fmt.Errorf("splice: %w", err), nil
		case n == 0:
			after, err := stampOf(src)
			if err == nil && (after.size != before.size || after.mtime != before.mtime) {
				err = errors.New("the file was changed while it was read")
			}
			return sum, err, nil
		}
		for n > 0 {
			var given int64
			var failed error
			err := conn.Write(func(fd uintptr) bool {
				given, failed = retry(func() (int64, error) { return unix.Tee(fds[0], int(fd), int(n), unix.SPLICE_F_NONBLOCK) })
				return !errors.Is(failed, unix.EAGAIN)
			})
			if err == nil {
				err = failed
			}
			if err != nil {
				return sum, nil, err
			}
			n -= given
			sum.bytes += given
			for given > 0 {
				buf := <-free
				if buf == nil {
					buf = make([]byte, chunkSize)
				}
				got, err := retry(func() (int64, error) {
					n, err := unix.Read(fds[0], buf[:min(given, int64(len(buf)))])
					return int64(n), err
				})
				if err != nil || got == 0 {
					return sum, errors.Join(err, io.ErrUnexpectedEOF), nil
				}
				given -= got
				full <- buf[:got]
			}
		}
	}
}

func retry(call func() (int64, error)) (int64, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
