package plugin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxFiles is how many task files a directory may have.
const MaxFiles = 4096

// ReadDir reads the task files of a directory, in the order of their names: those
// that end in .toml and do not begin with a dot. Each, and the directory, must belong
// to owner (root, but for tests) or root and may not be written by others. What is
// wrong with one leaves the others as they are. A directory that is not there has none.
func ReadDir(dir string, owner int) (tasks []Task, problems []error) {
	err := eachFile(dir, owner, func(file string, data []byte, err error) bool {
		if err != nil {
			problems = append(problems, err)
			return true
		}
		t, bad := Parse(file, data)
		if len(bad) > 0 {
			problems = append(problems, bad...)
			return true
		}
		tasks = append(tasks, t)
		return true
	})
	if err != nil {
		problems = append(problems, err)
	}
	return tasks, problems
}

// eachFile reads the task files of a directory in their order, for as long as more
// wants others. The error is of those that it does not come to.
func eachFile(dir string, owner int, more func(file string, data []byte, err error) bool) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read task files: %w", err)
	}
	defer d.Close()
	if err := trusted(d, dir, unix.S_IFDIR, owner); err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		err = fmt.Errorf("cannot read all task files: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".toml") || n[0] == '.' })
	slices.Sort(names)
	if len(names) > MaxFiles {
		err = fmt.Errorf("%s: it has %d task files, those after the first %d are left out", dir, len(names), MaxFiles)
		names = names[:MaxFiles]
	}
	for _, name := range names {
		file := filepath.Join(dir, name)
		data, bad := readIn(int(d.Fd()), name, file, owner)
		if !more(file, data, bad) {
			break
		}
	}
	return err
}

// readIn reads a file of an open directory. One that is more than it may be is read
// no further.
func readIn(dir int, name, file string, owner int) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ELOOP):
		return nil, &Problem{File: file, Text: "it is not used, because it is a symbolic link; put the file itself there"}
	case err != nil:
		return nil, &Problem{File: file, Text: fmt.Sprintf("cannot open it: %v; the daemon's user must be able to read it", err)}
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	if err := trusted(f, file, unix.S_IFREG, owner); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, &Problem{File: file, Text: fmt.Sprintf("cannot read it: %v", errors.Unwrap(err))}
	}
	return data, nil
}

// trusted holds what was opened against whose it must be.
func trusted(f *os.File, name string, kind uint32, owner int) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("cannot look at %s: %w", name, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return &Problem{File: name, Text: "it is not used, because it is no regular file"}
	case st.Uid != 0 && st.Uid != uint32(owner), st.Mode&0o022 != 0:
		return &Problem{File: name, Text: fmt.Sprintf(
			"it is not used: it must belong to root, and nobody else may write it (it belongs to user %d, mode %04o)", st.Uid, st.Mode&0o7777)}
	}
	return nil
}
