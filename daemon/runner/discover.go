package runner

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

//go:embed discover.py
var discoverScript string

// DiscoverCommand is the hidden sub-command that runs [Discover].
const DiscoverCommand = "python-discover"

const (
	// maxDiscoveryTime bounds what the configuration may say of it.
	maxDiscoveryTime = 10 * time.Minute
	// discoveryLines and discoveryOutput bound what is taken of it, in bytes.
	discoveryLines  = 4 << 20
	discoveryOutput = 4 << 10
	// discoveryGrace is how long descriptors that children of the interpreter have
	// kept may hold up the end.
	discoveryGrace = 2 * time.Second
)

// Discover imports task packages in a process of its own that is nobody on the
// host: no capability, no network, a process namespace that ends with it. It reads
// an [attempt.Discovery] and writes an [attempt.DiscoveryAnswer]. It is run as root, for the monitor.
func Discover(ctx context.Context, in io.Reader, out io.Writer) error {
	var d attempt.Discovery
	dec := json.NewDecoder(io.LimitReader(in, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return fmt.Errorf("cannot understand the request: %w", err)
	}
	if d.UID <= 0 {
		return errors.New("packages cannot be imported as root")
	}
	if d.Time <= 0 || d.Time > maxDiscoveryTime {
		return fmt.Errorf("imports may not take %v", d.Time)
	}
	request, err := json.Marshal(map[string]any{"path": d.Path, "enabled": d.Enabled, "skip": d.Skip, "app_main": d.AppMain})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, d.Time, fmt.Errorf("it took longer than %v (python_import_time)", d.Time))
	defer cancel()
	lines, output := &head{limit: discoveryLines}, &tail{limit: discoveryOutput}
	cmd := exec.CommandContext(ctx, d.Interpreter, "-I", "-B", "-X", "utf8", "-c", discoverScript)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), lines, output
	cmd.WaitDelay = discoveryGrace
	// Pdeathsig comes with the end of the thread that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = startDropped(attempt.Identity{UID: d.UID, GID: d.UID}, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	answer := attempt.DiscoveryAnswer{Lines: lines.String(), Output: strings.ToValidUTF8(output.String(), "�")}
	switch {
	case ctx.Err() != nil:
		answer.Ended = context.Cause(ctx).Error()
	case lines.full:
		answer.Ended = fmt.Sprintf("it told more than %d bytes", discoveryLines)
	case err != nil:
		answer.Ended = err.Error()
	}
	return json.NewEncoder(out).Encode(answer)
}

// startDropped starts cmd as somebody else, without anything that could make it
// more. Its thread is the parent, and must not end before it.
func startDropped(id attempt.Identity, cmd *exec.Cmd) error {
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + defaultPath, "HOME=/nonexistent", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(id.UID), Gid: uint32(id.GID)},
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC,
	}
	if err := dropPrivileges(); err != nil {
		return err
	}
	// Its own, which the interpreter inherits.
	for resource, limit := range map[int]uint64{unix.RLIMIT_FSIZE: 64 << 20, unix.RLIMIT_CORE: 0, unix.RLIMIT_NPROC: 4096} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("cannot limit the interpreter: %w", err)
		}
	}
	return cmd.Start()
}

// head keeps the beginning of what is written to it, and takes no more.
type head struct {
	bytes.Buffer
	limit int
	full  bool
}

func (h *head) Write(p []byte) (int, error) {
	if h.Len()+len(p) > h.limit {
		h.full = true
		return 0, errors.New("too much")
	}
	return h.Buffer.Write(p)
}

// tail keeps the end.
type tail struct {
	data  []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if len(t.data) > t.limit {
		t.data = append(t.data[:0], t.data[len(t.data)-t.limit:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.data) }
