package fifo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Result is what went through a stream.
type Result struct {
	Bytes  int64
	SHA256 [sha256.Size]byte // over those bytes
	// Partial: the container did not take everything, or the copying was ended
	// before the container did.
	Partial bool
}

const (
	// The waits for a container to open its end grow from the first to the second.
	openWaitMin = time.Millisecond
	openWaitMax = 100 * time.Millisecond
	// lateWait is how long a container waits that opens an input pipe again
	// after the data has gone.
	lateWait = 500 * time.Millisecond
)

// A Sender feeds a pipe that the container reads.
type Sender struct {
	dir  *Dir
	pipe Pipe
	w    *os.File // nil until the container opened its end, and after the last byte
}

// Sender prepares the host's end of an input pipe. Nothing is opened yet.
func (d *Dir) Sender(p Pipe) *Sender { return &Sender{dir: d, pipe: p} }

// Connect opens the host's end now. There must be a reader: it is for a pipe
// that is the container's standard input, whose reader would see its end
// before the container even runs.
func (s *Sender) Connect() error {
	w, err := s.dir.open(s.pipe, unix.O_WRONLY)
	if err != nil {
		return err
	}
	s.w = w
	widen(w)
	return nil
}

// Send copies src to the container until the end of life, which must be done
// when no process of the container is left, or of ctx, which ends everything at
// once. That the container never opens the pipe or closes it early makes
// the result Partial and is no error: it need not want its input.
//
// After an error of src the pipe stays open, because its end would look to the
// container like the end of the data: end the container, then call Close.
func (s *Sender) Send(ctx, life context.Context, src io.Reader) (Result, error) {
	res := Result{SHA256: sha256.Sum256(nil), Partial: true}
	either, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(life, cancel)()

	if s.w == nil {
		if err := s.open(either); either.Err() != nil {
			return res, nil
		} else if err != nil {
			return res, err
		}
	}
	defer interrupt(either, s.w)()
	sum, readErr, writeErr := feed(s.w, src)
	res.Bytes, res.SHA256 = sum.bytes, sum.hash
	switch {
	case readErr != nil:
		return res, readErr
	case errors.Is(writeErr, unix.EPIPE), errors.Is(writeErr, os.ErrDeadlineExceeded):
		err := s.Close()
		s.serveLate(either)
		return res, err
	case writeErr != nil:
		return res, fmt.Errorf("cannot write to the named pipe %s: %w", s.pipe.Name, writeErr)
	}
	// A reading end of our own keeps what the container has not read yet, to
	// be counted when the container is gone.
	witness, err := s.dir.open(s.pipe, unix.O_RDONLY)
	if err != nil {
		return res, err
	}
	defer witness.Close()
	if err := s.Close(); err != nil {
		return res, err
	}
	s.serveLate(either)
	unread, err := unreadBytes(witness)
	res.Partial = unread > 0
	return res, err
}

// feed moves src by its pages where it is a file and the kernel can.
func feed(w *os.File, src io.Reader) (total, error, error) {
	if f, ok := src.(*os.File); ok {
		sum, readErr, writeErr := pumpFile(w, f)
		if !errors.Is(readErr, errNoTee) {
			return sum, readErr, writeErr
		}
	}
	return pump(w, src)
}

// Close closes the host's end, if it is open.
func (s *Sender) Close() error {
	if s.w == nil {
		return nil
	}
	w := s.w
	s.w = nil
	return w.Close()
}

// open waits until the container has opened its end.
func (s *Sender) open(ctx context.Context) error {
	for wait := openWaitMin; ; wait = min(2*wait, openWaitMax) {
		err := s.Connect()
		if err == nil || !errors.Is(err, unix.ENXIO) {
			return err
		}
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

// serveLate lets a container that opens the pipe again read its end, rather
// than wait for ever for a writer. It returns with ctx.
func (s *Sender) serveLate(ctx context.Context) {
	for sleep(ctx, lateWait) {
		if w, err := s.dir.open(s.pipe, unix.O_WRONLY); err == nil {
			w.Close()
		}
	}
}

// A Receiver drains a pipe that the container writes.
type Receiver struct {
	pipe Pipe
	r    *os.File
	// keep is a writing end of our own. With it the pipe does not end when the
	// container closes it, which a shell does after every `echo > pipe`.
	keep *os.File
}

// Receiver opens the host's end of an output pipe. That must be done before
// the container starts, so that the container's own open does not wait.
func (d *Dir) Receiver(p Pipe) (*Receiver, error) {
	r, err := d.open(p, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	keep, err := d.open(p, unix.O_WRONLY)
	if err != nil {
		r.Close()
		return nil, err
	}
	widen(r)
	return &Receiver{pipe: p, r: r, keep: keep}, nil
}

// Receive copies what the container writes to dst, until life is done (no
// process of the container is left) and the pipe is empty, or ctx is. After an
// error of dst it goes on reading, so that the container does not stand still,
// and returns the error at the end; the result tells what dst took.
// It closes the pipe.
func (r *Receiver) Receive(ctx, life context.Context, dst io.Writer) (Result, error) {
	defer r.r.Close()
	stopKeep := context.AfterFunc(life, func() { r.keep.Close() })
	defer func() {
		if stopKeep() {
			r.keep.Close()
		}
	}()
	defer interrupt(ctx, r.r)()

	sum, readErr, writeErr := pump(dst, r.r)
	res := Result{Bytes: sum.bytes, SHA256: sum.hash}
	if writeErr != nil {
		_, readErr = io.Copy(io.Discard, onlyReader{r.r})
	}
	if errors.Is(readErr, os.ErrDeadlineExceeded) {
		readErr = nil
		res.Partial = true
	}
	if readErr != nil {
		readErr = fmt.Errorf("cannot read the named pipe %s: %w", r.pipe.Name, readErr)
	}
	if writeErr != nil {
		res.Partial = true
	}
	return res, errors.Join(writeErr, readErr)
}

// Await waits until the container has written something, and takes nothing of it. ctx
// ends the wait, and every later one.
func (r *Receiver) Await(ctx context.Context) error {
	defer interrupt(ctx, r.r)()
	conn, err := r.r.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool {
			n, err := unix.IoctlGetInt(int(fd), unix.TIOCINQ)
			return err != nil || n > 0
		})
	}
	if err != nil {
		return fmt.Errorf("cannot wait for the named pipe %s: %w", r.pipe.Name, err)
	}
	return nil
}

// Ready tells whether something is in the pipe.
func (r *Receiver) Ready() bool {
	n, err := unreadBytes(r.r)
	return err == nil && n > 0
}

// Close closes a receiver whose Receive is not called.
func (r *Receiver) Close() error { return errors.Join(r.r.Close(), r.keep.Close()) }

// onlyReader hides other methods, so that io.Copy uses none of them.
type onlyReader struct{ io.Reader }

// interrupt ends waits for f with ctx. The function returned undoes it.
func interrupt(ctx context.Context, f *os.File) (undo func() bool) {
	return context.AfterFunc(ctx, func() {
		// It fails only for a file that is closed already.
		_ = f.SetDeadline(time.Unix(1, 0))
	})
}

// sleep waits and tells whether ctx was still alive at the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

func unreadBytes(f *os.File) (n int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { n, failed = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return n, errors.Join(err, failed)
}
