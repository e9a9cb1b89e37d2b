package runner

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
	"girderworker/sandbox"
	"girderworker/sandbox/image"
	"girderworker/transforms"
)

// A function of a Python package runs in a container whose root is put together
// from the host's own directories, read-only: the interpreter, its packages and
// whatever they need are where they always are. What may be read there is what
// the process's identity may read on the host. Places whose contents are for
// processes of the host (sockets, above all) and our own are left out.

//go:embed call.py
var callScript []byte

const (
	// callPath is where a container finds the program that calls the function.
	callPath = "/run/girder_worker/call.py"
	// pythonUser is who a function is in its container where the host's id has no
	// place in it.
	pythonUser = 1000
	// pythonHome is where it may write; see also TMPDIR.
	pythonHome = "/tmp"
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
	user := func(mappings []sandbox.IDMapping, id int) int {
		if _, ok := hostID(mappings, id); ok && id != 0 {
			return id
		}
		return pythonUser
	}
	interpreter := r.Plan.Python.Interpreter
	return &image.Config{
		// -I: neither the environment nor the directory says what is imported.
		Entrypoint: []string{interpreter, "-I", "-B", "-X", "utf8", callPath},
		User:       fmt.Sprintf("%d:%d", user(r.Grant.UIDMappings, r.Identity.UID), user(r.Grant.GIDMappings, r.Identity.GID)),
		WorkingDir: pythonHome,
		Env: []string{
			"HOME=" + pythonHome, "TMPDIR=" + pythonHome, "LANG=C.UTF-8",
			"PATH=" + path.Dir(interpreter) + ":" + defaultPath,
		},
	}
}

// hostRoot makes the one layer of a function's container and the mounts on it.
// The mounts are for the caller to close, also with an error.
func (a *attemptRun) hostRoot() (layer string, mounts []sandbox.Mount, err error) {
	layer = filepath.Join(a.space(), "host")
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
		for _, dir := range []string{"", "etc", "run", "run/girder_worker", "tmp", "var", "var/tmp"} {
			if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
				return err
			}
		}
		for _, dir := range []string{"tmp", "var/tmp"} {
			if err := os.Chmod(filepath.Join(layer, dir), os.ModeSticky|0o777); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(layer, callPath), callScript, 0o644); err != nil {
			return err
		}
		entries, err := os.ReadDir("/")
		if err != nil {
			return err
		}
		for _, e := range entries {
			if fi, err := e.Info(); err == nil && !slices.Contains(policy.Unseen(), e.Name()) && (fi.IsDir() || fi.Mode().Type() == os.ModeSymlink) {
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
		return "", mounts, fmt.Errorf("cannot show the host's files to a function: %w", err)
	}
	for _, place := range a.request.Grant.Closed {
		if place, err = filepath.EvalSymlinks(place); err != nil {
			continue // it is not there
		}
		top, _, _ := strings.Cut(place[1:], "/")
		if fi, err := os.Lstat(place); err != nil || !fi.IsDir() || slices.Contains(policy.Unseen(), top) {
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

// A call is what a function is called with, on its way there, and its result on
// the way back: both through the container's standard input, a socket. What comes
// back is kept as it is and looked at by the front alone.
type call struct {
	theirs *os.File
	ours   net.Conn
	done   chan struct{}
	result []byte
	err    error
}

// newCall is one for whose function an interpreter imports what it must as soon as it is there.
func newCall(p *transforms.Python) (*call, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot make a function's socket: %w", os.NewSyscallError("socketpair", err))
	}
	c := &call{theirs: os.NewFile(uintptr(fds[0]), "call"), done: make(chan struct{})}
	ours := os.NewFile(uintptr(fds[1]), "call")
	defer ours.Close()
	if c.ours, err = net.FileConn(ours); err != nil {
		c.theirs.Close()
		return nil, fmt.Errorf("cannot use a function's socket: %w", err)
	}
	data, _ := json.Marshal(map[string]any{"module": p.Module, "plugin": p.Plugin, "path": p.Path, "app_main": p.AppMain, "girder": len(p.Girders) > 0})
	// Less than a socket takes. Who does not read it is told by a missing result.
	_, _ = c.ours.Write(append(data, '\n'))
	return c, nil
}

// start sends what the function is called with and waits for its result.
func (c *call) start(with []byte, crashed func()) {
	go func() {
		defer close(c.done)
		defer crashed()
		// Who does not read it is told by a missing result.
		_, _ = c.ours.Write(with)
		_ = c.ours.(*net.UnixConn).CloseWrite()
		c.result, c.err = io.ReadAll(io.LimitReader(c.ours, attempt.MaxResult+1))
		if len(c.result) > attempt.MaxResult {
			c.result, c.err = nil, fmt.Errorf("it returned more than %s", transforms.FormatBytes(attempt.MaxResult))
			// What comes now is nobody's, and must not be waited for.
			_, _ = io.Copy(io.Discard, c.ours)
		}
		if errors.Is(c.err, net.ErrClosed) || errors.Is(c.err, unix.ECONNRESET) || errors.Is(c.err, os.ErrDeadlineExceeded) {
			c.err = nil
		}
	}()
}

// lateResult is for what is on its way when no process is left that could send
// more; but one outside may hold a descriptor of the socket that it was sent.
const lateResult = 5 * time.Second

// end returns what came back.
func (c *call) end() ([]byte, error) {
	_ = c.ours.SetDeadline(time.Now().Add(lateResult))
	<-c.done
	return c.result, c.err
}

func (c *call) close() { c.ours.Close() }
