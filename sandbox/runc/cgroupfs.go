//go:build linux && cgo && seccomp

package runc

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"girderworker/sandbox/cgroup"
)

// makeCgroup makes what a container has at /sys/fs/cgroup: its own groups, to
// be read. With cgroup v1 there is a dozen of hierarchies to mount, for which
// libcontainer takes as long as for all its other mounts; so they are mounted
// here and bound as a whole. The container has a namespace of control groups, so
// its own are the roots of what it sees.
func (w *workspace) makeCgroup(makeGroup func() ([]cgroup.Hierarchy, error)) (_ *configs.Mount, err error) {
	if cgroup.Unified() {
		return cgroupMount(), nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot make the container's /sys/fs/cgroup: %w", err)
		}
	}()
	hierarchies, err := makeGroup()
	if err != nil {
		return nil, err
	}
	top := filepath.Join(w.dir, "cgroup")
	if err := mkdir(top, 0o711); err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", top, "tmpfs", noExecNoSuidNoDev, "mode=755,size=64k"); err != nil {
		return nil, &os.PathError{Op: "mount", Path: top, Err: err}
	}
	w.mounted = append(w.mounted, top)
	for _, h := range hierarchies {
		if err := bindReadOnly(h.Dir, filepath.Join(top, h.Name)); err != nil {
			return nil, err
		}
		if !strings.Contains(h.Name, ",") {
			continue
		}
		for name := range strings.SplitSeq(h.Name, ",") {
			if err := os.Symlink(h.Name, filepath.Join(top, name)); err != nil {
				return nil, err
			}
		}
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, top, 0, &readOnly); err != nil {
		return nil, &os.PathError{Op: "mount_setattr", Path: top, Err: err}
	}
	return &configs.Mount{Source: top, Destination: "/sys/fs/cgroup", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC}, nil
}

// bindReadOnly attaches a copy of a directory of ours to a new one on a mount of
// the workspace's, with which it goes. Nothing can be changed or executed
// through it.
func bindReadOnly(dir, target string) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: dir, Err: err}
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: dir, Err: err}
	}
	if err := os.Mkdir(target, 0o755); err != nil {
		return err
	}
	return moveMount(tree, target)
}
