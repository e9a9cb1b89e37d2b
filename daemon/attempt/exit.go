package attempt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// exitReserve is the space kept free for exit.json: 64 streams with their
	// longest names and errors, and room to grow.
	exitReserve = 128 << 10
	// maxExit bounds what a reader takes.
	maxExit = 1 << 20
	// maxErrorText is where the text of an error is cut, so that exitReserve holds.
	maxErrorText = 1 << 10
)

// An ExitFile is the reserved place of exit.json. Until Commit nobody sees it.
type ExitFile struct {
	dir Dir
	f   *os.File
	// named returns when the names that lead to the attempt's directory are on the disk.
	named func() error
}

// ReserveExit takes the disk space of exit.json before anything else runs, so
// that a disk filled by the job cannot swallow how it ended. It is also the
// second fence, after the lock: it fails with [ErrEnded] when the attempt has
// an exit.json and with [ErrBegun] when any runner came here before, so that no
// attempt is ever begun twice. On a file system that writes every block anew
// (btrfs, zfs) nothing can be reserved, the space is only known to have been
// there.
func (d Dir) ReserveExit(gid int) (*ExitFile, error) {
	if _, err := os.Lstat(d.file(exitName)); err == nil {
		return nil, fmt.Errorf("%w: %s", ErrEnded, d.ID())
	}
	// A spare has brought it; see [Spare].
	err := unix.Renameat2(unix.AT_FDCWD, d.file(exitSpare), unix.AT_FDCWD, d.file(exitTemp), unix.RENAME_NOREPLACE)
	brought := err == nil
	flags := os.O_RDWR
	if !brought {
		flags |= os.O_CREATE | os.O_EXCL
	}
	f, err := openNoFollow(d.file(exitTemp), flags, fileMode)
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("%w: %s", ErrBegun, d.ID())
	}
	if err == nil && !brought {
		if err = reserveExit(f, gid); err != nil {
			f.Close()
			os.Remove(d.file(exitTemp))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reserve %s: %w", exitName, err)
	}
	return &ExitFile{dir: d, f: f, named: sync.OnceValue(func() error {
		// Up to the directory of all jobs; nothing changes these names any more.
		job := filepath.Dir(d.path)
		return errors.Join(syncDir(job), syncDir(filepath.Dir(job)))
	})}, nil
}

func reserveExit(f *os.File, gid int) error {
	err := ownFile(f, gid)
	if err == nil {
		// Behind the end, so that nothing has to be cut off before it is told.
		err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, exitReserve)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		_, err = f.WriteAt(make([]byte, exitReserve), 0)
	}
	return err
}

// SyncNames does a part of what Commit must, for when there is time.
func (e *ExitFile) SyncNames() { _ = e.named() }

// Commit writes exit.json: when it returns nil the end of the attempt is on
// the disk. The version and the attempt's names are filled in. What was reserved
// and not needed is there until [ExitFile.Close].
//
// Content and name go to the disk side by side, which takes half as long. A loss of
// power in between may leave the name without all of the content: that is no exit.json,
// see [Dir.Ended].
func (e *ExitFile) Commit(exit Exit) error {
	exit.Version, exit.Job, exit.Attempt = Version, e.dir.job, e.dir.number
	exit.Error = clip(exit.Error, maxErrorText)
	for i := range exit.Streams {
		exit.Streams[i].Error = clip(exit.Streams[i].Error, maxErrorText)
	}
	data, err := json.Marshal(exit)
	if err == nil {
		_, err = e.f.WriteAt(data, 0)
	}
	if err == nil {
		err = e.cut(int64(len(data)))
	}
	if err == nil {
		err = os.Rename(e.dir.file(exitTemp), e.dir.file(exitName))
	}
	if err == nil {
		if err = e.sync(); err != nil {
			// The name comes back, so that the attempt is not begun again.
			err = errors.Join(err, os.Rename(e.dir.file(exitName), e.dir.file(exitTemp)))
		}
	}
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", exitName, err)
	}
	return nil
}

func (e *ExitFile) sync() error {
	content := make(chan error, 1)
	go func() { content <- e.f.Sync() }()
	return errors.Join(e.named(), syncDir(e.dir.path), <-content)
}

// SyncExit has exit.json on the disk when its runner may have died before Commit returned.
func (d Dir) SyncExit() error {
	f, err := openNoFollow(d.file(exitName), os.O_RDONLY, 0)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close(), syncDir(d.path))
	}
	if err != nil {
		return fmt.Errorf("cannot sync %s: %w", exitName, err)
	}
	return nil
}

// cut ends the file after its content where all of the reserve was written to.
func (e *ExitFile) cut(size int64) error {
	info, err := e.f.Stat()
	if err == nil && info.Size() > size {
		err = e.f.Truncate(size)
	}
	return err
}

// Close gives back the space that was reserved and not needed.
func (e *ExitFile) Close() error {
	info, err := e.f.Stat()
	if err == nil {
		err = e.f.Truncate(info.Size())
	}
	return errors.Join(err, e.f.Close())
}

// ReadExit reads exit.json; [fs.ErrNotExist] means that the attempt has not
// ended, or was lost.
func (d Dir) ReadExit() (Exit, error) {
	var exit Exit
	data, err := d.exit()
	if err != nil {
		return exit, fmt.Errorf("cannot read %s: %w", exitName, err)
	}
	if err := json.Unmarshal(data, &exit); err != nil {
		return exit, fmt.Errorf("%w: %s: %w", ErrInvalid, exitName, err)
	}
	if exit.Version > Version {
		return exit, fmt.Errorf("%s of version %d, this program knows %d: %w", exitName, exit.Version, Version, ErrVersion)
	}
	if exit.Job != d.job || exit.Attempt != d.number {
		return exit, fmt.Errorf("%w: %s in the directory of %s is of %s-%d", ErrInvalid, exitName, d.ID(), exit.Job, exit.Attempt)
	}
	return exit, nil
}

// Ended tells whether exit.json is there, with all of its content.
func (d Dir) Ended() (bool, error) {
	_, err := d.exit()
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// exit is what is in exit.json; without all of it, it is not there.
func (d Dir) exit() ([]byte, error) {
	data, err := readBounded(d.file(exitName), maxExit)
	if err == nil && !json.Valid(data) {
		err = fmt.Errorf("what it has was cut short: %w", fs.ErrNotExist)
	}
	return data, err
}

// clip cuts a text for a person to at most n bytes, between characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = " [...]"
	n -= len(mark)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + mark
}
