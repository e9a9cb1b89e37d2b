package attempt

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names in an attempt's directory.
const (
	requestName = "request.json"
	requestTemp = ".request.json"
	lockName    = "lock"
	eventsName  = "events"
	logName     = "log"
	cancelName  = "cancel"
	exitName    = "exit.json"
	exitTemp    = ".exit.json"
	exitSpare   = ".exit.spare"
)

// fileMode is the mode of what the front reads; the group is the front's.
const fileMode = 0o640

// maxName bounds a job id, which becomes part of file, cgroup and unit names,
// and the name of a stream.
const maxName = 80

// Dir names the directory of one attempt. The zero value names none.
type Dir struct {
	path   string
	job    string
	number int
}

// NewDir is the directory of a job's attempt below the state directory. It
// checks the names and touches no file.
func NewDir(stateDir, job string, number int) (Dir, error) {
	if !filepath.IsAbs(stateDir) {
		return Dir{}, fmt.Errorf("%w: state directory %q is not absolute", ErrInvalid, stateDir)
	}
	if !validName(job) {
		return Dir{}, fmt.Errorf("%w: job id %q: want 1 to %d letters, digits, '.', '_' or '-', the first a letter or digit",
			ErrInvalid, job, maxName)
	}
	if number < 1 {
		return Dir{}, fmt.Errorf("%w: attempt number %d: want 1 or more", ErrInvalid, number)
	}
	return Dir{
		path:   filepath.Join(stateDir, "jobs", job, strconv.Itoa(number)),
		job:    job,
		number: number,
	}, nil
}

// ParseDir is the inverse of [Dir.Path]: it takes <state>/jobs/<job>/<attempt>
// as it is handed to a runner.
func ParseDir(path string) (Dir, error) {
	bad := func() (Dir, error) {
		return Dir{}, fmt.Errorf("%w: %q is not <state>/jobs/<job>/<attempt>", ErrInvalid, path)
	}
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return bad()
	}
	parent, last := filepath.Split(path)
	jobs, job := filepath.Split(filepath.Clean(parent))
	state, jobsName := filepath.Split(filepath.Clean(jobs))
	number, err := strconv.Atoi(last)
	if err != nil || strconv.Itoa(number) != last || jobsName != "jobs" {
		return bad()
	}
	return NewDir(filepath.Clean(state), job, number)
}

// WorkDir is <state>/work/<job>-<attempt>, what the attempt needs on disk only
// while it lives.
func WorkDir(stateDir, job string, number int) (string, error) {
	d, err := NewDir(stateDir, job, number)
	if err != nil {
		return "", err
	}
	return filepath.Join(stateDir, "work", d.ID()), nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// Path is the directory's absolute path.
func (d Dir) Path() string { return d.path }

// Job is the job's id.
func (d Dir) Job() string { return d.job }

// Number counts a job's attempts from 1.
func (d Dir) Number() int { return d.number }

// ID is "<job>-<attempt>", unique on the machine: the name of the container,
// of its cgroup and of the work directory.
func (d Dir) ID() string { return d.job + "-" + strconv.Itoa(d.number) }

// Create makes the directory, root:gid 2750. It fails with [fs.ErrExist] when
// the attempt was made before. Nothing is synced: an attempt whose directory a
// loss of power takes was lost with it, and [ExitFile.Commit] syncs what leads
// to an exit that counts.
func (d Dir) Create(gid int) error {
	parent := filepath.Dir(d.path)
	err := makeOwned(parent, gid)
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = makeOwned(d.path, gid)
	}
	if err != nil {
		return fmt.Errorf("cannot make the attempt's directory: %w", err)
	}
	return nil
}

// TempPattern matches what a crash may leave in the directory of all jobs:
// directories that never got their name, empty.
const TempPattern = ".tmp-*"

// dirMode has what is made in an attempt's directory belong to the front's group from
// its first moment, so that its readers never find it closed.
const dirMode = os.ModeSetgid | 0o750

// inherits tells whether what is made in a directory has that group already.
func inherits(dir string, gid int) bool {
	var st unix.Stat_t
	return unix.Stat(dir, &st) == nil && st.Mode&unix.S_ISGID != 0 && int(st.Gid) == gid
}

// makeOwned makes a directory that the front may enter from the moment it sees
// it: where it does not inherit its group, it gets its name when it has that.
func makeOwned(path string, gid int) error {
	if inherits(filepath.Dir(path), gid) {
		if err := os.Mkdir(path, 0o750); err != nil {
			return err
		}
		return own(path, gid, dirMode)
	}
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
	}
	temp, err := os.MkdirTemp(filepath.Dir(path), TempPattern)
	if err != nil {
		return err
	}
	if err = own(temp, gid, dirMode); err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return errors.Join(&fs.PathError{Op: "mkdir", Path: path, Err: err}, os.Remove(temp))
	}
	return nil
}

func (d Dir) file(name string) string { return filepath.Join(d.path, name) }

// own gives a path to root:gid with exactly mode, whatever the umask was. Only
// root can give files away; anyone else (a test) keeps what it made.
func own(path string, gid int, mode os.FileMode) error {
	info, err := os.Lstat(path)
	if err != nil || owned(info, gid, mode) {
		return err
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(path, 0, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

func ownFile(f *os.File, gid int) error {
	info, err := f.Stat()
	if err != nil || owned(info, gid, fileMode) {
		return err
	}
	if os.Geteuid() == 0 {
		if err := f.Chown(0, gid); err != nil {
			return err
		}
	}
	return f.Chmod(fileMode)
}

// owned tells whether nothing is left to be done, each step of which would be written to the disk.
func owned(info os.FileInfo, gid int, mode os.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&(os.ModePerm|os.ModeSetgid|os.ModeSetuid|os.ModeSticky) == mode && (gid < 0 || int(st.Gid) == gid) && int(st.Uid) == os.Geteuid()
}

func syncDir(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return f.Sync()
}

// replaceFile puts data at path in one step: a reader sees the old file, the
// new one or, before the first, none.
func replaceFile(path string, data []byte, gid int) error {
	f, err := createTemp(path)
	if err != nil {
		return err
	}
	return putInPlace(f, path, data, gid)
}

// putInPlace takes over an empty file in the directory of path, which it becomes.
func putInPlace(f *os.File, path string, data []byte, gid int) (err error) {
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := ownFile(f, gid); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	// os.Rename would look at path first.
	if err := unix.Rename(f.Name(), path); err != nil {
		return &os.LinkError{Op: "rename", Old: f.Name(), New: path, Err: err}
	}
	return nil
}

// createTemp makes a file beside path that is to get its name.
func createTemp(path string) (*os.File, error) {
	return openNoFollow(filepath.Join(filepath.Dir(path), fmt.Sprintf(".tmp-%016x", rand.Uint64())), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
}

// createOwned makes an empty file that its readers may read from the moment
// they see it: the front waits for it to appear, and must not find it closed.
func createOwned(path string, gid int) (*os.File, error) {
	if inherits(filepath.Dir(path), gid) {
		return openNoFollow(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	}
	f, err := createTemp(path)
	if err != nil {
		return nil, err
	}
	if err = errors.Join(ownFile(f, gid), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return nil, err
	}
	// Again, so that errors tell its name.
	return openNoFollow(path, os.O_RDWR, 0)
}

// openEmpty opens a file to write it anew. It cuts off only what is there: ext4 has
// the disk write a file that was cut as soon as it is closed.
func openEmpty(path string) (*os.File, error) {
	f, err := openNoFollow(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openNoFollow opens a file of the directory. The directory is root's, so a
// link there is a mistake rather than an attack, and refused all the same. A regular
// file needs none of the system calls by which [os.OpenFile] tries to poll it.
func openNoFollow(path string, flags int, perm os.FileMode) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_LARGEFILE, uint32(perm.Perm()))
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !errors.Is(err, unix.EINTR):
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}
