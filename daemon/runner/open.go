package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
)

// opener opens host files as the submitter, beneath the directories that policy
// allows. Where a path leads is asked of what was opened, not of its name: of two
// looks at a name, only the first can be trusted.
type opener struct {
	roots  []attempt.Root
	closed []string
}

// newOpener finds out where roots really are: that /home is a link is the
// admin's business, who wrote /home.
func newOpener(roots []attempt.Root, closed []string) *opener {
	o := &opener{}
	for _, r := range roots {
		o.roots = append(o.roots, r)
		if real, err := realPath(r.Path); err == nil && real != r.Path {
			o.roots = append(o.roots, attempt.Root{Path: real, Write: r.Write})
		}
	}
	for _, c := range closed {
		o.closed = append(o.closed, c)
		if real, err := realPath(c); err == nil && real != c {
			o.closed = append(o.closed, real)
		}
	}
	return o
}

func realPath(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// found is something that exists and that the job may have.
type found struct {
	*os.File // O_PATH
	stat     unix.Stat_t
	where    string // when it was looked at
}

// open returns what a clean absolute path leads to.
func (o *opener) open(path string, write bool) (*found, error) {
	f, err := o.locate(path)
	if err != nil {
		return nil, err
	}
	if err := policy.MayHave(o.roots, o.closed, f.where, write); err != nil {
		f.Close()
		return nil, fmt.Errorf("it leads to %w", err)
	}
	return f, nil
}

// locate opens a path beneath its root. A link out of the root, into another one
// for all we know, is followed too; it counts where that leads. The links in
// /proc that lead to open files of this process are no paths of anybody's.
func (o *opener) locate(path string) (*found, error) {
	root, ok := policy.RootOf(o.roots, path)
	if !ok {
		return nil, errors.New("it is beneath none of the directories that jobs may use")
	}
	dir, err := unix.Open(root.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	rel, err := filepath.Rel(root.Path, path)
	if err != nil {
		return nil, err
	}
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := openat2(dir, rel, &how)
	if errors.Is(err, unix.EXDEV) {
		how.Resolve = unix.RESOLVE_NO_MAGICLINKS
		fd, err = openat2(unix.AT_FDCWD, path, &how)
	}
	if err != nil {
		return nil, err
	}
	f := &found{File: os.NewFile(uintptr(fd), path)}
	if err = unix.Fstat(fd, &f.stat); err == nil {
		f.where, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	// What has no name any more is nowhere.
	if err == nil && (f.stat.Nlink == 0 || !filepath.IsAbs(f.where)) {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openat2 tries again where a rename elsewhere made the kernel lose its way.
func openat2(dir int, path string, how *unix.OpenHow) (int, error) {
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, path, how)
		if err != unix.EINTR && (err != unix.EAGAIN || try == 100) {
			return fd, err
		}
	}
}

// openRegular opens a file that exists. It looks first, because merely opening
// a device or a named pipe can do something, or wait for ever.
func (o *opener) openRegular(path string, flags int) (*os.File, error) {
	f, err := o.open(path, flags&unix.O_ACCMODE != unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := wantRegular(f.stat.Mode); err != nil {
		return nil, err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// createRegular makes a file that does not exist, 0644 as programs do. If
// another has made something there meanwhile, that must be a regular file.
func (o *opener) createRegular(path string) (*os.File, error) {
	dir, name, err := o.parent(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0o644)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a link that leads nowhere")
	}
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil {
		err = wantRegular(st.Mode)
	}
	if err == nil {
		err = unix.SetNonblock(fd, false)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makeDirectory makes a directory in one that exists.
func (o *opener) makeDirectory(path string, mode os.FileMode) error {
	dir, name, err := o.parent(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mkdirat(int(dir.Fd()), name, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	made := os.NewFile(uintptr(fd), path)
	defer made.Close()
	return made.Chmod(mode)
}

// removeDirectory removes an empty directory.
func (o *opener) removeDirectory(path string) error {
	dir, name, err := o.parent(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
}

// parent opens the directory in which the job may have something of this path.
func (o *opener) parent(path string) (*found, string, error) {
	dir, err := o.locate(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	name := filepath.Base(path)
	if err := policy.MayHave(o.roots, o.closed, filepath.Join(dir.where, name), true); err != nil {
		dir.Close()
		return nil, "", fmt.Errorf("it would be %w", err)
	}
	return dir, name, nil
}

func wantRegular(mode uint32) error {
	var is string
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		is = "a directory"
	case unix.S_IFIFO:
		is = "a named pipe"
	case unix.S_IFSOCK:
		is = "a socket"
	default:
		is = "a device"
	}
	return fmt.Errorf("it is %s; only a regular file can be streamed", is)
}
