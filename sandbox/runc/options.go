// Package runc runs containers with libcontainer. It is the project's only
// package that needs cgo, and the only one that knows libcontainer, whose API
// changes between releases.
//
// It is for a process of its own, called the runner: one for each attempt of a
// job, root, and in a mount namespace of its own, in which all mounts for the
// container are made, so that they go with the process. A program that links
// this package and is executed as [RunnerCommand] has that namespace before Go
// starts, see [OwnMounts]; [New] refuses the machine's.
//
// # How a container starts
//
//	runner                                    first process of the container
//	layers, overlay, binds in a workspace
//	libcontainer.Create, Start         ───►   namespaces, mounts, limits (cgroups by the runner)
//	compiled filter over the control socket   a thread keeps it
//	                                          user, capabilities, no_new_privs; waits on its FIFO
//	"install"                          ───►   the thread installs it for all threads
//	the FIFO gets a reader             ───►   execve of the job
//	control socket closed: it runs            (or libcontainer's message: it cannot)
//
// # Goroutines
//
// Start owns three and waits for all: one overlaps the wait for the kernel's
// first move into a control group, one makes the user namespace, one turns the
// end of the context into killing. A running container has none, and no
// thread: Wait waits in the caller's goroutine, on a pidfd in Go's poller.
package runc

import "log/slog"

// RunnerCommand is the sub-command of a program that is to run containers; it
// stands in mountns.h, too.
const RunnerCommand = "runner"

// TransferCommand and NetworkCommand are sub-commands that a runner executes as
// root with a user id and a group id as their arguments: they have that identity
// when Go starts, no capability, and a memory that nobody but root may look into.
// They die with their parent.
const (
	TransferCommand = "transfer"
	NetworkCommand  = "network"
)

// DefaultMountDir is used when [Options] names none. It is not in the daemon's
// runtime directory, which not everyone need be able to search.
const DefaultMountDir = "/run/girder-worker-mounts"

// Options say where a [Runner] works.
type Options struct {
	// CacheDir keeps compiled seccomp filters across processes. It is made if
	// need be; only root may write it.
	CacheDir string
	// Cgroup is the path, from the root of each hierarchy, of the group below
	// which a container's own is made, named by its id. On cgroup v2 no process
	// may be in it: a runner that lives in the same unit has to be in a sibling.
	Cgroup string
	// MountDir is a directory, made in an existing one if need be, on which the
	// runner mounts its workspace. Only this process sees what is mounted there,
	// so that all processes can share it, but in one process each Runner needs
	// its own. Everyone must be able to search the directories above it. Empty
	// is [DefaultMountDir].
	MountDir string
	// Init is the program that containers with an init get: statically linked, and
	// this one's code in reaper.c. Empty is the program that runs.
	Init string
	// NoIDMap makes containers as on a machine whose kernel or file system has no
	// mounts that map ids: each gets a copy of its image.
	NoIDMap bool
	// Logger gets what fails no container; nil discards it.
	Logger *slog.Logger
}
