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
// root's and closed to others for writing. It looks at them from the root on: when it
// gets to one, nobody else can change any more which that is. The error is a person's to
// mend.
func RootsAlone(name string) error { return new(Walk).RootsAlone(name) }

// A Walk looks at several paths, and at what they have in common once. The zero value
// has looked at nothing.
type Walk struct {
	found map[string]bool // root's alone, and paths without links
}

// RootsAlone is the function of that name.
func (w *Walk) RootsAlone(name string) error {
	fail := func(at string, err error) error {
		if home := strings.HasPrefix(at, "/root/") || strings.HasPrefix(at, "/home/"); home && errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot look at %s, where %s leads: %w; a service sees no home directories: take a Python that is elsewhere, as /usr/bin/python3 is", at, name, err)
		}
		return fmt.Errorf("cannot look at %s: %w", at, err)
	}
	if w.found == nil {
		w.found = map[string]bool{}
	}
	at, links := "/", 0
	for rest := "/" + name; rest != ""; {
		// The first is the root itself.
		part, after, _ := strings.Cut(rest, "/")
		rest = after
		next := path.Join(at, part)
		if w.found[next] {
			at = next
			continue
		}
		var st unix.Stat_t
		if err := unix.Lstat(next, &st); err != nil {
			return fail(next, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			if st.Uid != 0 || st.Mode&0o022 != 0 {
				return fmt.Errorf("%s can be changed by others than root (it belongs to user %d, mode %04o), who could then run programs as whoever calls a function: chown root %[1]s, chmod go-w %[1]s",
					next, st.Uid, st.Mode&0o7777)
			}
			w.found[next], at = true, next
			continue
		}
		// Whose a link is means nothing: its directory says who can replace it.
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlink(next, buf)
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
		rest = to + "/" + rest
	}
	return nil
}

// CheckPython refuses an interpreter, with what it imports from, that others than root
// can change, or that a function would not see. load are directories with more plugins.
func CheckPython(interpreter string, load []string) error {
	var w Walk
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
