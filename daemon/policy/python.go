package policy

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Unseen are directories at the host's root that a function of a Python package does
// not see: its container has its own, or it has no business there.
func Unseen() []string {
	return []string{"boot", "dev", "etc", "lost+found", "proc", "run", "sys", "tmp", "var"}
}

// maxLinks is how many symbolic links the kernel follows in a path.
const maxLinks = 40

// RootsAlone tells whether nobody but root can change what a clean absolute path leads
// to, or where it leads: every directory on the way, and beyond every link, must be
// root's and closed to others for writing. It walks by descriptor, so what was looked
// at is what is there. The error is a person's to mend.
func RootsAlone(name string) error {
	var w Walk
	defer w.Close()
	return w.RootsAlone(name)
}

// A Walk looks at several paths and at what they have in common once: it keeps what it
// has found to be root's alone open. The zero value has looked at nothing.
type Walk struct {
	found map[string]int // descriptors, by paths without links
}

// Close ends the walk.
func (w *Walk) Close() {
	for _, fd := range w.found {
		unix.Close(fd)
	}
	w.found = nil
}

// RootsAlone is the function of that name.
func (w *Walk) RootsAlone(name string) error {
	fail := func(at string, err error) error {
		if home := strings.HasPrefix(at, "/root/") || strings.HasPrefix(at, "/home/"); home && errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot look at %s, where %s leads: %w; a service sees no home directories: take a Python that is elsewhere, as /usr/bin/python3 is", at, name, err)
		}
		return fmt.Errorf("cannot look at %s: %w", at, err)
	}
	at, links := "/", 0
	for rest := append([]string{"/"}, strings.Split(name, "/")...); len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		next := path.Join(at, part)
		if _, ok := w.found[next]; ok {
			at = next
			continue
		}
		dir := unix.AT_FDCWD // for the root, which is the first
		if next != "/" {
			dir = w.found[at]
		}
		fd, err := unix.Openat(dir, part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return fail(next, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return fail(next, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			if st.Uid != 0 || st.Mode&0o022 != 0 {
				unix.Close(fd)
				return fmt.Errorf("%s can be changed by others than root (it belongs to user %d, mode %04o), who could then run programs as whoever calls a function: chown root %[1]s, chmod go-w %[1]s",
					next, st.Uid, st.Mode&0o7777)
			}
			if w.found == nil {
				w.found = map[string]int{}
			}
			w.found[next], at = fd, next
			continue
		}
		// Whose a link is means nothing: its directory says who can replace it.
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(fd, "", buf)
		unix.Close(fd)
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			return fail(next, err)
		}
		to := string(buf[:n])
		if path.IsAbs(to) {
			at = "/"
		}
		rest = append(strings.Split(to, "/"), rest...)
	}
	return nil
}

// CheckPython refuses an interpreter, with what it imports from, that others than root
// can change, or that a function would not see. load are directories with more plugins.
func CheckPython(interpreter string, load []string) error {
	var w Walk
	defer w.Close()
	for _, name := range append([]string{interpreter}, load...) {
		if top, _, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/"); slices.Contains(Unseen(), top) {
			return fmt.Errorf("%s is beneath /%s, which functions do not see; put it elsewhere, beneath /opt for example", name, top)
		}
		if err := w.RootsAlone(name); err != nil {
			return err
		}
	}
	// A virtual environment says of itself where it is.
	venv := filepath.Dir(filepath.Dir(interpreter))
	marker := filepath.Join(venv, "pyvenv.cfg")
	if _, err := os.Lstat(marker); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot look at %s: %w", marker, err)
	}
	for _, lib := range below(venv, "lib") {
		for _, python := range below(lib, "python3") {
			site := filepath.Join(python, "site-packages")
			if _, err := os.Lstat(site); err != nil {
				continue
			}
			if err := w.RootsAlone(site); err != nil {
				return err
			}
		}
	}
	return w.RootsAlone(marker)
}

// below returns what a directory has whose name begins so; nothing of what is none.
func below(dir, prefix string) (all []string) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	names, _ := f.Readdirnames(-1)
	for _, name := range names {
		if strings.HasPrefix(name, prefix) {
			all = append(all, filepath.Join(dir, name))
		}
	}
	return all
}
