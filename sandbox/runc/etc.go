//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// writeNames writes the files by which programs find names, /etc/hostname,
// /etc/hosts and /etc/resolv.conf, over whatever the image has there, as
// Docker does. With the host's network they are the host's. They go into the
// upper directory before it is mounted, which needs no look-up in the image.
func writeNames(spec *sandbox.Spec, upper string) error {
	hosts, resolv := nameFiles(spec)
	etc, err := makeEtc(spec, upper)
	if err != nil {
		return err
	}
	uid, _ := hostID(spec.UIDMappings, 0)
	gid, _ := hostID(spec.GIDMappings, 0)
	for _, f := range []struct{ name, content string }{
		{"hostname", spec.Hostname + "\n"},
		{"hosts", hosts},
		{"resolv.conf", resolv},
	} {
		if err := writeFile(filepath.Join(etc, f.name), f.content, uid, gid); err != nil {
			return fmt.Errorf("cannot write the container's /etc/%s: %w", f.name, err)
		}
	}
	return nil
}

// nameFiles are the contents of /etc/hosts and /etc/resolv.conf.
func nameFiles(spec *sandbox.Spec) (hosts, resolv string) {
	hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	own, gateway := "127.0.1.1", "127.0.0.1"
	switch spec.Network {
	case sandbox.NetworkHost:
		hosts = hostFile("/etc/hosts")
		resolv = hostFile("/etc/resolv.conf")
	case sandbox.NetworkPrivate:
		own, gateway = sandbox.PrivateAddress4.Addr().String(), sandbox.Gateway4.String()
		hosts += gateway + "\t" + strings.Join(sandbox.HostNames, " ") + "\n"
		resolv = "nameserver " + gateway + "\n" + searchLines(hostFile("/etc/resolv.conf"))
	}
	if len(spec.DNS) > 0 {
		resolv = "nameserver " + strings.Join(spec.DNS, "\nnameserver ") + "\n" + searchLines(resolv)
	}
	if spec.Hostname != "" {
		hosts += own + "\t" + spec.Hostname + "\n"
	}
	for _, e := range spec.ExtraHosts {
		address := e.Address
		if address == sandbox.HostGateway {
			address = gateway
		}
		hosts += address + "\t" + e.Name + "\n"
	}
	return hosts, resolv
}

// searchLines are the lines of a resolv.conf that are about names and not about
// who is asked.
func searchLines(resolv string) string {
	var lines strings.Builder
	for line := range strings.Lines(resolv) {
		if fields := strings.Fields(line); len(fields) > 1 && (fields[0] == "search" || fields[0] == "domain" || fields[0] == "options") {
			lines.WriteString(strings.Join(fields, " ") + "\n")
		}
	}
	return lines.String()
}

// makeEtc makes /etc in the upper directory, with owner and mode of the one in
// the image that it is merged with.
func makeEtc(spec *sandbox.Spec, upper string) (string, error) {
	mode, uid, gid := uint32(0o755), 0, 0
	for i := len(spec.Rootfs.Layers) - 1; i >= 0; i-- {
		var st unix.Stat_t
		name := filepath.Join(spec.Rootfs.Layers[i], "etc")
		err := unix.Lstat(name, &st)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("cannot look at the image's /etc: %w", &os.PathError{Op: "lstat", Path: name, Err: err})
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			mode, uid, gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
		case st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0:
			// A whiteout: this layer has removed those below.
		default:
			return "", fmt.Errorf("%w: its /etc is not a directory", sandbox.ErrUnsafeImage)
		}
		break
	}
	hostUID, ok := hostID(spec.UIDMappings, uid)
	if !ok {
		hostUID, _ = hostID(spec.UIDMappings, 0)
	}
	hostGID, ok := hostID(spec.GIDMappings, gid)
	if !ok {
		hostGID, _ = hostID(spec.GIDMappings, 0)
	}
	etc := filepath.Join(upper, "etc")
	err := os.Mkdir(etc, 0o700)
	if err == nil {
		err = os.Lchown(etc, hostUID, hostGID)
	}
	if err == nil {
		err = unix.Chmod(etc, mode)
	}
	if err != nil {
		return "", fmt.Errorf("cannot make the container's /etc: %w", err)
	}
	return etc, nil
}

func writeFile(name, content string, uid, gid int) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
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
