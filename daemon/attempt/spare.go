package attempt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A Spare is what an attempt has on the disk when it begins, made before there is one:
//
//	<spare>/                 root 0700; will be the work directory
//	    job/                 root:gid 2750; will be <state>/jobs/<job>
//	        1/               root:gid 2750; will be the attempt's
//	            lock         0600, locked
//	            secrets.json 0600, empty; not in every spare
//	            events       empty
//	            .request.json
//	            .exit.spare  with the space of exit.json
//
// Making a file is slow where many were removed in the last minutes: ext4 passes over
// each of their inodes first. Giving one another name is not.
type Spare struct {
	path    string
	secrets bool
	lock    *Lock
}

// NewSpare makes a spare at a path of root's alone, on the file system of the state
// directory, for a first attempt with secrets or without.
func NewSpare(path string, gid int, secrets bool) (_ *Spare, err error) {
	s := &Spare{path: path, secrets: secrets}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot make an attempt's directory beforehand: %w", errors.Join(err, s.Discard()))
		}
	}()
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	d := s.dir()
	for _, dir := range []string{filepath.Dir(d.path), d.path} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		if err := own(dir, gid, dirMode); err != nil {
			return nil, err
		}
	}
	if s.lock, err = d.Lock(); err != nil {
		return nil, err
	}
	files := []string{eventsName, requestTemp, exitSpare}
	if secrets {
		files = append(files, secretsName)
	}
	for _, name := range files {
		f, err := openNoFollow(d.file(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		switch name {
		case secretsName:
		case exitSpare:
			err = reserveExit(f, gid)
		default:
			err = ownFile(f, gid)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// dir is the attempt's directory before it has its name.
func (s *Spare) dir() Dir { return Dir{path: filepath.Join(s.path, "job", "1")} }

// Become makes a spare the attempt's, with its work directory, whose lock it returns. It
// takes the place of [Dir.Create]. It fails with [fs.ErrExist], and the spare stays one,
// where the job has a directory: it is good for a first attempt alone. After any other
// error it must be discarded.
func (s *Spare) Become(d Dir, work string, secrets bool) (*Lock, error) {
	if d.number != 1 {
		return nil, fs.ErrExist
	}
	if s.secrets && !secrets {
		if err := s.dir().RemoveSecrets(); err != nil {
			return nil, err
		}
	}
	job := filepath.Dir(d.path)
	err := unix.Renameat2(unix.AT_FDCWD, filepath.Dir(s.dir().path), unix.AT_FDCWD, job, unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		return nil, fs.ErrExist
	}
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, s.path, unix.AT_FDCWD, work, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot give the attempt its directory: %w", err)
	}
	lock := s.lock
	s.lock = nil
	return lock, nil
}

// Discard removes what has not become an attempt's.
func (s *Spare) Discard() error {
	if s.lock != nil {
		s.lock.Close()
	}
	return RemoveWork(s.path)
}
