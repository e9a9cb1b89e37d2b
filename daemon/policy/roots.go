package policy

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

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
	_, err := w.to(name)
	return err
}

// to is where a path leads, without links, if it is root's alone.
func (w *Walk) to(name string) (at string, err error) {
	fail := func(at string, err error) (string, error) {
		if home := strings.HasPrefix(at, "/root/") || strings.HasPrefix(at, "/home/"); home && errors.Is(err, unix.ENOENT) {
			return "", fmt.Errorf("cannot look at %s, where %s leads: %w; a service sees no home directories: take one that is elsewhere, as those in /usr/bin are", at, name, err)
		}
		return "", fmt.Errorf("cannot look at %s: %w", at, err)
	}
	if w.found == nil {
		w.found = map[string]bool{}
	}
	at = "/"
	links := 0
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
				return "", fmt.Errorf("%s can be changed by others than root (it belongs to user %d, mode %04o), who could then run programs as whoever calls the task: chown root %[1]s, chmod go-w %[1]s",
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
	return at, nil
}
