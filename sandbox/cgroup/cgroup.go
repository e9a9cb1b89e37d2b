// Package cgroup empties, measures and removes control groups by their path,
// without the program that made them: the monitor ends with it what a dead
// runner left behind, and sandbox/runc what a container left behind. It writes
// no limits; the container runtime does.
//
// A path is relative to the root of each hierarchy. On cgroup v2 that is one
// directory below /sys/fs/cgroup; on v1, also beside a v2 hierarchy without
// controllers ("hybrid"), one directory in every hierarchy. A group exists
// where at least one of them does, and counts as empty when all of them are.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const root = "/sys/fs/cgroup"

// Unified reports whether the machine has cgroup v2 alone.
func Unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// Group is a control group that may or may not exist.
type Group struct {
	path string // "/a/b"
	dirs []dir
}

// dir is the group's directory in one hierarchy.
type dir struct {
	path string
	// controllers is the hierarchy's name on v1 ("memory", "cpu,cpuacct"), empty on v2.
	controllers string
	v2          bool
}

// At returns the group at a path relative to the root of each hierarchy. It
// refuses the root itself and whatever climbs: killing or removing those would
// end the machine.
func At(p string) (Group, error) {
	clean := path.Clean("/" + p)
	if clean == "/" || strings.ContainsRune(p, 0) || hasDotDot(p) {
		return Group{}, fmt.Errorf("cannot use %q as a control group: it must name a group below the root", p)
	}
	g := Group{path: clean}
	if Unified() {
		g.dirs = []dir{{path: root + clean, v2: true}}
		return g, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return Group{}, fmt.Errorf("cannot list the control group hierarchies: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue // "cpu" is a link where the hierarchy is "cpu,cpuacct"
		}
		hierarchy := filepath.Join(root, e.Name())
		var st unix.Statfs_t
		if err := unix.Statfs(hierarchy, &st); err != nil {
			return Group{}, fmt.Errorf("cannot look at the control group hierarchy %s: %w", hierarchy, err)
		}
		switch st.Type {
		case unix.CGROUP2_SUPER_MAGIC:
			g.dirs = append(g.dirs, dir{path: hierarchy + clean, v2: true})
		case unix.CGROUP_SUPER_MAGIC:
			g.dirs = append(g.dirs, dir{path: hierarchy + clean, controllers: e.Name()})
		}
	}
	if len(g.dirs) == 0 {
		return Group{}, errors.New("cannot use control groups: none are mounted below " + root)
	}
	return g, nil
}

// Below is the group of that name directly below this one.
func (g Group) Below(name string) (Group, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return Group{}, fmt.Errorf("cannot use %q as the name of a control group", name)
	}
	below := Group{path: g.path + "/" + name, dirs: slices.Clone(g.dirs)}
	for i := range below.dirs {
		below.dirs[i].path += "/" + name
	}
	return below, nil
}

func hasDotDot(p string) bool {
	for element := range strings.SplitSeq(p, "/") {
		if element == ".." {
			return true
		}
	}
	return false
}

// Path is the group's path from the root of each hierarchy, with a leading slash.
func (g Group) Path() string { return g.path }

// Exists reports whether the group is there in any hierarchy.
func (g Group) Exists() bool {
	for _, d := range g.dirs {
		if _, err := os.Stat(d.path); err == nil {
			return true
		}
	}
	return false
}

// A Hierarchy is the group's directory in one hierarchy of cgroup v1.
type Hierarchy struct {
	Name string // "memory", "cpu,cpuacct", "systemd"
	Dir  string
}

// Make makes the group in every hierarchy of cgroup v1, without limits, and
// returns where. On v2 it does nothing.
func (g Group) Make() ([]Hierarchy, error) {
	var all []Hierarchy
	for _, d := range g.dirs {
		if d.v2 {
			continue
		}
		if err := os.MkdirAll(d.path, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the control group %s: %w", g.path, err)
		}
		all = append(all, Hierarchy{d.controllers, d.path})
	}
	return all, nil
}

// Join makes the group if need be and moves a process into it: on v2 the
// group itself, on v1 one hierarchy, which is enough for [Group.Kill] to find
// the process. It sets no limits.
func (g Group) Join(pid int) error {
	d := g.dirs[0]
	for _, other := range g.dirs {
		if other.v2 || other.handles("pids") {
			d = other
		}
		if other.v2 {
			break
		}
	}
	if err := os.MkdirAll(d.path, 0o755); err != nil {
		return fmt.Errorf("cannot make the control group %s: %w", g.path, err)
	}
	if err := os.WriteFile(filepath.Join(d.path, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return fmt.Errorf("cannot move process %d into the control group %s: %w", pid, g.path, err)
	}
	return nil
}

// Empty reports whether no process is in the group or below it. A group that
// does not exist is empty.
func (g Group) Empty() (bool, error) {
	for _, d := range g.dirs {
		if d.v2 {
			events, err := readKeyed(filepath.Join(d.path, "cgroup.events"))
			if err != nil {
				return false, err
			}
			if events["populated"] != 0 {
				return false, nil
			}
			continue
		}
		pids, err := pidsBelow(d.path)
		if err != nil {
			return false, err
		}
		if len(pids) > 0 {
			return false, nil
		}
	}
	return true, nil
}

// Remove removes the group and every group below it, in every hierarchy. It
// fails while a process is left in one of them. A group that does not exist
// is removed.
func (g Group) Remove() error {
	var errs []error
	for _, d := range g.dirs {
		errs = append(errs, removeTree(d.path))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot remove the control group %s: %w", g.path, err)
	}
	return nil
}

// removeTree removes a directory of a cgroup file system depth first. Only
// directories can be removed there; the files go with them.
func removeTree(dir string) error {
	// A process that has just died holds its group for a moment longer.
	const tries = 10
	for try := range tries {
		err := unix.Rmdir(dir)
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EBUSY, unix.EINTR:
		default:
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		}
		children, err2 := childrenOf(dir)
		if err2 != nil {
			return err2
		}
		for _, child := range children {
			if err := removeTree(child); err != nil {
				return err
			}
		}
		if len(children) == 0 {
			if try == tries-1 {
				return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
			}
			time.Sleep(time.Millisecond << min(try, 6))
		}
	}
	return &fs.PathError{Op: "rmdir", Path: dir, Err: unix.EBUSY}
}

// childrenOf lists the groups directly below one; none when it is gone.
func childrenOf(dir string) ([]string, error) {
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil && st.Nlink == 2 {
		return nil, nil // a link for each
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil, nil
		}
		return nil, err
	}
	var children []string
	for _, e := range entries {
		if e.IsDir() {
			children = append(children, filepath.Join(dir, e.Name()))
		}
	}
	return children, nil
}

// pidsBelow lists the processes of a group and all groups below it; none when
// it is gone.
func pidsBelow(dir string) ([]int, error) {
	pids, err := readPIDs(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	children, err := childrenOf(dir)
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		more, err := pidsBelow(child)
		if err != nil {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

func readPIDs(file string) ([]int, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(data) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", file, err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// readFile reads a control file; one that is gone, or whose group is, reads as
// empty. [os.ReadFile] would enter each into the poller, which takes longer than all else.
func readFile(file string) (string, error) {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	var data []byte
	if err == nil {
		data, err = readAll(fd)
		unix.Close(fd)
	}
	switch {
	case err == nil:
		return string(data), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENODEV):
		return "", nil
	default:
		return "", &fs.PathError{Op: "read", Path: file, Err: err}
	}
}

func readAll(fd int) ([]byte, error) {
	data := make([]byte, 0, 1024)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return data, err
		}
		if data = data[:len(data)+n]; len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
	}
}

// readKeyed reads a control file of lines "name number"; empty when it is gone.
func readKeyed(file string) (map[string]uint64, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	values := make(map[string]uint64)
	for line := range strings.Lines(data) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			values[name] = n
		}
	}
	return values, nil
}

// handles reports whether a v1 hierarchy carries a controller.
func (d dir) handles(controller string) bool {
	for name := range strings.SplitSeq(d.controllers, ",") {
		if name == controller {
			return true
		}
	}
	return false
}

// file returns the path of a control file in the hierarchy that has its
// controller: the one named, or the v2 hierarchy when the machine is unified.
func (g Group) file(controller, name string) string {
	for _, d := range g.dirs {
		if d.handles(controller) {
			return filepath.Join(d.path, name)
		}
	}
	return ""
}

// unifiedDir is the group's directory when the machine has cgroup v2 alone.
func (g Group) unifiedDir() (string, bool) {
	if len(g.dirs) == 1 && g.dirs[0].v2 {
		return g.dirs[0].path, true
	}
	return "", false
}
