// Package sandbox holds the words that the rest of the project uses for one
// container: what to run ([Spec]), what happened ([Exit], [Usage]) and who runs
// it ([Runner]). It is pure Go and imports no other room, so that everything
// which only describes containers builds without cgo. The implementation on
// libcontainer is sandbox/runc, the image store sandbox/image, named pipes
// sandbox/fifo.
package sandbox

import (
	"context"
	"os"
	"time"
)

// Spec is everything a [Runner] needs to run one container, already decided:
// no field is a wish that still has to be checked against policy. Paths on the
// host never appear; what the container sees of the host comes as descriptors.
type Spec struct {
	// ID names the container, its cgroup and its state: "<job>-<attempt>".
	ID string

	// Rootfs describes the root file system.
	Rootfs Rootfs

	// Args is the whole argument vector. Args[0] is looked up in the PATH of
	// Env inside the container.
	Args []string
	// Env holds KEY=VALUE pairs, no key twice.
	Env []string
	// Cwd is absolute inside the container; it is created when missing.
	Cwd string
	// Hostname is the UTS name.
	Hostname string
	// Domainname is the NIS domain name, which hardly anything uses.
	Domainname string

	// User is who the process runs as, in the container's own numbers.
	User User
	// UIDMappings and GIDMappings are the user namespace. Empty means no user
	// namespace, which only the tests of a bare kernel use.
	UIDMappings []IDMapping
	GIDMappings []IDMapping
	// Capabilities are the bounding, permitted and effective sets, as CAP_NAME.
	// A process that is not uid 0 in the container gets none of them.
	Capabilities []string

	Mounts []Mount

	// Network is the network namespace.
	Network NetworkMode
	// OnTunnel must be there with [NetworkPrivate]. It is given the other end of
	// the container's only network device before the job's command is executed,
	// and owns it: a tun(4) device, non-blocking, one IP packet for each read and
	// write. When it is closed the device is gone.
	OnTunnel func(*os.File) error
	// ExtraHosts are added to /etc/hosts.
	ExtraHosts []HostEntry
	// DNS are the name servers in /etc/resolv.conf, as IP addresses, instead of
	// the network's own.
	DNS []string

	Resources Resources
	Rlimits   []Rlimit
	// Hooks are run in order before the container's root is entered.
	Hooks []Hook
	// Sysctls are namespaced kernel settings.
	Sysctls map[string]string

	// Seccomp chooses the system call filter.
	Seccomp SeccompMode
	// NoSetUID has the filter refuse to give any file the setuid bit. The mounts
	// of a container are nosuid, but what it leaves in a directory of the host may
	// be executed there by others. It means nothing without a filter.
	NoSetUID bool

	// ReadOnlyRootfs mounts the root file system read-only.
	ReadOnlyRootfs bool

	// Init starts Args below a first process of ours, which passes signals on and
	// reaps. A command that is not there then is an exit code of 127, and one that
	// cannot be executed 126, and not an error of Start.
	Init bool

	// OOMScoreAdj is from 1 to 1000; 0 is 500: jobs go before the machine's own.
	OOMScoreAdj int

	// StopSignal is sent first when the container is asked to end; 0 is SIGTERM.
	StopSignal int

	// Stdin, Stdout and Stderr become the descriptors 0, 1 and 2. A nil Stdin is
	// /dev/null. The caller keeps its own ends and closes these after Start.
	Stdin, Stdout, Stderr *os.File
}

// DefaultCapabilities are what a container's root has when nobody says otherwise:
// Docker's less MKNOD, NET_RAW, AUDIT_WRITE, SYS_CHROOT and SETFCAP. They reach no
// further than the container's user namespace.
func DefaultCapabilities() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
		"CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	}
}

// Rootfs is a root file system made of image layers.
type Rootfs struct {
	// Layers are directories on the host, lowest first, as the image store
	// keeps them: owned by the container's own ids, whiteouts as overlayfs
	// wants them (userxattr form).
	Layers []string
	// Scratch is an empty directory on the host that holds what the container
	// writes (overlay upper and work) and the mount point. It is the caller's to
	// remove.
	Scratch string
	// Mounts are bound to directories and files that the layers have, which no link
	// leads to and which are not below each other, before any other mount. They have
	// sources.
	Mounts []Mount
}

// User is an identity in the container's numbers.
type User struct {
	UID, GID       int
	AdditionalGIDs []int
}

// IDMapping maps Size ids that start at ContainerID inside to HostID outside.
type IDMapping struct {
	ContainerID, HostID, Size int
}

// Mount is something placed into the container's file system.
type Mount struct {
	// Source is an open descriptor (O_PATH is enough) of the file or directory
	// to bind. It was opened by a process with the submitter's rights; the
	// descriptor, never a path, is what gets mounted. Nil for Tmpfs.
	Source *os.File
	// Target is absolute inside the container.
	Target string
	// ReadOnly, and with it always nosuid and nodev.
	ReadOnly bool
	// Recursive binds what is mounted below Source as well, with the same flags.
	Recursive bool
	// Tmpfs, when larger than 0, asks for a tmpfs of so many bytes instead of a
	// bind; Mode is its mode, and Exec allows programs on it to be executed.
	Tmpfs int64
	Mode  os.FileMode
	Exec  bool
}

// NetworkMode names a network namespace.
type NetworkMode string

// The network modes. The zero value is none.
const (
	// NetworkNone is an own namespace with only the loopback interface, up.
	NetworkNone NetworkMode = "none"
	// NetworkPrivate is an own namespace with outbound access, see [Network].
	NetworkPrivate NetworkMode = "private"
	// NetworkHost is the host's own namespace.
	NetworkHost NetworkMode = "host"
)

// SeccompMode names a system call filter.
type SeccompMode string

// The filters. The zero value is the default one.
const (
	// SeccompDefault is Docker's default profile for all architectures that the
	// machine runs (x86_64: also x86 and x32).
	SeccompDefault SeccompMode = "default"
	// SeccompUnconfined is no filter; only policy can ask for it.
	SeccompUnconfined SeccompMode = "unconfined"
)

// Resources are limits on the container's cgroup. All are finite in production;
// zero means that the limit is not written, which only tests use.
type Resources struct {
	// CPUs is a share of processors: 1.5 is one and a half.
	CPUs float64
	// CPUSet is a list such as "0-3,8"; empty is every processor.
	CPUSet string
	// Memory is in bytes; swap is never given beyond it unless Swap says so.
	Memory int64
	// Swap is in bytes on top of Memory.
	Swap int64
	// Reservation is in bytes: what the kernel leaves the container when memory
	// is short.
	Reservation int64
	// MemorySet are the NUMA nodes, as CPUSet.
	MemorySet string
	// CPUShares is the weight beside other containers, 1024 by default.
	CPUShares int64
	// PIDs is the largest number of tasks.
	PIDs int64
	// Shm is the size of /dev/shm in bytes.
	Shm int64
	// Devices are host devices the container may use, by cgroup rule and node.
	Devices []Device
}

// Device is a device node that the container gets.
type Device struct {
	// HostPath and Path are the node on the host and in the container.
	HostPath, Path string
	// Access is any of "rwm".
	Access string
	// Own gives the container a node of its own that all its users may use as
	// far as Access goes, whatever the permissions of the host's node.
	Own bool
}

// Hook is a program of the host that prepares the container's files. It is run
// in the container's namespaces, the user namespace among them, with the root
// file system mounted and not entered. It finds the OCI state on its stdin.
type Hook struct {
	Path    string
	Args    []string // with Args[0]
	Env     []string
	Timeout time.Duration
}

// Rlimit is a resource limit of setrlimit(2), by its RLIMIT_ name.
type Rlimit struct {
	Name       string
	Soft, Hard uint64
}

// Exit says how a container ended.
type Exit struct {
	// Code is the exit status, 128+n after signal n, as a shell reports it.
	Code int
	// Signal is the number of the signal that ended the process, or 0.
	Signal int
	// OOMKilled is set when the kernel killed something in the cgroup for
	// memory and the container did not end well.
	OOMKilled bool
	Started   time.Time
	Finished  time.Time
	Usage     Usage
}

// Usage is what a container consumed, read from its cgroup. A value that the
// kernel does not offer is 0.
type Usage struct {
	CPU        time.Duration
	PeakMemory int64 // bytes
	ReadBytes  int64 // block devices
	WriteBytes int64
	OOMKills   int64
}

// A Runner runs containers. All its methods are safe for concurrent use.
type Runner interface {
	// Start makes the container and starts its process. When it returns an
	// error nothing is left behind: no process, no cgroup, no mount. The error
	// wraps [ErrNotFound] or [ErrNotExecutable] where the command is to blame.
	Start(ctx context.Context, spec *Spec) (Container, error)
}

// A Container is a started container. Exactly one goroutine calls Wait.
type Container interface {
	// PID is the host's number of the container's first process.
	PID() int
	// Wait returns when the first process has ended and every other process of
	// the cgroup was killed: after it the cgroup is empty. It ends early
	// only with ctx, and may then be called again.
	Wait(ctx context.Context) (Exit, error)
	// Signal sends a signal to the first process.
	Signal(sig os.Signal) error
	// Ignores tells whether Signal would change nothing: the first process of a
	// container gets only signals that it catches or waits for.
	Ignores(sig os.Signal) bool
	// Kill ends every process of the cgroup at once. It works while Wait runs
	// and after the container ended.
	Kill() error
	// Usage reads the cgroup's counters now, before Wait has returned.
	Usage() (Usage, error)
	// Destroy removes all of a container that has ended, its cgroup first. It may be
	// called again after it failed.
	Destroy() error
}
