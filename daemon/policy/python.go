package policy

import (
	"errors"
	"fmt"
	"os"
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
