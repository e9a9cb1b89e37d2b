//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// writeNames writes the files by which programs find names: /etc/hostname,
// /etc/hosts and /etc/resolv.conf. They replace the image's, as with Docker;
// with the host's network they are the host's.
func writeNames(spec *sandbox.Spec, rootfs string) error {
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	resolv := ""
	if spec.Network == sandbox.NetworkHost {
		hosts = hostFile("/etc/hosts")
		resolv = hostFile("/etc/resolv.conf")
	}
	if spec.Hostname != "" {
		hosts += "127.0.1.1\t" + spec.Hostname + "\n"
	}

	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("cannot open the container's root file system: %w", err)
	}
	defer root.Close()
	uid, _ := hostID(spec.UIDMappings, 0)
	gid, _ := hostID(spec.GIDMappings, 0)
	etc, err := openEtc(root, uid, gid)
	if err != nil {
		return fmt.Errorf("%w: cannot open its /etc: %w", sandbox.ErrUnsafeImage, err)
	}
	defer etc.Close()
	for _, f := range []struct{ name, content string }{
		{"hostname", spec.Hostname + "\n"},
		{"hosts", hosts},
		{"resolv.conf", resolv},
	} {
		if err := replaceFile(etc, f.name, f.content, uid, gid); err != nil {
			return fmt.Errorf("cannot write /etc/%s of the container: %w", f.name, err)
		}
	}
	return nil
}

// openEtc opens the directory /etc inside root, made if need be. A link in its
// place leads nowhere outside of root.
func openEtc(root *os.File, uid, gid int) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := unix.Openat2(int(root.Fd()), "etc", &how)
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(int(root.Fd()), "etc", 0o755); err != nil {
			return nil, os.NewSyscallError("mkdirat", err)
		}
		if err := unix.Fchownat(int(root.Fd()), "etc", uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, os.NewSyscallError("fchownat", err)
		}
		fd, err = unix.Openat2(int(root.Fd()), "etc", &how)
	}
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	return os.NewFile(uintptr(fd), "etc"), nil
}

// replaceFile puts a new file in the place of whatever has the name, except a
// directory.
func replaceFile(dir *os.File, name, content string, uid, gid int) error {
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return os.NewSyscallError("unlinkat", err)
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	file := os.NewFile(uintptr(fd), name)
	_, err = file.WriteString(content)
	return errors.Join(err, file.Chmod(0o644), file.Chown(uid, gid), file.Close())
}

// hostFile reads a file of the host, or as much of it as is sensible; what
// cannot be read is empty.
func hostFile(name string) string {
	file, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer file.Close()
	const largest = 1 << 20
	data, err := io.ReadAll(io.LimitReader(file, largest))
	if err != nil {
		return ""
	}
	return string(data)
}
