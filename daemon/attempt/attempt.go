// Package attempt is the contract between the processes that share one attempt
// of a job: the monitor, which makes its directory, the runner, which writes
// it, and the front, which reads it. An upgrade mixes binaries of two releases
// over one directory, so everything here is versioned and only ever added to.
//
// # The directory
//
//	<state>/jobs/<job>/<attempt>/      root:girder-worker 2750, made by the monitor
//	    request.json    what to do: [Request], written before the runner starts
//	    secrets.json    tokens and keys, root 0600; removed when no runner needs them any more: [Dir.WriteSecrets]
//	    lock            flock(2)ed by the runner from before its first act until its end
//	    events          append-only records, see [Event]
//	    log             append-only records of output, see [LogRecord]
//	    cancel          made by the monitor to end the attempt early: [Cancel]
//	    result.json     what a function returned, in its own words, if exit.json has not got it: [Dir.WriteResult]
//	    exit.json       how it ended: [Exit], written, renamed, synced with its directory; none unless whole
//	    finish.json     how far the work after the exit is, while there is some: [Finish]
//	<state>/work/<job>-<attempt>/      root 0700: overlay scratch, pipes, volumes; removed at the end
//
// A runner that holds the lock is alive, whatever its process number. An
// attempt without exit.json whose lock is free was lost: its runner died. One
// with exit.json and finish.json whose lock is free gets another runner, which
// goes on with its uploads.
package attempt

import (
	"time"

	"girderworker/sandbox"
	"girderworker/transforms"
)

// Version is written into every file of the directory that has a place for it.
// A reader refuses a larger one.
const Version = 1

// Request is request.json: what the front asks and the monitor grants.
type Request struct {
	Version int    `json:"version"`
	Job     string `json:"job"`
	Attempt int    `json:"attempt"`

	Identity Identity        `json:"identity"`
	Plan     transforms.Plan `json:"plan"`
	// ImageID is the store's own id of the image ("sha256:..." of its config)
	// that Plan.Image resolved to; empty where the plan has none, see [transforms.Plan.OnHost].
	ImageID string `json:"image_id"`

	Resources Resources `json:"resources"`
	Limits    Limits    `json:"limits"`

	// Grant is added by the monitor; whatever the front sent there is dropped.
	Grant Grant `json:"grant"`
}

// Identity is whom the attempt acts as on the host, and who asked for it. The
// monitor learns it from the kernel when somebody connects to the socket, and
// knows it again at the start by Seal: between those the front keeps it, and
// cannot make one. UID 0 is refused: a job of root has an unprivileged identity.
// Of a job from the message queue there is only its Source: whom it acts as is
// chosen when it starts.
type Identity struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups,omitempty"`

	// Source is "socket" or "amqp".
	Source string `json:"source,omitempty"`
	// Submitter is the uid, and PID the process, that connected. By then the
	// process may be gone and its number another's.
	Submitter int `json:"submitter,omitempty"`
	PID       int `json:"pid,omitempty"`
	// Seal is the monitor's mark on all of the above.
	Seal string `json:"seal,omitempty"`
}

// Root is a directory beneath which a job may have files of the host.
type Root struct {
	Path  string `json:"path"`
	Write bool   `json:"write,omitempty"`
}

// Resources are the container's limits. All are set: the front fills in defaults.
type Resources struct {
	CPUs    float64 `json:"cpus"`
	Memory  int64   `json:"memory"`  // bytes
	PIDs    int64   `json:"pids"`    // tasks
	Shm     int64   `json:"shm"`     // bytes of /dev/shm
	Scratch int64   `json:"scratch"` // bytes the container may write to its root and volumes
	Log     int64   `json:"log"`     // bytes of output kept

	// What few jobs name, see transforms.Resources.
	Swap        int64  `json:"swap,omitempty"`
	Reservation int64  `json:"reservation,omitempty"`
	CPUSet      string `json:"cpuset,omitempty"`
	MemorySet   string `json:"memory_set,omitempty"`
	CPUShares   int64  `json:"cpu_shares,omitempty"`
	// GPUs are the devices that the attempt has, by their CDI names, such as
	// "nvidia.com/gpu=0". Whoever starts the front anew reads here which are held.
	GPUs []string `json:"gpus,omitempty"`
}

// Limits end an attempt; zero is no limit.
type Limits struct {
	Hard time.Duration `json:"hard,omitempty"`
	Soft time.Duration `json:"soft,omitempty"`
	Idle time.Duration `json:"idle,omitempty"`
	// Outage is how long Girder may be out of reach, for each thing that is
	// fetched or uploaded; 0 is the runner's default.
	Outage time.Duration `json:"outage,omitempty"`
	// Turn is how long of it a runner waits that has only uploads left, before it
	// makes room for another's; 0 is the runner's default.
	Turn time.Duration `json:"turn,omitempty"`
}

// Grant is what only the monitor decides.
type Grant struct {
	// UIDMappings and GIDMappings are the container's user namespace.
	UIDMappings []sandbox.IDMapping `json:"uid_mappings"`
	GIDMappings []sandbox.IDMapping `json:"gid_mappings"`
	// Roots are where the job's files may lie, and Closed where none may, whatever
	// Roots has: what a path leads to is held against both when it is opened.
	Roots  []Root   `json:"roots,omitempty"`
	Closed []string `json:"closed,omitempty"`
	// Transfers are where the job's downloads, uploads and streams may lead, see
	// policy.Rights.Transfers; nil is the grant of an older monitor.
	Transfers []string `json:"transfers"`
	// Withheld are capabilities that the container does not get, see
	// policy.Rights.SwitchUser.
	Withheld []string `json:"withheld,omitempty"`
	// KeeperID is the user and group of the process that changes the machine's API
	// key into tokens: nobody else's, so that nobody gets at the key.
	KeeperID int `json:"keeper_id,omitempty"`
	// WorkDir is <state>/work/<job>-<attempt>, existing and empty.
	WorkDir string `json:"work_dir"`
	// Ahead is the work directory of the container that waited for this attempt, if
	// one did: <state>/work/_ahead-<n>, removed before WorkDir.
	Ahead string `json:"ahead,omitempty"`
	// ImageDir is the image store.
	ImageDir string `json:"image_dir"`
	// CacheDir holds compiled seccomp filters; root only.
	CacheDir string `json:"cache_dir"`
	// Cgroup is where the runner makes the container's cgroup, relative to each hierarchy's root.
	Cgroup string `json:"cgroup"`
	// BootID is the kernel's at the start.
	BootID string `json:"boot_id"`
	// GroupID is the front's group: the group of the files it must read.
	GroupID int `json:"group_id"`
	// Network says where a private network leads; nil is everywhere that a
	// container may reach when nobody says otherwise.
	Network *sandbox.Network `json:"network,omitempty"`
	// GPUs say where the machine's devices are described.
	GPUs *GPUs `json:"gpus,omitempty"`
	// ResultInExit: whoever reads exit.json knows of its Result.
	ResultInExit bool `json:"result_in_exit,omitempty"`
}

// GPUs are the machine's configuration of its devices.
type GPUs struct {
	Dirs  []string `json:"dirs"`  // of CDI files
	Kinds []string `json:"kinds"` // that are GPUs
	Hooks []string `json:"hooks"` // programs that may prepare a container
}

// Cancel is the content of the file cancel.
type Cancel struct {
	// Outcome is OutcomeCanceled, or OutcomeInterrupted when the machine goes down.
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"`
	// Grace is how long the container has after its stop signal; 0 is the
	// plan's. Negative: it is killed at once.
	Grace time.Duration `json:"grace,omitempty"`
}

// Outcome is how an attempt ended, in one word.
type Outcome string

// The outcomes.
const (
	OutcomeExited      Outcome = "exited"      // the container's own end, whatever its code
	OutcomeCanceled    Outcome = "canceled"    // asked for
	OutcomeTimeout     Outcome = "timeout"     // a limit of time
	OutcomeOOM         Outcome = "oom"         // the memory limit
	OutcomeError       Outcome = "error"       // ours or the job's document: never started, or a stream failed
	OutcomeInterrupted Outcome = "interrupted" // reboot or lost runner; does not count as an attempt
)

// Exit codes that are not the container's own, as the command line ends with
// them.
const (
	CodeError         = 125
	CodeNotExecutable = 126
	CodeNotFound      = 127
	CodeTimeout       = 124
	CodeCanceled      = 130
	CodeOOM           = 137
)

// Exit is exit.json.
type Exit struct {
	Version int     `json:"version"`
	Job     string  `json:"job"`
	Attempt int     `json:"attempt"`
	Outcome Outcome `json:"outcome"`
	// Code is the container's exit code, or one of the codes above.
	Code int `json:"code"`
	// Error says for a person what went wrong; empty when nothing did.
	Error string `json:"error,omitempty"`
	// Lost: with [OutcomeInterrupted], a process died that the attempt cannot do
	// without. It counts as the death of its runner does.
	Lost bool `json:"lost,omitempty"`
	// Container is the container's own end; nil when none was started.
	Container *sandbox.Exit  `json:"container,omitempty"`
	Streams   []StreamResult `json:"streams,omitempty"`
	// LogBytes is the output kept in log, LogDropped the output beyond its cap.
	LogBytes   int64     `json:"log_bytes"`
	LogDropped int64     `json:"log_dropped,omitempty"`
	Finished   time.Time `json:"finished"`
	// Result is what would be in result.json: at most [MaxExitResult] bytes, as foreign
	// as there. Nil: look there.
	Result []byte `json:"result,omitempty"`
}

// StreamResult is what went through one stream.
type StreamResult struct {
	Name   string                `json:"name"`
	Kind   transforms.StreamKind `json:"kind"`
	Bytes  int64                 `json:"bytes"`
	SHA256 string                `json:"sha256"` // hex, over those bytes
	// Partial is set when the other side closed before everything was through.
	Partial bool `json:"partial,omitempty"`
	// Error is for a person.
	Error string `json:"error,omitempty"`
}

// Event is one record of events: JSON in a checksummed frame. Exactly one of
// its pointers is set; a reader skips an event that sets none it knows.
type Event struct {
	Time     time.Time `json:"time"`
	Stage    string    `json:"stage,omitempty"` // "preparing", "running", "finishing"
	Started  *Started  `json:"started,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	// Doing says for a person what goes on within the stage ("fetching ct.nii
	// 34 %"), until the next event of a stage.
	Doing string `json:"doing,omitempty"`
	// Exited says that exit.json is on the disk, that the container and its
	// limits are gone, and that work is left to be done before Done.
	Exited *Exited `json:"exited,omitempty"`
	// Note is for a person: something worth knowing that fails nothing.
	Note string `json:"note,omitempty"`
	// Done is the last event of an attempt: side effects after the exit are over.
	Done *Done `json:"done,omitempty"`
}

// Started says that the container runs.
type Started struct {
	PID int `json:"pid"`
}

// Progress is the latest of a burst of progress lines.
type Progress struct {
	Total   float64 `json:"total"`
	Current float64 `json:"current"`
	Message string  `json:"message,omitempty"`
}

// Exited ends what an attempt occupies.
type Exited struct{}

// Done ends an attempt.
type Done struct {
	// Error is the first side effect that failed for good; empty when none did.
	Error string `json:"error,omitempty"`
}

// LogStream says which descriptor a log record came from.
type LogStream byte

// The log streams. LogMarker records are the runner's own: text for a person,
// for example how much was dropped.
const (
	LogStdout LogStream = 1
	LogStderr LogStream = 2
	LogMarker LogStream = 3
)

// LogRecord is one record of log.
type LogRecord struct {
	Stream LogStream
	Time   time.Time
	Data   []byte
}
