//go:build linux && cgo && seccomp

package runc

// #include "slack.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	_ "github.com/opencontainers/cgroups/devices" // without it device rules are refused
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	validation "github.com/opencontainers/runc/libcontainer/configs/validate"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
)

// Runner is the [sandbox.Runner] on libcontainer.
type Runner struct {
	options Options
	log     *slog.Logger
	group   cgroup.Group // that the containers' are below
	filters *filterCache
	masked  []string
}

var _ sandbox.Runner = (*Runner)(nil)

// New prepares this process to run containers. It changes the process's mount
// namespace, and refuses the machine's.
func New(o Options) (*Runner, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cannot run containers: this process is not root")
	}
	group, err := cgroup.At(o.Cgroup)
	if err != nil {
		return nil, err
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MountDir == "" {
		o.MountDir = DefaultMountDir
	}
	if !filepath.IsAbs(o.MountDir) || !filepath.IsAbs(o.CacheDir) {
		return nil, fmt.Errorf("cannot run containers: the directories %q and %q must be absolute", o.MountDir, o.CacheDir)
	}
	filters, err := newFilterCache(o.CacheDir)
	if err != nil {
		return nil, err
	}
	if err := ownMounts(o.MountDir); err != nil {
		return nil, err
	}
	forwardLogs(o.Logger)
	return &Runner{options: o, log: o.Logger, group: group, filters: filters, masked: maskedPaths()}, nil
}

// ownMounts puts a tmpfs for the workspaces on dir, in a mount namespace that
// is not the machine's.
func ownMounts(dir string) error {
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return fmt.Errorf("cannot look at the mount namespace: %w", err)
	}
	if machine, err := os.Readlink("/proc/1/ns/mnt"); err == nil && machine == own {
		return errors.New("cannot run containers in the machine's own mount namespace: execute the program as " + RunnerCommand)
	}
	// What the machine mounts and unmounts is seen here, and not the reverse.
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("cannot cut the mount namespace off: %w", os.NewSyscallError("mount", err))
	}
	if err := mkdir(dir, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("cannot make the mount directory: %w", err)
	}
	fi, err := os.Lstat(dir)
	if err == nil && !fi.IsDir() {
		err = &os.PathError{Op: "lstat", Path: dir, Err: unix.ENOTDIR}
	}
	if err != nil {
		return fmt.Errorf("cannot use the mount directory: %w", err)
	}
	// The container's root must get there, who is nobody on the host.
	for parent := dir; parent != "/"; {
		parent = filepath.Dir(parent)
		fi, err := os.Stat(parent)
		if err != nil {
			return fmt.Errorf("cannot look at the mount directory: %w", err)
		}
		if fi.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("cannot use the mount directory %s: not everyone can search %s", dir, parent)
		}
	}
	if err := unix.Mount("girder-worker", dir, "tmpfs", noExecNoSuidNoDev, "mode=0711,size=64m"); err != nil {
		return fmt.Errorf("cannot mount the workspaces: %w", &os.PathError{Op: "mount", Path: dir, Err: err})
	}
	return nil
}

func (r *Runner) filter(capabilities []string, noSetUID bool) (*filter, error) {
	f, cacheErr, err := r.filters.get(capabilities, noSetUID)
	if cacheErr != nil {
		r.log.Warn("Starting containers is slower than it could be", "error", cacheErr)
	}
	return f, err
}

// Start implements [sandbox.Runner].
func (r *Runner) Start(ctx context.Context, spec *sandbox.Spec) (sandbox.Container, error) {
	if err := validate(spec); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot start container %s: %w", spec.ID, context.Cause(ctx))
	}
	c, err := r.create(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer func() { <-c.warmed }()
	if err := c.start(ctx, spec); err != nil {
		return nil, errors.Join(err, c.abandon())
	}
	return c, nil
}

// create makes everything that the container's first process needs.
func (r *Runner) create(ctx context.Context, spec *sandbox.Spec) (*container, error) {
	c, config, err := r.prepare(ctx, spec)
	if err != nil {
		return nil, err
	}
	if c.lc, err = libcontainer.Create(c.work.state(), spec.ID, config); err != nil {
		err = fmt.Errorf("cannot create container %s: %w", spec.ID, err)
		return nil, errors.Join(err, c.work.remove(), c.removeGroup())
	}
	return c, nil
}

// prepare mounts the container's files and describes it to libcontainer.
func (r *Runner) prepare(ctx context.Context, spec *sandbox.Spec) (_ *container, _ *configs.Config, err error) {
	group, err := r.group.Below(spec.ID)
	if err != nil {
		return nil, nil, err
	}
	c := &container{id: spec.ID, group: group}
	if spec.Seccomp != sandbox.SeccompUnconfined {
		if c.filter, err = r.filter(spec.Capabilities, spec.NoSetUID); err != nil {
			return nil, nil, err
		}
	}
	if c.work, err = newWorkspace(r.options.MountDir, spec.ID); err != nil {
		return nil, nil, err
	}
	c.makeGroup()
	defer func() {
		if err != nil {
			err = errors.Join(err, c.work.remove(), c.removeGroup())
		}
	}()
	rootfs, shifted, err := c.work.mountRootfs(ctx, spec, r.options.NoIDMap)
	if err != nil {
		return nil, nil, err
	}
	if shifted > 0 {
		r.log.Warn("The image was copied for this container, because its file system cannot map user ids; keep images on ext4, xfs or btrfs, on Linux 5.19 or later", "files", shifted)
	}
	if err := checkRootfs(rootfs); err != nil {
		return nil, nil, err
	}
	if err := bindRoot(rootfs, spec.Rootfs.Mounts); err != nil {
		return nil, nil, err
	}
	mounts, err := c.work.bindMounts(spec.Mounts)
	if err != nil {
		return nil, nil, err
	}
	if spec.Init {
		init, err := c.work.bindInit(r.options.Init)
		if err != nil {
			return nil, nil, err
		}
		mounts = append(mounts, init)
	}
	dev, err := c.work.makeDev(spec)
	if err != nil {
		return nil, nil, err
	}
	cgroupfs, err := c.work.makeCgroup(c.made)
	if err != nil {
		return nil, nil, err
	}
	nodes, err := c.work.deviceNodes(spec.Resources.Devices)
	if err != nil {
		return nil, nil, err
	}
	config, err := newConfig(spec, rootfs, group.Path(), r.masked, nodes, dev, cgroupfs, mounts)
	if err != nil {
		return nil, nil, err
	}
	if len(spec.Hooks) > 0 {
		bundle, err := c.work.bundle(rootfs)
		if err != nil {
			return nil, nil, err
		}
		config.Labels = append(config.Labels, "bundle="+bundle)
	}
	if len(spec.Sysctls) > 0 {
		// libcontainer knows which settings a namespace has of its own.
		if err := validation.Validate(config); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", sandbox.ErrInvalidSpec, err)
		}
	}
	return c, config, nil
}

// start starts the container's first process and returns when the job's
// command is executed.
func (c *container) start(ctx context.Context, spec *sandbox.Spec) error {
	ctl, err := newControl()
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	defer ctl.close()
	if err := ctl.sendFilter(c.filter); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	if err := ownPipes(spec); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	// The host's own must not get into the container.
	null, err := os.OpenFile(filepath.Join(c.work.dev(), "null"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	defer null.Close()
	// libcontainer knows no context: what it waits for is killed.
	started := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-started:
		case <-ctx.Done():
			_ = ctl.file.SetDeadline(time.Unix(1, 0))
			c.killUntil(started)
		}
	}()
	err = c.startProcess(spec, newProcess(spec, ctl.child, null), ctl)
	close(started)
	<-ended
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, context.Cause(ctx))
	}
	return err
}

func (c *container) startProcess(spec *sandbox.Spec, p *libcontainer.Process, ctl *control) error {
	if err := c.lc.Start(p); err != nil {
		return startError(p.Args[0], err)
	}
	c.process = p
	ctl.closeChild()
	pid, err := p.Pid()
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	c.pid = pid
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, os.NewSyscallError("pidfd_open", err))
	}
	c.pidfd = os.NewFile(uintptr(fd), "pidfd")
	if spec.Network == sandbox.NetworkPrivate {
		tun, err := openTunnel(pid)
		if err == nil {
			err = spec.OnTunnel(tun)
		}
		if err != nil {
			return fmt.Errorf("cannot give container %s its network: %w", c.id, err)
		}
	}
	if err := c.awaitFIFO(fd); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	if err := ctl.install(); err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	reason, err := c.exec(ctl)
	if err != nil {
		return fmt.Errorf("cannot start container %s: %w", c.id, err)
	}
	if reason != "" {
		// It was found, so whatever is wrong (its format, its interpreter, its
		// permissions) makes it one that cannot be executed.
		return fmt.Errorf("%w: %s", sandbox.ErrNotExecutable, reason)
	}
	c.started = time.Now()
	return nil
}

// awaitFIFO returns when libcontainer's init is in the call that opens its FIFO,
// or has ended. It has told that all is prepared before it looks the FIFO up,
// which takes calls that the filter may refuse. Nothing tells of a process that
// begins to wait, so its main thread, which does all of this, is looked at;
// mostly the first look finds it there.
func (c *container) awaitFIFO(pidfd int) error {
	const longest = time.Millisecond
	// One of Go's timers would take that long where nothing else is to be done.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	C.sleep_exactly()
	defer C.sleep_loosely()
	for pause := 20 * time.Microsecond; ; pause = min(2*pause, longest) {
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", c.pid))
		waits := opensForWriting(string(call))
		if errors.Is(err, unix.EPERM) {
			// Yama lets nobody trace (ptrace_scope 3). The kernel's function that waits
			// for the other end of a FIFO may be seen all the same.
			call, err = os.ReadFile(fmt.Sprintf("/proc/%d/wchan", c.pid))
			waits = string(call) == "wait_for_partner"
		}
		if err != nil {
			return fmt.Errorf("cannot look at the container's first process: %w", err)
		}
		if waits {
			return nil
		}
		patience := unix.NsecToTimespec(int64(pause))
		ended, err := unix.Ppoll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, &patience, nil)
		if ended > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// opensForWriting tells it of a thread from its /proc/PID/syscall, which has
// the call's number and then its arguments: proc_pid_syscall(5).
func opensForWriting(call string) bool {
	fields := strings.Fields(call)
	if len(fields) < 4 || fields[0] != strconv.Itoa(unix.SYS_OPENAT) {
		return false
	}
	flags, err := strconv.ParseUint(fields[3], 0, 64)
	return err == nil && flags&unix.O_ACCMODE == unix.O_WRONLY
}

// exec lets libcontainer's init go on to execute the job, for which it waits
// until its FIFO has a reader, and returns when it did, or with the reason why
// it cannot. libcontainer's own Exec would look after the process every 100 ms
// and can forget a goroutine and a descriptor over it; the control socket says
// the same at once.
func (c *container) exec(ctl *control) (string, error) {
	fifo, err := os.OpenFile(filepath.Join(c.work.state(), c.id, "exec.fifo"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer fifo.Close()
	return ctl.executed()
}

// startError tells the errors that are the command's fault from all others.
// libcontainer passes them from inside the container as text.
func startError(command string, err error) error {
	_, reason, ok := strings.Cut(err.Error(), "error during container init: exec: "+strconv.Quote(command)+": ")
	switch {
	case strings.Contains(err.Error(), "container init was OOM-killed"), strings.Contains(err.Error(), "unable to set memory limit"):
		return fmt.Errorf("%w: its memory limit is too small even to start it", sandbox.ErrInvalidSpec)
	case !ok:
		return fmt.Errorf("cannot start the container: %w", err)
	case strings.Contains(reason, "executable file not found"), strings.HasSuffix(reason, unix.ENOENT.Error()):
		return fmt.Errorf("%w: %s", sandbox.ErrNotFound, command)
	default:
		return fmt.Errorf("%w: %s: %s", sandbox.ErrNotExecutable, command, reason)
	}
}
