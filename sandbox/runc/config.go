//go:build linux && cgo && seccomp

package runc

import (
	"fmt"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	devices "github.com/opencontainers/cgroups/devices/config"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
)

// validate refuses what contradicts itself. What exceeds the machine is found
// by the kernel.
func validate(spec *sandbox.Spec) error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", sandbox.ErrInvalidSpec, fmt.Sprintf(format, args...))
	}
	switch {
	case spec.ID == "" || strings.Trim(spec.ID, idCharacters) != "" || strings.Trim(spec.ID, ".") == "":
		return invalid("the id %q must be letters, digits, '_', '-' and '.'", spec.ID)
	case len(spec.Args) == 0 || spec.Args[0] == "":
		return invalid("there is no command to run")
	case !path.IsAbs(spec.Cwd):
		return invalid("the working directory %q must be absolute", spec.Cwd)
	case len(spec.Hostname) > 64 || strings.Trim(spec.Hostname, idCharacters) != "":
		return invalid("the host name %q must be at most 64 letters, digits, '_', '-' and '.'", spec.Hostname)
	case len(spec.Domainname) > 64 || strings.Trim(spec.Domainname, idCharacters) != "":
		return invalid("the domain name %q must be at most 64 letters, digits, '_', '-' and '.'", spec.Domainname)
	case spec.OOMScoreAdj < 0 || spec.OOMScoreAdj > 1000:
		return invalid("an oom_score_adj of %d is not between 0 and 1000", spec.OOMScoreAdj)
	case spec.User.UID < 0 || spec.User.GID < 0:
		return invalid("user %d:%d must not be negative", spec.User.UID, spec.User.GID)
	case (len(spec.UIDMappings) == 0) != (len(spec.GIDMappings) == 0):
		return invalid("users and groups must both be mapped, or neither")
	case len(spec.Rootfs.Layers) == 0:
		return invalid("the image has no layers")
	case !path.IsAbs(spec.Rootfs.Scratch):
		return invalid("the scratch directory %q must be absolute", spec.Rootfs.Scratch)
	case spec.Network != "" && spec.Network != sandbox.NetworkNone && spec.Network != sandbox.NetworkPrivate && spec.Network != sandbox.NetworkHost:
		return invalid("unknown network mode %q", spec.Network)
	case spec.Network == sandbox.NetworkPrivate && spec.OnTunnel == nil:
		return invalid("there is nothing behind the private network")
	case len(spec.ExtraHosts) > sandbox.MaxHostEntries:
		return invalid("%d extra hosts are more than %d", len(spec.ExtraHosts), sandbox.MaxHostEntries)
	case len(spec.DNS) > sandbox.MaxResolvers:
		return invalid("%d name servers are more than %d", len(spec.DNS), sandbox.MaxResolvers)
	case spec.Seccomp != "" && spec.Seccomp != sandbox.SeccompDefault && spec.Seccomp != sandbox.SeccompUnconfined:
		return invalid("unknown seccomp mode %q", spec.Seccomp)
	}
	for _, s := range slices.Concat(spec.Args, spec.Env, []string{spec.Cwd, spec.Hostname}) {
		if strings.ContainsRune(s, 0) {
			return invalid("%q contains a NUL byte", s)
		}
	}
	for _, entry := range spec.Env {
		if name, _, ok := strings.Cut(entry, "="); !ok || name == "" {
			return invalid("the environment entry %q must be NAME=VALUE", entry)
		}
	}
	if len(spec.UIDMappings) > 0 {
		if _, ok := hostID(spec.UIDMappings, spec.User.UID); !ok {
			return invalid("user %d is not mapped", spec.User.UID)
		}
		for _, gid := range append([]int{spec.User.GID}, spec.User.AdditionalGIDs...) {
			if _, ok := hostID(spec.GIDMappings, gid); !ok {
				return invalid("group %d is not mapped", gid)
			}
		}
		// libcontainer sets the container up as its root.
		if _, ok := hostID(spec.UIDMappings, 0); !ok {
			return invalid("user 0 is not mapped")
		}
		if _, ok := hostID(spec.GIDMappings, 0); !ok {
			return invalid("group 0 is not mapped")
		}
	}
	for _, e := range spec.ExtraHosts {
		if err := e.Check(); err != nil {
			return invalid("%s", err)
		}
	}
	for _, server := range spec.DNS {
		if err := sandbox.CheckResolver(server); err != nil {
			return invalid("%s", err)
		}
	}
	for _, m := range spec.Mounts {
		if err := validateMount(m); err != nil {
			return invalid("%s", err)
		}
	}
	r := spec.Resources
	switch {
	case r.CPUs < 0 || r.CPUs > 1<<20 || math.IsNaN(r.CPUs):
		return invalid("%v cpus is no number of processors", r.CPUs)
	case r.Memory < 0 || r.Swap < 0 || r.Reservation < 0 || r.CPUShares < 0 || r.PIDs < 0 || r.Shm < 0:
		return invalid("limits must not be negative")
	case r.Memory > 0 && r.Memory < minMemory:
		return invalid("%d bytes of memory are too few to start a container; give at least %d MiB", r.Memory, minMemory>>20)
	case r.Swap > 0 && r.Memory == 0:
		return invalid("a limit of swap needs one of memory")
	case r.CPUs > 0 && r.CPUs < 0.01:
		return invalid("%v cpus are too few; give at least 0.01", r.CPUs)
	}
	for _, l := range spec.Rlimits {
		if _, ok := rlimitTypes[l.Name]; !ok {
			return invalid("unknown resource limit %q", l.Name)
		}
		if l.Soft > l.Hard {
			return invalid("the soft limit %s is larger than the hard one", l.Name)
		}
	}
	return nil
}

const idCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."

// minMemory is what libcontainer's half inside the container needs to get as
// far as the job, with room to spare.
const minMemory = 16 << 20

// validateMount checks what a mount says about itself. Below /proc, /sys and
// /dev are the container's own mounts, which must not be hidden or replaced;
// only /dev/shm is there to be used.
func validateMount(m sandbox.Mount) error {
	switch clean := path.Clean(m.Target); {
	case !path.IsAbs(m.Target) || strings.ContainsRune(m.Target, 0):
		return fmt.Errorf("the mount target %q must be absolute", m.Target)
	case clean == "/":
		return fmt.Errorf("nothing can be mounted over the root directory")
	case within(clean, "/proc") || within(clean, "/sys") || within(clean, "/dev") && !within(clean, "/dev/shm"):
		return fmt.Errorf("nothing can be mounted on %s", clean)
	case m.Source == nil && m.Tmpfs <= 0:
		return fmt.Errorf("the mount on %s has neither a source nor a size", clean)
	case m.Source != nil && m.Tmpfs > 0:
		return fmt.Errorf("the mount on %s has both a source and a size", clean)
	}
	return nil
}

// within reports whether a clean path is a directory or below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir+"/")
}

// hostID is what an id of the container is on the host.
func hostID(mappings []sandbox.IDMapping, id int) (int, bool) {
	if len(mappings) == 0 {
		return id, true
	}
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + id - m.ContainerID, true
		}
	}
	return 0, false
}

// newConfig is libcontainer's form of a valid spec. The mounts of spec are
// given apart, in that form already, as are the place of the root file system,
// /dev, control groups, and the nodes of further devices.
func newConfig(spec *sandbox.Spec, rootfs, group string, masked, sources []string, dev, cgroupfs *configs.Mount, mounts []*configs.Mount) (*configs.Config, error) {
	rules := defaultRules()
	ownNetwork := spec.Network != sandbox.NetworkHost
	score := oomScore
	if spec.OOMScoreAdj != 0 {
		score = spec.OOMScoreAdj
	}
	c := &configs.Config{
		Rootfs:     rootfs,
		Readonlyfs: spec.ReadOnlyRootfs,
		Hostname:   spec.Hostname,
		Domainname: spec.Domainname,
		Namespaces: configs.Namespaces{
			{Type: configs.NEWNS}, {Type: configs.NEWPID}, {Type: configs.NEWIPC}, {Type: configs.NEWUTS}, {Type: configs.NEWCGROUP},
		},
		Mounts:          append(defaultMounts(dev, cgroupfs, ownNetwork), mounts...),
		MaskPaths:       masked,
		ReadonlyPaths:   readonlyPaths,
		NoNewPrivileges: true,
		OomScoreAdj:     &score,
		Sysctl:          spec.Sysctls,
		Capabilities:    capabilities(spec),
	}
	if ownNetwork {
		c.Namespaces = append(c.Namespaces, configs.Namespace{Type: configs.NEWNET})
		c.Networks = []*configs.Network{{Type: "loopback"}}
	}
	if len(spec.UIDMappings) > 0 {
		c.Namespaces = append(c.Namespaces, configs.Namespace{Type: configs.NEWUSER})
		c.UIDMappings = idMaps(spec.UIDMappings)
		c.GIDMappings = idMaps(spec.GIDMappings)
	}
	for _, l := range spec.Rlimits {
		c.Rlimits = append(c.Rlimits, configs.Rlimit{Type: rlimitTypes[l.Name], Soft: l.Soft, Hard: l.Hard})
	}
	if len(spec.Hooks) > 0 {
		c.Hooks = configs.Hooks{configs.CreateContainer: hooks(spec.Hooks)}
	}
	for i, d := range spec.Resources.Devices {
		rule, mount, err := device(d, sources[i])
		if err != nil {
			return nil, err
		}
		rules = append(rules, rule)
		c.Mounts = append(c.Mounts, mount)
	}
	c.Cgroups = &cgroups.Cgroup{Path: group, Resources: resources(spec.Resources, rules)}
	return c, nil
}

// capabilities are the sets of the job's process. One that is not root gets
// none, not even to pass on.
func capabilities(spec *sandbox.Spec) *configs.Capabilities {
	c := &configs.Capabilities{Bounding: spec.Capabilities}
	if spec.User.UID == 0 {
		c.Permitted = spec.Capabilities
		c.Effective = spec.Capabilities
	}
	return c
}

func idMaps(mappings []sandbox.IDMapping) []configs.IDMap {
	var maps []configs.IDMap
	for _, m := range mappings {
		maps = append(maps, configs.IDMap{ContainerID: int64(m.ContainerID), HostID: int64(m.HostID), Size: int64(m.Size)})
	}
	return maps
}

// resources are the limits in libcontainer's words.
func resources(r sandbox.Resources, rules []*devices.Rule) *cgroups.Resources {
	const period = 100_000 // microseconds
	res := &cgroups.Resources{
		Devices:           rules,
		CpusetCpus:        r.CPUSet,
		CpusetMems:        r.MemorySet,
		CpuShares:         uint64(r.CPUShares),
		Memory:            r.Memory,
		MemoryReservation: r.Reservation,
	}
	if r.CPUs > 0 {
		res.CpuPeriod = period
		res.CpuQuota = int64(math.Round(r.CPUs * period))
	}
	if r.CPUShares > 0 && cgroup.Unified() {
		res.CpuShares = 0
		res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(uint64(r.CPUShares))
	}
	if r.PIDs > 0 {
		res.PidsLimit = &r.PIDs
	}
	if r.Memory > 0 {
		if cgroup.Unified() || swapAccounting() {
			res.MemorySwap = r.Memory + r.Swap
		} else if r.Swap == 0 {
			// The nearest to no swap that such a kernel has.
			var never uint64
			res.MemorySwappiness = &never
		}
	}
	if cgroup.Unified() {
		// A job that lost one of its processes to the limit is lost as a whole.
		res.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return res
}

// swapAccounting is whether cgroup v1 can limit swap on this kernel.
func swapAccounting() bool {
	_, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	return err == nil
}

// device lets the container use a device of the host: a rule, and the node
// itself as a bind mount.
func device(d sandbox.Device, source string) (*devices.Rule, *configs.Mount, error) {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: device %s: %s", sandbox.ErrInvalidSpec, d.HostPath, fmt.Sprintf(format, args...))
	}
	var st unix.Stat_t
	if err := unix.Lstat(source, &st); err != nil {
		return nil, nil, invalid("%v", err)
	}
	rule := &devices.Rule{
		Major:       int64(unix.Major(st.Rdev)),
		Minor:       int64(unix.Minor(st.Rdev)),
		Permissions: devices.Permissions(d.Access),
		Allow:       true,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		rule.Type = devices.CharDevice
	case unix.S_IFBLK:
		rule.Type = devices.BlockDevice
	default:
		return nil, nil, invalid("it is no device node")
	}
	if rule.Permissions.IsEmpty() || !rule.Permissions.IsValid() {
		return nil, nil, invalid("the access %q must be some of r, w and m, in this order", d.Access)
	}
	if clean := path.Clean(d.Path); !within(clean, "/dev") || clean == "/dev" {
		return nil, nil, invalid("its path in the container, %q, must be below /dev", d.Path)
	}
	return rule, &configs.Mount{
		Source: source, Destination: path.Clean(d.Path), Device: "bind",
		Flags: unix.MS_BIND | unix.MS_NOSUID | unix.MS_NOEXEC,
	}, nil
}

// newProcess is the job's process. The control socket is its descriptor 3
// until it is executed; null stands for each standard stream that it has not.
func newProcess(spec *sandbox.Spec, control, null *os.File) *libcontainer.Process {
	args := spec.Args
	if spec.Init {
		args = append([]string{initPath}, args...)
	}
	p := &libcontainer.Process{
		Args:             args,
		Env:              spec.Env,
		UID:              spec.User.UID,
		GID:              spec.User.GID,
		AdditionalGroups: spec.User.AdditionalGIDs,
		Cwd:              spec.Cwd,
		Stdin:            null,
		Stdout:           null,
		Stderr:           null,
		ExtraFiles:       []*os.File{control},
		Init:             true,
		// logrus's warnings. With none, nsenter's C code sends all its debugging.
		LogLevel: "3",
	}
	if !slices.ContainsFunc(spec.Env, func(entry string) bool { return strings.HasPrefix(entry, "PATH=") }) {
		p.Env = append(slices.Clip(spec.Env), "PATH="+defaultPath)
	}
	if spec.Stdin != nil {
		p.Stdin = spec.Stdin
	}
	if spec.Stdout != nil {
		p.Stdout = spec.Stdout
	}
	if spec.Stderr != nil {
		p.Stderr = spec.Stderr
	}
	return p
}

// ownPipes gives the pipes of standard input and output to the job's user.
// libcontainer tries that from inside the container, where it may not; without
// it a job could not open /dev/stdout. Pipes only: other files are someone's.
func ownPipes(spec *sandbox.Spec) error {
	const pipefsMagic = 0x50495045
	uid, _ := hostID(spec.UIDMappings, spec.User.UID)
	for _, f := range []*os.File{spec.Stdin, spec.Stdout, spec.Stderr} {
		if f == nil {
			continue
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
			return fmt.Errorf("cannot look at %s: %w", f.Name(), os.NewSyscallError("fstatfs", err))
		}
		if st.Type != pipefsMagic {
			continue
		}
		if err := unix.Fchown(int(f.Fd()), uid, -1); err != nil {
			return fmt.Errorf("cannot give %s to the job's user: %w", f.Name(), os.NewSyscallError("fchown", err))
		}
	}
	return nil
}
