//go:build linux && cgo && seccomp

package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// A workspace holds the mount points of one container. It lies in a tmpfs that
// only this process's mount namespace has: the way there can be searched by
// the container's root, which is nobody on the host, wherever the state
// directory is, and nothing of it outlives the process.
type workspace struct {
	dir string
	// mounted are the mount points in the order they were made.
	mounted []string
}

func newWorkspace(parent, id string) (*workspace, error) {
	w := &workspace{dir: filepath.Join(parent, id)}
	if err := mkdir(w.dir, 0o711); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("cannot start container %s: it is there already", id)
		}
		return nil, fmt.Errorf("cannot make the container's workspace: %w", err)
	}
	return w, nil
}

// mkdir makes a directory with this mode, whatever the umask.
func mkdir(dir string, mode os.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// state is where libcontainer keeps what it must remember.
func (w *workspace) state() string { return filepath.Join(w.dir, "state") }

// attach mounts a detached mount on a path of the workspace.
func (w *workspace) attach(mount int, target string) error {
	if err := moveMount(mount, target); err != nil {
		return err
	}
	w.mounted = append(w.mounted, target)
	return nil
}

func moveMount(mount int, target string) error {
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

// remove unmounts everything and removes the directory. It may be called again
// after it failed.
func (w *workspace) remove() error {
	if err := w.unmount(); err != nil {
		return err
	}
	// What is left are mount points; a mount among them would make this fail,
	// and not empty a file system of someone's.
	if err := removeMountPoints(w.dir); err != nil {
		return fmt.Errorf("cannot remove the container's workspace: %w", err)
	}
	return nil
}

func (w *workspace) unmount() error {
	for len(w.mounted) > 0 {
		last := len(w.mounted) - 1
		if err := unix.Unmount(w.mounted[last], unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot unmount the container's files: %w", &os.PathError{Op: "umount", Path: w.mounted[last], Err: err})
		}
		w.mounted = w.mounted[:last]
	}
	return nil
}

// removeMountPoints removes empty files and directories, on one file system.
func removeMountPoints(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if err := os.Remove(name); err == nil {
			continue
		} else if !e.IsDir() {
			return err
		}
		if err := removeMountPoints(name); err != nil {
			return err
		}
	}
	return os.Remove(dir)
}

// bindMounts makes the mounts of a spec: descriptors are cloned, made safe and
// attached to the workspace, and libcontainer binds them from there to their
// targets, which it looks up without leaving the root file system.
func (w *workspace) bindMounts(mounts []sandbox.Mount) ([]*configs.Mount, error) {
	var result []*configs.Mount
	for i, m := range mounts {
		target := path.Clean(m.Target)
		if m.Source == nil {
			mode := m.Mode
			if mode == 0 {
				mode = os.ModeSticky | 0o777
			}
			flags := noSuidNoDev
			if m.ReadOnly {
				flags |= unix.MS_RDONLY
			}
			if !m.Exec {
				flags |= unix.MS_NOEXEC
			}
			result = append(result, &configs.Mount{Source: "tmpfs", Destination: target, Device: "tmpfs", Flags: flags, Data: tmpfsData(m.Tmpfs, unixMode(mode))})
			continue
		}
		source, err := w.bind(m, "bind-"+strconv.Itoa(i))
		if err != nil {
			return nil, fmt.Errorf("cannot bind %s to %s: %w", m.Source.Name(), target, err)
		}
		bind := &configs.Mount{Source: source, Destination: target, Device: "bind", Flags: unix.MS_BIND}
		if m.Recursive {
			bind.Flags |= unix.MS_REC
		}
		result = append(result, bind)
	}
	return result, nil
}

// bindRoot attaches mounts to the root file system, before libcontainer knows of it:
// its own way takes fifty system calls for each. They go with what they are on.
func bindRoot(rootfs string, mounts []sandbox.Mount) error {
	for _, m := range mounts {
		if err := bindBelow(rootfs, m); err != nil {
			return fmt.Errorf("cannot bind %s to %s: %w", m.Source.Name(), m.Target, err)
		}
	}
	return nil
}

func bindBelow(rootfs string, m sandbox.Mount) error {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer unix.Close(root)
	target, err := unix.Openat2(root, strings.TrimPrefix(path.Clean(m.Target), "/"), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return os.NewSyscallError("openat2", err)
	}
	defer unix.Close(target)
	tree, err := clone(m)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// clone returns a mount of what a descriptor names that is nowhere yet, made safe.
func clone(m sandbox.Mount) (tree int, err error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	attrFlags := uint(unix.AT_EMPTY_PATH)
	if m.Recursive {
		flags |= unix.AT_RECURSIVE
		attrFlags |= unix.AT_RECURSIVE
	}
	tree, err = unix.OpenTree(int(m.Source.Fd()), "", flags)
	if errors.Is(err, unix.EINVAL) {
		return -1, fmt.Errorf("the descriptor was opened in another mount namespace than the runner's: %w", os.NewSyscallError("open_tree", err))
	} else if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if m.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", attrFlags, &attr); err != nil {
		unix.Close(tree)
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return tree, nil
}

// bind attaches what a descriptor names to the workspace and returns where.
func (w *workspace) bind(m sandbox.Mount, name string) (string, error) {
	tree, err := clone(m)
	if err != nil {
		return "", err
	}
	defer unix.Close(tree)
	target := filepath.Join(w.dir, name)
	var st unix.Stat_t
	err = unix.Fstat(int(m.Source.Fd()), &st)
	switch {
	case errors.Is(err, unix.EACCES):
		// A file system that lets only its user look. What it is shows where it fits.
		if err = mkdir(target, 0o711); err == nil {
			if err = w.attach(tree, target); err == nil {
				return target, nil
			}
			if err = os.Remove(target); err == nil {
				err = os.WriteFile(target, nil, 0o600)
			}
		}
	case err != nil:
		return "", os.NewSyscallError("fstat", err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = mkdir(target, 0o711)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		return "", errors.New("it is a link")
	default:
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return "", err
	}
	return target, w.attach(tree, target)
}

// deviceNodes are the nodes of devices that are bound into the container: the
// host's, or copies of them that everyone in the container may use. The copies
// cannot be made in the container, which has a user namespace.
func (w *workspace) deviceNodes(devices []sandbox.Device) ([]string, error) {
	var nodes []string
	dir := ""
	for i, d := range devices {
		if !d.Own {
			nodes = append(nodes, d.HostPath)
			continue
		}
		if dir == "" {
			dir = filepath.Join(w.dir, "devices")
			if err := mkdir(dir, 0o711); err != nil {
				return nil, fmt.Errorf("cannot make the container's devices: %w", err)
			}
			// The workspace's own mount lets nobody use a node.
			if err := unix.Mount("devices", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID, "mode=0711,size=1m"); err != nil {
				return nil, fmt.Errorf("cannot make the container's devices: %w", &os.PathError{Op: "mount", Path: dir, Err: err})
			}
			w.mounted = append(w.mounted, dir)
		}
		var st unix.Stat_t
		if err := unix.Stat(d.HostPath, &st); err != nil {
			return nil, fmt.Errorf("cannot give the container the device %s: %w", d.HostPath, err)
		}
		node := filepath.Join(dir, strconv.Itoa(i))
		err := unix.Mknod(node, st.Mode&unix.S_IFMT|0o600, int(st.Rdev))
		if err == nil {
			err = os.Chmod(node, 0o666)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot give the container the device %s: %w", d.HostPath, err)
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// bundle makes what a hook expects of an OCI bundle: the place of the root file
// system. It returns the bundle's directory.
func (w *workspace) bundle(rootfs string) (string, error) {
	dir := filepath.Join(w.dir, "bundle")
	config, err := json.Marshal(map[string]any{"ociVersion": specs.Version, "root": map[string]any{"path": rootfs}})
	if err == nil {
		err = mkdir(dir, 0o711)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), config, 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("cannot prepare the container's hooks: %w", err)
	}
	return dir, nil
}

// hooks are a spec's in libcontainer's form.
func hooks(list []sandbox.Hook) (hooks configs.HookList) {
	for _, h := range list {
		hooks = append(hooks, configs.NewCommandHook(&configs.Command{
			Path: h.Path, Args: h.Args, Env: h.Env, Timeout: &h.Timeout,
		}))
	}
	return hooks
}

// tmpfsData are the mount options of a tmpfs.
func tmpfsData(size int64, mode uint32) string {
	return fmt.Sprintf("size=%d,mode=%04o", size, mode)
}

// unixMode is a mode as the kernel numbers it.
func unixMode(mode os.FileMode) uint32 {
	m := uint32(mode.Perm())
	if mode&os.ModeSticky != 0 {
		m |= unix.S_ISVTX
	}
	if mode&os.ModeSetgid != 0 {
		m |= unix.S_ISGID
	}
	return m
}
