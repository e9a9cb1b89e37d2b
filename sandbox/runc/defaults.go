//go:build linux && cgo && seccomp

package runc

import (
	"path/filepath"

	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// What every container gets, as Docker gives it.

// defaultPath is the PATH of a container whose environment has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// oomScore makes jobs go before anything else when the machine itself, not
// the job's limit, runs out of memory. Otherwise they would inherit the
// daemon's protection.
const oomScore = 500

// defaultShm is the size of /dev/shm when the spec names none.
const defaultShm = 64 << 20

// readonlyPaths are settings of the kernel that the container must not change.
var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// maskedPaths tell about the machine what no job needs to know, or more than
// is safe: keys, memory, timing.
func maskedPaths() []string {
	paths := []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	// One for each processor, where the machine has them.
	throttle, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	return append(paths, throttle...)
}

const (
	noExecNoSuidNoDev = unix.MS_NOEXEC | unix.MS_NOSUID | unix.MS_NODEV
	noSuidNoDev       = unix.MS_NOSUID | unix.MS_NODEV
)

// defaultRules say which devices may be used: the nodes that everyone has, and
// terminals, which /dev/pts makes. Everything else is forbidden.
func defaultRules() []*devices.Rule {
	rules := []*devices.Rule{{Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard, Permissions: "rwm"}}
	allow := func(major, minor int64) {
		rules = append(rules, &devices.Rule{Type: devices.CharDevice, Major: major, Minor: minor, Permissions: "rwm", Allow: true})
	}
	for _, n := range defaultNodes {
		allow(int64(n.major), int64(n.minor))
	}
	allow(5, 2) // ptmx
	allow(136, devices.Wildcard)
	return rules
}

// rlimitTypes are the numbers of setrlimit(2).
var rlimitTypes = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

// defaultMounts are mounted in this order.
func defaultMounts(dev, cgroupfs *configs.Mount, ownNetwork bool) []*configs.Mount {
	mounts := []*configs.Mount{
		{Source: "proc", Destination: "/proc", Device: "proc", Flags: noExecNoSuidNoDev},
		dev,
		{Source: "mqueue", Destination: "/dev/mqueue", Device: "mqueue", Flags: noExecNoSuidNoDev},
	}
	if ownNetwork {
		mounts = append(mounts, &configs.Mount{Source: "sysfs", Destination: "/sys", Device: "sysfs", Flags: noExecNoSuidNoDev | unix.MS_RDONLY})
	} else {
		// A new sysfs shows the network devices, so the kernel gives it to the
		// network namespace's owner only.
		mounts = append(mounts, &configs.Mount{
			Source: "/sys", Destination: "/sys", Device: "bind", Flags: unix.MS_BIND | unix.MS_REC | noExecNoSuidNoDev | unix.MS_RDONLY,
			RecAttr: &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY},
		})
	}
	return append(mounts, cgroupfs)
}

// cgroupMount is for libcontainer to make.
func cgroupMount() *configs.Mount {
	return &configs.Mount{Source: "cgroup", Destination: "/sys/fs/cgroup", Device: "cgroup", Flags: noExecNoSuidNoDev | unix.MS_RELATIME | unix.MS_RDONLY}
}
