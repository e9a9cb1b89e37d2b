package runner

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
	"girderworker/sandbox"
	"girderworker/sandbox/image"
)

// A function of a Python package, and a program that a task file names, run in a
// container whose root is put together from the host's own directories, read-only: the
// interpreter, its packages and whatever a program needs are where they always are. What
// may be read there is what the process's identity may read on the host. Places whose
// contents are for processes of the host (sockets, above all) and our own are left out.

const (
	// hostUser is who runs in such a container where the host's id has no place in it.
	hostUser = 1000
	// hostHome is where it may write; see also TMPDIR.
	hostHome = "/tmp"
)

// shownEtc is what is shown of /etc. The rest is configuration of services, with
// passwords in some of it; names of hosts are the container's own.
var shownEtc = []string{
	"alternatives", "ca-certificates", "crypto-policies", "fonts", "group", "gai.conf", "host.conf", "ld.so.cache", "ld.so.conf",
	"ld.so.conf.d", "locale.alias", "localtime", "magic", "matplotlibrc", "mime.types", "nsswitch.conf", "OpenCL", "openmpi", "os-release",
	"passwd", "pki", "protocols", "services", "ssl", "terminfo", "timezone", "vulkan",
}

// hostConfig stands for the configuration of an image.
func hostConfig(r *attempt.Request) *image.Config {
	entrypoint, search := r.Plan.Command, policy.ProgramPath
	if p := r.Plan.Python; p != nil {
		entrypoint, search = pythonCommand(p), path.Dir(p.Interpreter)+":"+policy.ProgramPath
	}
	user := func(mappings []sandbox.IDMapping, id int) int {
		if _, ok := hostID(mappings, id); ok && id != 0 {
			return id
		}
		return hostUser
	}
	return &image.Config{
		Entrypoint: entrypoint,
		User:       fmt.Sprintf("%d:%d", user(r.Grant.UIDMappings, r.Identity.UID), user(r.Grant.GIDMappings, r.Identity.GID)),
		WorkingDir: hostHome,
		Env: []string{
			"HOME=" + hostHome, "TMPDIR=" + hostHome, "LANG=C.UTF-8",
			"PATH=" + search,
		},
	}
}

// hostRoot makes the one layer of such a container and the mounts on it.
// The mounts are for the caller to close, also with an error.
func (a *attemptRun) hostRoot() (layer string, mounts []sandbox.Mount, err error) {
	layer = filepath.Join(a.space(), "host")
	unseen, own := policy.Unseen(), []string{"", "etc", "run", "run/girder_worker", "tmp", "var", "var/tmp"}
	if a.request.Plan.Python == nil {
		unseen, own = policy.UnseenByCommands(), append(own, "mnt")
	}
	show := func(name string, fi os.FileInfo) error {
		source, target := filepath.Join("/", name), filepath.Join(layer, name)
		switch fi.Mode().Type() {
		case os.ModeSymlink:
			to, err := os.Readlink(source)
			if err == nil {
				err = os.Symlink(to, target)
			}
			return err
		case os.ModeDir, 0:
		default:
			return nil
		}
		// As root, because it opens nothing: who walks there is who the container's
		// process is on the host.
		fd, err := unix.Open(source, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: source, Err: err}
		}
		mounts = append(mounts, sandbox.Mount{Source: os.NewFile(uintptr(fd), source), Target: source, ReadOnly: true, Recursive: fi.IsDir()})
		if fi.IsDir() {
			return os.Mkdir(target, 0o755)
		}
		return os.WriteFile(target, nil, 0o644)
	}
	err = func() error {
		for _, dir := range own {
			if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
				return err
			}
		}
		for _, dir := range []string{"tmp", "var/tmp"} {
			if err := os.Chmod(filepath.Join(layer, dir), os.ModeSticky|0o777); err != nil {
				return err
			}
		}
		if a.request.Plan.Python != nil {
			if err := os.WriteFile(filepath.Join(layer, callPath), callScript, 0o644); err != nil {
				return err
			}
		}
		entries, err := os.ReadDir("/")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && !slices.Contains(unseen, e.Name()) && (fi.IsDir() || fi.Mode().Type() == os.ModeSymlink) {
				if err := show(e.Name(), fi); err != nil {
					return err
				}
			}
		}
		entries, err = os.ReadDir("/etc")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !slices.Contains(shownEtc, e.Name()) && !strings.HasPrefix(e.Name(), "python3") {
				continue
			}
			if fi, err := e.Info(); err == nil {
				if err := show(filepath.Join("etc", e.Name()), fi); err != nil {
					return err
				}
			}
		}
		return nil
	}()
	if err != nil {
		return "", mounts, fmt.Errorf("cannot show the host's files to the container: %w", err)
	}
	for _, place := range a.request.Grant.Closed {
		if place, err = filepath.EvalSymlinks(place); err != nil {
			continue // it is not there
		}
		top, _, _ := strings.Cut(place[1:], "/")
		if fi, err := os.Lstat(place); err != nil || !fi.IsDir() || slices.Contains(unseen, top) {
			continue
		}
		mounts = append(mounts, sandbox.Mount{Target: place, Tmpfs: 4096, Mode: 0o555, ReadOnly: true})
	}
	return layer, mounts, nil
}

// rootsOwn takes the binds of a root that hostRoot has made out of all mounts.
func rootsOwn(root, all []sandbox.Mount) (own, others []sandbox.Mount) {
	for _, m := range all {
		if m.Source != nil && slices.ContainsFunc(root, func(r sandbox.Mount) bool { return r.Source == m.Source }) {
			own = append(own, m)
		} else {
			others = append(others, m)
		}
	}
	return own, others
}
