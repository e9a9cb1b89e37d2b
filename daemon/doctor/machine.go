package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/cgroup"
)

func (p *patient) kernel(context.Context) []Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return bad("", "cannot ask for the kernel's version: %v", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warn("", "a kernel with the version %q, which says nothing", release)
	}
	switch v := major*1000 + minor; {
	case v < 5010:
		return bad("install a kernel of at least 5.10", "Linux %s is too old", release)
	case v < 5019:
		return warn("a kernel from 5.19 on shares layers between users; with this one they are copied", "Linux %s", release)
	}
	return ok("Linux %s on %s", release, runtime.GOARCH)
}

func (p *patient) cgroups(context.Context) []Finding {
	const unifiedHint = "boot with systemd.unified_cgroup_hierarchy=1"
	if cgroup.Unified() {
		have := strings.Fields(line("/sys/fs/cgroup/cgroup.controllers"))
		var missing []string
		for _, c := range []string{"cpu", "memory", "pids"} {
			if !slices.Contains(have, c) {
				missing = append(missing, c)
			}
		}
		if len(missing) > 0 {
			return bad("boot without cgroup_disable=, and let systemd delegate them", "version 2, without %s: limits of jobs would not hold", strings.Join(missing, " "))
		}
		if !slices.Contains(have, "cpuset") {
			return warn("", "version 2, without cpuset: `cpuset` of jobs is refused")
		}
		return ok("version 2 with %s", strings.Join(have, " "))
	}
	have := line("/proc/cgroups")
	for _, c := range []string{"cpu", "memory", "pids"} {
		enabled := false
		for l := range strings.Lines(have) {
			f := strings.Fields(l)
			enabled = enabled || len(f) == 4 && f[0] == c && f[3] == "1"
		}
		if !enabled {
			return bad(unifiedHint, "version 1, without %s", c)
		}
	}
	return warn(unifiedHint+", which this program is made for", "version 1 (hybrid): jobs run and are held to their limits; a lack of memory kills single processes of a job and not the job, and there are fewer numbers")
}

func (p *patient) namespaces(context.Context) (all []Finding) {
	for _, kind := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			all = append(all, bad("use a kernel with all namespaces", "this kernel has no %s namespaces", kind)...)
		}
		if sysctl := "/proc/sys/user/max_" + kind + "_namespaces"; line(sysctl) == "0" {
			all = append(all, bad("echo 10000 > "+sysctl+", and mend the file of /etc/sysctl.d that forbids them", "%s namespaces are forbidden", kind)...)
		}
	}
	if len(all) > 0 {
		return all
	}
	if !p.root {
		// The daemon makes them as root; what people may is another matter.
		return ok("all kinds, none forbidden")
	}
	child, err := held(syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET)
	if err != nil {
		return bad("look for a security module that forbids them: `journalctl -k | grep -i denied`", "they exist, and a user namespace cannot be made: %v", err)
	}
	child.end()
	return ok("all kinds, none forbidden, one was made")
}

func (p *patient) seccomp(context.Context) []Finding {
	actions := line("/proc/sys/kernel/seccomp/actions_avail")
	if actions == "" {
		return bad("use a kernel with CONFIG_SECCOMP_FILTER", "this kernel filters no system calls")
	}
	if !strings.Contains(actions, "errno") {
		return bad("use a kernel from 4.14 on", "filters lack the action errno: %s", actions)
	}
	return ok("filters of system calls, with %s", actions)
}

// aside runs f with a mount namespace of its own, in a thread that ends with it.
func aside(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is not used again
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// overlay mounts one where containers have theirs.
func (p *patient) overlay(context.Context) []Finding {
	if !strings.Contains(line("/proc/filesystems"), "overlay") {
		return bad("modprobe overlay, and name it in /etc/modules-load.d", "this kernel has no overlay file system, or it is not loaded")
	}
	if !p.root {
		return unseen("a mount")
	}
	dir, err := os.MkdirTemp(p.place(), ".doctor-")
	if err != nil {
		return bad("", "cannot make a directory to try it: %v", err)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"lower", "upper", "work", "at"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return bad("", "cannot make a directory to try it: %v", err)
		}
	}
	err = aside(func() error {
		at := filepath.Join(dir, "at")
		err := unix.Mount("overlay", at, "overlay", 0, fmt.Sprintf("userxattr,lowerdir=%s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir))
		if err == nil {
			err = os.WriteFile(filepath.Join(at, "file"), []byte("x"), 0o600)
		}
		return err
	})
	if err != nil {
		return bad("put state_dir on ext4, xfs or btrfs", "cannot use one with userxattr on the file system of %s: %v", p.place(), err)
	}
	return ok("mounted and written to, with userxattr")
}

// place is the state directory, or what is there of its path: checks are made on
// its file system.
func (p *patient) place() string {
	dir := p.config.StateDir
	for dir != "/" {
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return dir
}

// child is a process that was stopped before it ran anything.
type child struct{ cmd *exec.Cmd }

// held starts one with namespaces of its own, root in its user namespace.
func held(flags uintptr) (*child, error) {
	runtime.LockOSThread() // it is the thread that traces
	cmd := exec.Command("/proc/self/exe", "version")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Cloneflags: flags, UidMappings: ids, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	if err := cmd.Start(); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return &child{cmd}, nil
}

func (c *child) end() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
	runtime.UnlockOSThread()
}

// idmap maps the ids of a mount, as layers are shared between users.
func (p *patient) idmap(context.Context) []Finding {
	if !p.root {
		return unseen("a mount with other ids")
	}
	user, err := held(syscall.CLONE_NEWUSER)
	if err != nil {
		return bad("", "cannot make a user namespace: %v", err)
	}
	defer user.end()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", user.cmd.Process.Pid))
	if err != nil {
		return bad("", "cannot open a user namespace: %v", err)
	}
	defer ns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, p.place(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil {
		defer unix.Close(tree)
		err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	}
	if err != nil {
		return warn("put state_dir on ext4, xfs or btrfs, with a kernel from 5.19 on", "the file system of %s maps no ids (%v): images are copied for each range of ids", p.place(), err)
	}
	return ok("the file system of %s maps ids: layers are shared", p.place())
}

// scratch is what disks of a fixed size need.
func (p *patient) scratch(context.Context) []Finding {
	const hint = "without it jobs with a scratch limit do not start"
	found := ""
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if st, err := os.Stat(filepath.Join(dir, "mkfs.ext4")); err == nil && st.Mode()&0o111 != 0 {
			found = filepath.Join(dir, "mkfs.ext4")
		}
	}
	if found == "" {
		return bad("install e2fsprogs; "+hint, "there is no mkfs.ext4")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		return bad("modprobe loop, and name it in /etc/modules-load.d; "+hint, "there are no loop devices: %v", err)
	}
	if !strings.Contains(line("/proc/filesystems"), "ext4") {
		return warn("modprobe ext4", "ext4 is not loaded; the first mount does it where that is allowed")
	}
	return ok("loop devices and %s", found)
}

func (p *patient) tunnel(context.Context) []Finding {
	const path = "/dev/net/tun"
	const hint = "modprobe tun, and name it in /etc/modules-load.d; without it jobs with `network: private` do not start"
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case denied(err):
		return ok("%s is there", path)
	case err != nil:
		return bad(hint, "cannot use %s: %v", path, err)
	}
	f.Close()
	return ok("%s can be opened", path)
}
