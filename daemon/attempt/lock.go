package attempt

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Lock is the proof that an attempt is alive. It belongs to the open file,
// not to a process: whoever was handed the descriptor holds it as well, and it
// is free when the last copy is closed, however its holder died.
type Lock struct {
	f *os.File
}

// lockPatience outlasts [Dir.Locked], which holds the lock for an instant.
const lockPatience = time.Second

// Lock takes the attempt's lock, or fails with [ErrLocked].
func (d Dir) Lock() (*Lock, error) {
	// 0600: whoever can open a file can lock it, and the front must not be able
	// to keep a runner from starting.
	f, err := openNoFollow(d.file(lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock: %w", err)
	}
	deadline := time.Now().Add(lockPatience)
	for {
		err = flock(f)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		f.Close()
		return nil, d.lockError(err)
	}
	return &Lock{f: f}, nil
}

// AdoptLock takes over a descriptor that another process locked. It checks
// that the file is this attempt's and that the lock is held through it, and
// closes it otherwise.
func (d Dir) AdoptLock(f *os.File) (*Lock, error) {
	err := func() error {
		var want, have unix.Stat_t
		if err := unix.Lstat(d.file(lockName), &want); err != nil {
			return fmt.Errorf("cannot read the lock: %w", err)
		}
		if err := unix.Fstat(int(f.Fd()), &have); err != nil {
			return fmt.Errorf("cannot read the lock handed over: %w", err)
		}
		if want.Dev != have.Dev || want.Ino != have.Ino {
			return fmt.Errorf("%w: the lock handed over is another file than %s", ErrInvalid, d.file(lockName))
		}
		if err := flock(f); err != nil {
			return d.lockError(err)
		}
		return nil
	}()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &Lock{f: f}, nil
}

// Locked tells whether the attempt's runner, or whoever holds the lock for it,
// is alive. It is for the process that also starts runners: it takes the lock
// for an instant when that is free.
func (d Dir) Locked() (bool, error) {
	f, err := openNoFollow(d.file(lockName), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot open the lock: %w", err)
	}
	defer f.Close()
	switch err := flock(f); {
	case err == nil:
		return false, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	default:
		return false, d.lockError(err)
	}
}

// File is the locked descriptor, to be handed to a process that takes over.
func (l *Lock) File() *os.File { return l.f }

// Close gives up this process's copy of the lock.
func (l *Lock) Close() error { return l.f.Close() }

func (d Dir) lockError(err error) error {
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("%w: %s", ErrLocked, d.ID())
	}
	return fmt.Errorf("cannot lock %s: %w", d.file(lockName), err)
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
