package transforms

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"girderworker/sandbox"
)

// Options are the settings of a container that few jobs need. What of them a
// submitter may have is policy. In a job's document they are fields beside the
// others; names and meanings are docker-py's.
type Options struct {
	// CapAdd and CapDrop are CAP_NAME; CapDrop may be ALL.
	CapAdd  []string `json:"cap_add,omitempty"`
	CapDrop []string `json:"cap_drop,omitempty"`
	// GroupAdd are groups of the image by name, or numbers in the container.
	GroupAdd []string `json:"group_add,omitempty"`
	// Init runs the command below a first process that passes signals on to it
	// and reaps what it leaves behind.
	Init bool `json:"init,omitempty"`
	// Labels are kept with the job and change nothing.
	Labels     map[string]string `json:"labels,omitempty"`
	Tmpfs      []Tmpfs           `json:"tmpfs,omitempty"`
	Ulimits    []Ulimit          `json:"ulimits,omitempty"`
	Sysctls    map[string]string `json:"sysctls,omitempty"`
	Devices    []Device          `json:"devices,omitempty"`
	Domainname string            `json:"domainname,omitempty"`
	// OOMScoreAdj is from 1 to 1000; 0 is the sandbox's own.
	OOMScoreAdj int `json:"oom_score_adj,omitempty"`
	// Seccomp is empty for the default filter.
	Seccomp sandbox.SeccompMode `json:"seccomp,omitempty"`
}

// Tmpfs is a file system in memory. What is written to it counts against the
// job's memory.
type Tmpfs struct {
	Target string `json:"target"`
	Size   int64  `json:"size,omitempty"` // bytes; 0 is half of the job's memory
	// Mode is the directory's, in the digits of chmod; 0 is 1777.
	Mode uint32 `json:"mode,omitempty"`
	Exec bool   `json:"exec,omitempty"` // programs on it may be executed
}

// Ulimit is a resource limit by its lower-case name: nofile, core, stack …
// -1 is unlimited.
type Ulimit struct {
	Name string `json:"name"`
	Soft int64  `json:"soft"`
	Hard int64  `json:"hard"`
}

// Device is a device node of the host.
type Device struct {
	Source string `json:"source"`
	Target string `json:"target,omitempty"` // empty: as Source
	Access string `json:"access,omitempty"` // of r, w and m; empty is rwm
}

// The bounds of [Options].
const (
	maxCapabilities = 64
	maxTmpfs        = 32
	maxUlimits      = 16
	maxSysctls      = 64
	maxDevices      = 64
	maxLabels       = 128
	maxLabel        = 4096
)

// capabilityNames are those of capabilities(7).
var capabilityNames = strings.Fields(`
	AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH
	FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN
	NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT
	SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`)

// ulimitNames are those of setrlimit(2).
var ulimitNames = strings.Fields(`as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack`)

// parseCapability takes a capability with CAP_ or without, in any case.
func parseCapability(s string) (string, error) {
	name := strings.TrimPrefix(strings.ToUpper(s), "CAP_")
	if name == "ALL" {
		return "ALL", nil
	}
	if !slices.Contains(capabilityNames, name) {
		return "", problem("%.40q is no capability; write a name of capabilities(7), as in SYS_PTRACE", s)
	}
	return "CAP_" + name, nil
}

func checkUlimit(u Ulimit) error {
	switch {
	case !slices.Contains(ulimitNames, u.Name):
		return problem("%.40q is no resource limit; write one of %s", u.Name, strings.Join(ulimitNames, ", "))
	case u.Soft < -1 || u.Hard < -1:
		return problem("%s: a negative limit; write -1 for none", u.Name)
	case u.Hard >= 0 && (u.Soft > u.Hard || u.Soft == -1):
		return problem("%s: the soft limit is larger than the hard one", u.Name)
	}
	return nil
}

// ownSysctls are the settings that a container has of its own: the rest would
// be the machine's. As libcontainer, which checks again, has them.
func ownSysctl(name string) bool {
	switch name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return true
	}
	return strings.HasPrefix(name, "fs.mqueue.") || strings.HasPrefix(name, "net.")
}

func checkSysctl(name, value string) error {
	switch {
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.Contains(name, ".."):
		return problem("%.60q is no name of a kernel setting", name)
	case !ownSysctl(name):
		return problem("%s is a setting of the whole machine; a container has only net.*, fs.mqueue.* and the kernel.* of System V IPC", name)
	case len(value) > 256 || strings.ContainsAny(value, "\x00\n"):
		return problem("%s: a value of one short line is wanted", name)
	}
	return nil
}

func checkDevice(d Device) error {
	if err := checkPath(d.Source); err != nil {
		return err
	}
	if !within(d.Source, "/dev") || d.Source == "/dev" {
		return problem("%s is not below /dev", d.Source)
	}
	if d.Target != "" {
		if err := checkPath(d.Target); err != nil {
			return err
		}
		if !within(d.Target, "/dev") || d.Target == "/dev" {
			return problem("%s is not below /dev", d.Target)
		}
	}
	if d.Access != "" && !slices.Contains([]string{"r", "w", "m", "rw", "rm", "wm", "rwm"}, d.Access) {
		return problem("the access %.10q is not made of r, w and m, in this order", d.Access)
	}
	return nil
}

func checkTmpfs(t Tmpfs) error {
	if err := checkPath(t.Target); err != nil {
		return err
	}
	switch {
	case t.Target == "/":
		return problem("the target / would hide the image")
	case within(t.Target, PipeDirectory):
		return problem("the target %s would hide the job's pipes", t.Target)
	case within(t.Target, "/proc"), within(t.Target, "/sys"), within(t.Target, "/dev") && !within(t.Target, "/dev/shm"):
		return problem("the target %s is the container's own", t.Target)
	case t.Size != 0 && (t.Size < 1<<12 || t.Size > MaxSize):
		return problem("%d bytes is not between %s and %s", t.Size, FormatBytes(1<<12), FormatBytes(MaxSize))
	case t.Mode > 0o7777:
		return problem("%o is no mode", t.Mode)
	}
	return nil
}

func checkLabel(key, value string) error {
	if key == "" || len(key)+len(value) > maxLabel || strings.ContainsRune(key+value, 0) {
		return problem("a label has a name, and at most %d bytes with its value", maxLabel)
	}
	return nil
}

// checkGroup takes what [reader.user] takes of a group.
func checkGroup(s string) error {
	if !validName(s) {
		return problem("%.80q is not a group's name or number", s)
	}
	return nil
}

// check refuses what no single field shows.
func (o *Options) check() error {
	targets := map[string]bool{}
	for _, t := range o.Tmpfs {
		if targets[t.Target] {
			return inField("tmpfs", problem("the target %s is given twice", t.Target))
		}
		targets[t.Target] = true
	}
	names := map[string]bool{}
	for _, u := range o.Ulimits {
		if names[u.Name] {
			return inField("ulimits", problem("%s is given twice", u.Name))
		}
		names[u.Name] = true
	}
	if slices.Contains(o.CapAdd, "ALL") {
		return inField("cap_add", problem("ALL is not given; name the capabilities that the job needs"))
	}
	return nil
}

// optionField reads one field of a document, and tells whether it is one of o.
func (r *reader) optionField(o *Options, key string) (known bool, err error) {
	switch key {
	case "cap_add":
		o.CapAdd, err = r.listOf(maxCapabilities, parseCapability)
	case "cap_drop":
		o.CapDrop, err = r.listOf(maxCapabilities, parseCapability)
	case "group_add":
		o.GroupAdd, err = r.listOf(maxCapabilities, func(s string) (string, error) { return s, checkGroup(s) })
	case "init":
		o.Init, err = r.boolean()
	case "labels":
		o.Labels, err = r.texts(maxLabels, checkLabel)
	case "sysctls":
		o.Sysctls, err = r.texts(maxSysctls, checkSysctl)
	case "tmpfs":
		err = r.array(maxTmpfs, func() error {
			t, err := r.tmpfs()
			o.Tmpfs = append(o.Tmpfs, t)
			return err
		})
	case "ulimits":
		err = r.array(maxUlimits, func() error {
			u, err := r.ulimit()
			o.Ulimits = append(o.Ulimits, u)
			return err
		})
	case "devices":
		err = r.array(maxDevices, func() error {
			d, err := r.device()
			o.Devices = append(o.Devices, d)
			return err
		})
	case "domainname":
		o.Domainname, err = r.hostname()
	case "oom_score_adj":
		o.OOMScoreAdj, err = r.whole(1, 1000)
	case "seccomp":
		var s string
		if s, err = r.text(); err == nil {
			switch mode := sandbox.SeccompMode(s); mode {
			case sandbox.SeccompDefault:
			case sandbox.SeccompUnconfined:
				o.Seccomp = mode
			default:
				err = problem("%.40q is neither default nor unconfined", s)
			}
		}
	default:
		return false, nil
	}
	return true, err
}

// extraHosts is an object of names and addresses, sorted by name.
func (r *reader) extraHosts() (hosts []sandbox.HostEntry, err error) {
	err = r.object(func(key string) error {
		address, err := r.text()
		if err == nil {
			hosts, err = addHost(hosts, key, address)
		}
		return err
	})
	slices.SortFunc(hosts, func(a, b sandbox.HostEntry) int { return strings.Compare(a.Name, b.Name) })
	return hosts, err
}

func addHost(hosts []sandbox.HostEntry, name, address string) ([]sandbox.HostEntry, error) {
	h := sandbox.HostEntry{Name: name, Address: address}
	if err := h.Check(); err != nil {
		return hosts, problem("%s", err)
	}
	if len(hosts) == sandbox.MaxHostEntries {
		return hosts, problem("more than %d", sandbox.MaxHostEntries)
	}
	return append(hosts, h), nil
}

func checkAddress(s string) error {
	if addr, err := netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		return problem("%.60q is no IP address", s)
	}
	return nil
}

func (r *reader) listOf(limit int, parse func(string) (string, error)) (list []string, err error) {
	err = r.array(limit, func() error {
		s, err := r.text()
		if err == nil {
			s, err = parse(s)
		}
		if err == nil && !slices.Contains(list, s) {
			list = append(list, s)
		}
		return err
	})
	return list, err
}

// texts is an object whose values are texts.
func (r *reader) texts(limit int, check func(key, value string) error) (map[string]string, error) {
	m := map[string]string{}
	return m, r.object(func(key string) error {
		value, err := r.text()
		if err == nil {
			err = check(key, value)
		}
		if err == nil && len(m) == limit {
			err = problem("more than %d", limit)
		}
		m[key] = value
		return err
	})
}

func (r *reader) tmpfs() (t Tmpfs, err error) {
	err = r.object(func(key string) (err error) {
		switch key {
		case "target":
			t.Target, err = r.containerPath()
		case "size":
			t.Size, err = r.size(1 << 12)
		case "mode":
			var mode os.FileMode
			mode, err = r.mode()
			t.Mode = uint32(mode)
		case "exec":
			t.Exec, err = r.boolean()
		default:
			err = problem("unknown field")
		}
		return err
	})
	if err == nil {
		err = checkTmpfs(t)
	}
	return t, err
}

// cpuList is a list of numbers and ranges, as the kernel writes them: "0-3,8".
func (r *reader) cpuList() (string, error) {
	s, err := r.text()
	if err == nil {
		err = checkCPUList(s)
	}
	return s, err
}

func checkCPUList(s string) error {
	bad := problem("%.60q is no list of numbers such as 0-3,8", s)
	if len(s) > 256 {
		return bad
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, ranged := strings.Cut(part, "-")
		from, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return bad
		}
		if ranged {
			if to, err := strconv.ParseUint(high, 10, 16); err != nil || to < from {
				return bad
			}
		}
	}
	return nil
}

func (r *reader) ulimit() (u Ulimit, err error) {
	hard := false
	err = r.object(func(key string) (err error) {
		switch key {
		case "name":
			u.Name, err = r.text()
		case "soft":
			u.Soft, err = r.integer()
		case "hard":
			u.Hard, err = r.integer()
			hard = true
		default:
			err = problem("unknown field")
		}
		return err
	})
	if !hard {
		u.Hard = u.Soft
	}
	if err == nil {
		err = checkUlimit(u)
	}
	return u, err
}

func (r *reader) device() (d Device, err error) {
	err = r.object(func(key string) (err error) {
		switch key {
		case "source":
			d.Source, err = r.hostPath()
		case "target":
			d.Target, err = r.containerPath()
		case "access":
			d.Access, err = r.text()
		default:
			err = problem("unknown field")
		}
		return err
	})
	if err == nil {
		err = checkDevice(d)
	}
	return d, err
}

// options appends o's fields to a document.
func (w *writer) options(o *Options) {
	w.texts("cap_add", nonEmpty(o.CapAdd))
	w.texts("cap_drop", nonEmpty(o.CapDrop))
	w.texts("group_add", nonEmpty(o.GroupAdd))
	w.flag("init", o.Init)
	w.mapping("labels", o.Labels)
	if len(o.Tmpfs) > 0 {
		w.open("tmpfs", '[')
		for _, t := range o.Tmpfs {
			w.element('{')
			w.text("target", t.Target)
			w.number("size", t.Size)
			if t.Mode != 0 {
				w.text("mode", fmt.Sprintf("%04o", t.Mode))
			}
			w.flag("exec", t.Exec)
			w.close('}')
		}
		w.close(']')
	}
	if len(o.Ulimits) > 0 {
		w.open("ulimits", '[')
		for _, u := range o.Ulimits {
			w.element('{')
			w.text("name", u.Name)
			w.key("soft")
			w.b = strconv.AppendInt(w.b, u.Soft, 10)
			w.key("hard")
			w.b = strconv.AppendInt(w.b, u.Hard, 10)
			w.close('}')
		}
		w.close(']')
	}
	w.mapping("sysctls", o.Sysctls)
	if len(o.Devices) > 0 {
		w.open("devices", '[')
		for _, d := range o.Devices {
			w.element('{')
			w.text("source", d.Source)
			w.text("target", d.Target)
			w.text("access", d.Access)
			w.close('}')
		}
		w.close(']')
	}
	w.text("domainname", o.Domainname)
	w.number("oom_score_adj", int64(o.OOMScoreAdj))
	w.text("seccomp", string(o.Seccomp))
}

func (w *writer) mapping(key string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	w.open(key, '{')
	for _, k := range slices.Sorted(maps.Keys(m)) {
		w.key(k)
		w.b = appendString(w.b, m[k])
	}
	w.close('}')
}

// Mounts are the file systems in memory as the sandbox mounts them, for a job
// with so much memory.
func (o *Options) Mounts(memory int64) []sandbox.Mount {
	var mounts []sandbox.Mount
	for _, t := range o.Tmpfs {
		size := t.Size
		if size == 0 {
			size = max(memory/2, 1<<20)
		}
		mounts = append(mounts, sandbox.Mount{Target: path.Clean(t.Target), Tmpfs: size, Mode: fileMode(t.Mode), Exec: t.Exec})
	}
	return mounts
}

// fileMode is a mode of chmod's digits as Go has it.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]os.FileMode{0o1000: os.ModeSticky, 0o2000: os.ModeSetgid, 0o4000: os.ModeSetuid} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}

// Rlimits are the resource limits in the sandbox's words.
func (o *Options) Rlimits() []sandbox.Rlimit {
	var limits []sandbox.Rlimit
	for _, u := range o.Ulimits {
		limits = append(limits, sandbox.Rlimit{Name: "RLIMIT_" + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	return limits
}
