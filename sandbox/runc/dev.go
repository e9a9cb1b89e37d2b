//go:build linux && cgo && seccomp

package runc

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// defaultNodes are the device nodes in every container's /dev. All are
// characters' devices, for everyone.
var defaultNodes = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// makeDev makes a container's /dev, with its terminals and its shared memory.
// libcontainer leaves one that is bound alone: in a user namespace it could not
// make the nodes, and binds the host's one by one, each with a careful look-up of
// where to, as for each file system that it mounts.
func (w *workspace) makeDev(spec *sandbox.Spec) (_ *configs.Mount, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot make the container's /dev: %w", err)
		}
	}()
	uid, _ := hostID(spec.UIDMappings, 0)
	gid, _ := hostID(spec.GIDMappings, 0)
	dev := w.dev()
	if err := mkdir(dev, 0o711); err != nil {
		return nil, err
	}
	data := fmt.Sprintf("mode=755,size=65536k,uid=%d,gid=%d", uid, gid)
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_STRICTATIME, data); err != nil {
		return nil, &os.PathError{Op: "mount", Path: dev, Err: err}
	}
	w.mounted = append(w.mounted, dev)
	for _, n := range defaultNodes {
		name := filepath.Join(dev, n.name)
		if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))); err != nil {
			return nil, &os.PathError{Op: "mknod", Path: name, Err: err}
		}
		// Whatever the umask.
		if err := os.Chmod(name, 0o666); err != nil {
			return nil, err
		}
		if err := os.Lchown(name, uid, gid); err != nil {
			return nil, err
		}
	}
	// What is mounted there, is mounted in the container.
	for _, name := range []string{"pts", "shm", "mqueue"} {
		point := filepath.Join(dev, name)
		if err := mkdir(point, 0o755); err != nil {
			return nil, err
		}
		if err := os.Lchown(point, uid, gid); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd",
		"stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return nil, err
		}
	}
	ptsData := "newinstance,ptmxmode=0666,mode=0620"
	if tty, ok := hostID(spec.GIDMappings, 5); ok { // as everywhere
		ptsData += fmt.Sprintf(",gid=%d", tty)
	}
	shmData := tmpfsData(cmp.Or(spec.Resources.Shm, defaultShm), 0o1777) + fmt.Sprintf(",uid=%d,gid=%d", uid, gid)
	for _, m := range []struct {
		kind, name, data string
		flags            uintptr
	}{
		{"devpts", "pts", ptsData, unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "shm", shmData, noExecNoSuidNoDev},
	} {
		point := filepath.Join(dev, m.name)
		if err := unix.Mount(m.name, point, m.kind, m.flags, m.data); err != nil {
			return nil, &os.PathError{Op: "mount", Path: point, Err: err}
		}
	}
	// What is mounted on it goes with it when it is unmounted.
	return &configs.Mount{Source: dev, Destination: "/dev", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC}, nil
}

func (w *workspace) dev() string { return filepath.Join(w.dir, "dev") }
