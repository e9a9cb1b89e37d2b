//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// mountRootfs mounts the image's layers and the scratch directory as one root
// file system and returns where. The container's ids are the layers' ids,
// whatever they are on the host: each layer is shared by all containers and
// mapped where it is mounted.
func (w *workspace) mountRootfs(spec *sandbox.Spec) (string, error) {
	// The namespace costs a process; meanwhile the directories are made.
	userns := make(chan userNamespace)
	go func() { userns <- openUserNamespace(spec) }()
	err := prepareScratch(spec)
	ns := <-userns
	defer ns.close()
	if err := errors.Join(err, ns.err); err != nil {
		return "", err
	}
	lower := filepath.Join(w.dir, "lower")
	if err := mkdir(lower, 0o711); err != nil {
		return "", fmt.Errorf("cannot make the container's workspace: %w", err)
	}
	for i, layer := range spec.Rootfs.Layers {
		if err := w.mountLayer(layer, filepath.Join(lower, strconv.Itoa(i)), ns.file); err != nil {
			return "", fmt.Errorf("cannot mount the image layer %s: %w", layer, err)
		}
	}
	rootfs := filepath.Join(w.dir, "rootfs")
	if err := mkdir(rootfs, 0o711); err != nil {
		return "", fmt.Errorf("cannot make the container's workspace: %w", err)
	}
	if err := mountOverlay(lower, len(spec.Rootfs.Layers), spec.Rootfs.Scratch, rootfs); err != nil {
		return "", fmt.Errorf("cannot mount the container's root file system: %w", err)
	}
	w.mounted = append(w.mounted, rootfs)
	return rootfs, nil
}

// prepareScratch makes what the overlay writes to, as the container's root's.
func prepareScratch(spec *sandbox.Spec) error {
	uid, _ := hostID(spec.UIDMappings, 0)
	gid, _ := hostID(spec.GIDMappings, 0)
	for _, name := range []string{"upper", "work"} {
		dir := filepath.Join(spec.Rootfs.Scratch, name)
		err := mkdir(dir, 0o755)
		if err == nil {
			err = os.Lchown(dir, uid, gid)
		}
		if err != nil {
			return fmt.Errorf("cannot prepare the scratch directory: %w", err)
		}
	}
	return writeNames(spec, filepath.Join(spec.Rootfs.Scratch, "upper"))
}

// mountLayer attaches a copy of a layer's mount, with the ids of userns. This
// is the one place that needs mounts that map ids. Without them there would
// have to be a copy of each layer for each range of ids, with all its files
// changed: until someone needs such a machine, it is refused.
func (w *workspace) mountLayer(layer, target string, userns *os.File) error {
	tree, err := unix.OpenTree(unix.AT_FDCWD, layer, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE,
	}
	if userns != nil {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(userns.Fd())
	}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.EINVAL) && userns != nil {
		return fmt.Errorf("its file system cannot map user ids on this kernel; keep the images on ext4, xfs or btrfs, on Linux 5.19 or later: %w", os.NewSyscallError("mount_setattr", err))
	} else if err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := mkdir(target, 0o711); err != nil {
		return err
	}
	return w.attach(tree, target)
}

// mountOverlay mounts the layers lower/0 (the lowest) to lower/n-1 with
// scratch/upper above them.
func mountOverlay(lower string, n int, scratch, target string) error {
	// All options must fit into one page, so the paths are short ones through
	// descriptors.
	lowerDir, err := os.OpenFile(lower, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer lowerDir.Close()
	scratchDir, err := os.OpenFile(scratch, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer scratchDir.Close()

	var options strings.Builder
	// Volatile: what is in scratch is thrown away, so that syncing it, above all
	// when it is unmounted, would be for nothing.
	fmt.Fprintf(&options, "userxattr,volatile,upperdir=/proc/self/fd/%d/upper,workdir=/proc/self/fd/%d/work,lowerdir=", scratchDir.Fd(), scratchDir.Fd())
	for i := n - 1; i >= 0; i-- {
		fmt.Fprintf(&options, "/proc/self/fd/%d/%d", lowerDir.Fd(), i)
		if i > 0 {
			options.WriteByte(':')
		}
	}
	if options.Len() >= os.Getpagesize() {
		return fmt.Errorf("%w: %d layers are more than the kernel can stack", sandbox.ErrInvalidSpec, n)
	}
	if err := unix.Mount("overlay", target, "overlay", unix.MS_NODEV, options.String()); err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}

// checkRootfs refuses an image in which a directory that the runtime mounts on
// is something else. libcontainer had to be mended for links there more than
// once.
func checkRootfs(rootfs string) error {
	for _, name := range []string{"dev", "proc", "sys"} {
		fi, err := os.Lstat(filepath.Join(rootfs, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot look at the image's /%s: %w", name, err)
		}
		if !fi.IsDir() {
			return fmt.Errorf("%w: its /%s is not a directory", sandbox.ErrUnsafeImage, name)
		}
	}
	return nil
}
