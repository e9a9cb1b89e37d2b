package attempt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// RemoveWork removes a work directory with all that a container left in it. It
// goes by descriptor, follows no link, enters no other mount, and holds two
// descriptors however deep the tree is, since a container may nest directories
// beyond any limit on open files. A path that is not there is no error. Nothing
// else may change the tree meanwhile: its cgroup is empty and its mounts gone.
func RemoveWork(path string) error {
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = removeAt(parent, filepath.Base(path))
		unix.Close(parent)
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return nil
}

// above is where a descent came from: the directory, to be recognised when the
// walk climbs back through "..", and the name that it went into.
type above struct {
	dev, ino uint64
	name     string
}

// RemoveAll empties an open directory in the same way, as whoever calls it.
func RemoveAll(dir *os.File) error {
	// What is closed cannot be entered by any name, not even its own.
	var st unix.Stat_t
	err := unix.Fstat(int(dir.Fd()), &st)
	if err == nil && st.Mode&0o700 != 0o700 {
		err = unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), 0o700)
	}
	at := -1
	if err == nil {
		at, err = enter(int(dir.Fd()), ".")
	}
	if err != nil {
		return err
	}
	defer unix.Close(at)
	buf := make([]byte, 32<<10)
	for {
		sub, empty, err := sweep(at, buf)
		if err == nil && sub != "" {
			err = removeAt(at, sub)
		}
		if err != nil || empty {
			return err
		}
	}
}

func removeAt(parent int, name string) error {
	full, err := unlink(parent, name)
	if err != nil || !full {
		return err
	}
	cur, err := enter(parent, name)
	if err != nil {
		return err
	}
	defer func() { unix.Close(cur) }()
	var path []above
	buf := make([]byte, 32<<10)
	for {
		sub, empty, err := sweep(cur, buf)
		switch {
		case err != nil:
			return err
		case sub != "":
			here, err := identify(cur)
			if err != nil {
				return err
			}
			here.name = sub
			child, err := enter(cur, sub)
			if err != nil {
				return err
			}
			path = append(path, here)
			unix.Close(cur)
			cur = child
		case !empty:
		case len(path) == 0:
			return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		default:
			up, err := unix.Openat(cur, "..", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			unix.Close(cur)
			cur = up
			last := path[len(path)-1]
			path = path[:len(path)-1]
			here, err := identify(cur)
			if err != nil {
				return err
			}
			if here.dev != last.dev || here.ino != last.ino {
				return errors.New("the tree was changed meanwhile")
			}
			if err := unix.Unlinkat(cur, last.name, unix.AT_REMOVEDIR); err != nil {
				return fmt.Errorf("%s: %w", last.name, err)
			}
		}
	}
}

// sweep removes the next entries of a directory. It stops with the name of a
// directory that is not empty, and says when nothing was left.
func sweep(dir int, buf []byte) (sub string, empty bool, err error) {
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return "", false, err
	}
	var names []string
	for n := -1; len(names) == 0 && n != 0; {
		if n, err = unix.ReadDirent(dir, buf); err != nil {
			return "", false, err
		}
		// A signal ends a batch early: "." and ".." alone do not say that nothing follows.
		_, _, names = unix.ParseDirent(buf[:n], -1, nil)
	}
	for _, name := range names {
		full, err := unlink(dir, name)
		if err != nil {
			return "", false, fmt.Errorf("%s: %w", name, err)
		}
		if full {
			return name, false, nil
		}
	}
	return "", len(names) == 0, nil
}

// unlink removes one name, unless it is a directory with something in it.
func unlink(dir int, name string) (full bool, err error) {
	err = unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return true, nil
	}
	return false, err
}

// enter opens a directory, to which whoever removes may have to give themselves
// the rights first: root has them, a submitter not if a program took them away.
func enter(dir int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	fd, err := unix.Openat2(dir, name, &how)
	if err == nil {
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
			err = unix.Fchmod(fd, 0o700)
		}
		if err != nil {
			unix.Close(fd)
		}
		return fd, err
	}
	if !errors.Is(err, unix.EACCES) {
		return -1, err
	}
	closed := how
	closed.Flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at, err := unix.Openat2(dir, name, &closed)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", at), 0o700); err != nil {
		return -1, err
	}
	return unix.Openat2(at, ".", &how)
}

func identify(dir int) (above, error) {
	var st unix.Stat_t
	err := unix.Fstat(dir, &st)
	return above{dev: st.Dev, ino: st.Ino}, err
}
