//go:build linux && cgo && seccomp

package runc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// errNoIDMap is a machine that cannot map the ids of a mount.
var errNoIDMap = errors.New("the file system or the kernel cannot map user ids")

// mountRootfs mounts the image's layers and the scratch directory as one root
// file system and returns where. The container's ids are the layers' ids,
// whatever they are on the host: each layer is shared by all containers and
// mapped where it is mounted. Where that cannot be, all files get other owners,
// and thereby are copied; shifted is how many.
func (w *workspace) mountRootfs(ctx context.Context, spec *sandbox.Spec, noIDMap bool) (rootfs string, shifted int, err error) {
	// The namespace costs a process; meanwhile the directories are made.
	userns := make(chan userNamespace)
	go func() { userns <- openUserNamespace(spec) }()
	err = prepareScratch(spec)
	ns := <-userns
	defer ns.close()
	if err := errors.Join(err, ns.err); err != nil {
		return "", 0, err
	}
	lower := filepath.Join(w.dir, "lower")
	if err := mkdir(lower, 0o711); err != nil {
		return "", 0, fmt.Errorf("cannot make the container's workspace: %w", err)
	}
	mapped := ns.file != nil && !noIDMap
	if err = w.mountLayers(spec.Rootfs.Layers, lower, ns.file, mapped); errors.Is(err, errNoIDMap) {
		mapped = false
		if err = w.unmount(); err == nil {
			err = w.mountLayers(spec.Rootfs.Layers, lower, nil, false)
		}
	}
	if err != nil {
		return "", 0, err
	}
	rootfs = filepath.Join(w.dir, "rootfs")
	if err := mkdir(rootfs, 0o711); err != nil {
		return "", 0, fmt.Errorf("cannot make the container's workspace: %w", err)
	}
	var ours map[string]bool
	if ns.file != nil && !mapped {
		if ours, err = namesBelow(filepath.Join(spec.Rootfs.Scratch, "upper")); err != nil {
			return "", 0, err
		}
	}
	if err := mountOverlay(lower, len(spec.Rootfs.Layers), spec.Rootfs.Scratch, rootfs); err != nil {
		return "", 0, fmt.Errorf("cannot mount the container's root file system: %w", err)
	}
	w.mounted = append(w.mounted, rootfs)
	if ours != nil {
		if shifted, err = shift(ctx, spec, rootfs, ours); err != nil {
			return "", 0, fmt.Errorf("cannot copy the image for the container: %w", err)
		}
	}
	return rootfs, shifted, nil
}

func (w *workspace) mountLayers(layers []string, lower string, userns *os.File, mapped bool) error {
	if !mapped {
		userns = nil
	}
	for i, layer := range layers {
		if err := w.mountLayer(layer, filepath.Join(lower, strconv.Itoa(i)), userns); err != nil {
			return fmt.Errorf("cannot mount the image layer %s: %w", layer, err)
		}
	}
	return nil
}

// namesBelow is everything in a directory, by its path from there.
func namesBelow(dir string) (map[string]bool, error) {
	names := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		names[rel] = true
		return err
	})
	return names, err
}

// shift gives the files of an image the owners that they have in the container.
// No container runs yet, so that what a name leads to cannot change, and no link
// is followed. ours are those that were made with the right owners. Ids that the
// container does not have stay as they are, and are nobody's in it.
func shift(ctx context.Context, spec *sandbox.Spec, rootfs string, ours map[string]bool) (n int, err error) {
	err = filepath.WalkDir(rootfs, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if rel, err := filepath.Rel(rootfs, path); err != nil || ours[rel] {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		uid, hasUser := hostID(spec.UIDMappings, int(st.Uid))
		gid, hasGroup := hostID(spec.GIDMappings, int(st.Gid))
		if !hasUser {
			uid = -1
		}
		if !hasGroup {
			gid = -1
		}
		n++
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
		// A new owner takes these bits away.
		if st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 && st.Mode&unix.S_IFMT != unix.S_IFLNK {
			if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
				return &os.PathError{Op: "chmod", Path: path, Err: err}
			}
		}
		return nil
	})
	return n, err
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

// mountLayer attaches a copy of a layer's mount, with the ids of userns, or with
// its own for nil. The error is errNoIDMap where they cannot be mapped.
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
	if userns != nil && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP)) {
		return fmt.Errorf("%w: %w", errNoIDMap, os.NewSyscallError("mount_setattr", err))
	} else if err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := mkdir(target, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
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
