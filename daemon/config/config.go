// Package config is the daemon's configuration: its defaults, where it is read
// from, and what makes it valid.
//
// A value comes from the first of these that names it: a flag, a
// GIRDER_WORKER_* variable, worker.local.cfg, worker.cfg, the default. The files
// are INI, as the Python worker's, and may carry the Python worker's own
// options: those are known and answered with a warning, while a key that nobody
// knows is an error, because a misspelt limit is a limit that does not hold.
package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// DefaultFile is where the configuration of an installed daemon is. Beside it,
// worker.local.cfg overrides it and is never touched by an upgrade.
const DefaultFile = "/etc/girder-worker/worker.cfg"

// Config is everything that can be configured today. A zero number means that
// the machine decides, see [Config.Machine].
type Config struct {
	// StateDir holds what must survive a reboot; the queue, images and attempts are below it.
	StateDir string
	// RuntimeDir holds what must not: the socket, unless Socket names another place.
	RuntimeDir string
	// Socket is the API's; empty is girder-worker.sock in RuntimeDir.
	Socket string
	// MetricsAddress is host:port, or empty for none.
	MetricsAddress string
	// MetricsWebConfig is a file with TLS and users for it; empty: neither. The
	// front must be able to read it.
	MetricsWebConfig string

	// User runs the front. Group owns the socket: its members may submit.
	User, Group string
	// AdminGroup sees and changes everybody's jobs.
	AdminGroup string

	Launcher Launcher

	// PolicyFile says what jobs may ask. It need not be there.
	PolicyFile string

	// TasksDir has the task files. It need not be there.
	TasksDir string

	// AuditLog tells who had what run; empty is audit.jsonl in StateDir.
	AuditLog string

	// DropDir is watched for archives to import; empty is images/drop in StateDir.
	DropDir string

	// APIURL says where a Girder is reached from here, when messages name it by
	// another address: URL, or FROM=TO, several separated by commas.
	APIURL string

	// GirderURL is the server that the API key in GirderKeyFile is for, which root
	// alone may read; both or neither.
	GirderURL, GirderKeyFile string

	// Outage is how long an attempt waits for a Girder that it cannot reach.
	Outage time.Duration

	// MaxQueue is how many jobs may wait.
	MaxQueue int

	// RunOptions are keywords of docker-py, as a JSON object, that every task of
	// Celery's which runs a container gets unless it has them itself.
	RunOptions string

	Python    Python
	Celery    Celery
	Machine   Machine
	Hardware  Hardware
	IDs       IDRange
	GPUs      GPUs
	Limits    Limits
	Retention Retention
	Images    Images
	Log       Log
}

// Celery is where tasks of a message queue come from.
type Celery struct {
	// Broker is one or more URLs separated by ";", with passwords; empty: none.
	Broker                    string
	CA, Cert, Key, ServerName string // of amqps://
	Hostname                  string // NAME@HOST; empty: celery@ and the machine's name
	Queues                    string // separated by commas
	// ETALimit is how many jobs may wait for their time before no more tasks are taken.
	ETALimit int
}

// Python is where tasks are functions of Python packages.
type Python struct {
	// Interpreters are programs, or virtual environments, whose programs are
	// bin/python3; see [Config.Interpreters].
	Interpreters []string
	// Enabled are the plugins that count, by the names of their entry points; empty:
	// all. LoadPath are more directories with plugins.
	Enabled, LoadPath []string
	// AppMain is what tasks of a program are named after.
	AppMain string
	// Ready is how many interpreters wait in a container for another call by who has just
	// called a function, and ReadyTime for how long.
	Ready     int
	ReadyTime time.Duration
	// TmpRoot is where the temporary directory of a function is made; one that is
	// not absolute means the job's own scratch space.
	TmpRoot string
	// ImportTime is how long all imports of one look at an interpreter may take.
	ImportTime time.Duration
}

// Interpreters are the programs that Python.Interpreters name.
func (c *Config) Interpreters() []string {
	var all []string
	for _, p := range c.Python.Interpreters {
		if fi, err := os.Stat(p); err == nil && fi.IsDir() {
			p = filepath.Join(p, "bin", "python3")
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// Launcher chooses how the runner of an attempt is started.
type Launcher string

// The launchers. LauncherAuto is systemd where the daemon is one of its services.
const (
	LauncherAuto    Launcher = "auto"
	LauncherSession Launcher = "session"
	LauncherSystemd Launcher = "systemd"
)

// Machine is what jobs may use in all. It may be more than the machine has,
// for jobs that mostly wait; no single job can have more than that.
type Machine struct {
	Slots  int     // attempts at a time
	CPUs   float64 // processors
	Memory int64   // bytes
}

// GPUs are the machine's devices that jobs count.
type GPUs struct {
	// Dirs are where CDI files are, see package sandbox/gpu.
	Dirs []string
	// Kinds of CDI device, vendor/class, are GPUs.
	Kinds []string
	// Share is how many jobs may have one device at a time.
	Share int
	// Hooks are the programs, by their paths, that may prepare a container.
	Hooks []string
}

// Hardware is what the machine really has. It is found, not configured.
type Hardware struct {
	CPUs   float64
	Memory int64 // bytes
	// Disk is half of the file system with the state: what one job may write
	// there at most, since the queue and the jobs of others are there, too.
	Disk int64
	Swap int64 // bytes
}

// IDRange is host ids that belong to nobody else, for the insides of containers.
type IDRange struct {
	Base int
	Size int // a multiple of [SliceSize]
}

// SliceSize is how many ids of the range one attempt gets.
const SliceSize = 1 << 16

// Unprivileged is whom a job of root acts as on the host: the range's first id,
// which no container's slice contains.
func (r IDRange) Unprivileged() int { return r.Base }

// Slices is how many attempts the range serves at a time. The first slice is
// not one of them, see [IDRange.Unprivileged].
func (r IDRange) Slices() int { return r.Size/SliceSize - 1 }

// Contains tells whether id is in the range.
func (r IDRange) Contains(id int) bool { return id >= r.Base && id-r.Base < r.Size }

// Limits hold for a job that names none of its own.
type Limits struct {
	CPUs    float64
	Memory  int64 // bytes
	PIDs    int64
	Shm     int64 // bytes
	Log     int64 // bytes
	Scratch int64 // bytes
	Time    time.Duration
}

// Retention bounds the history of finished jobs; zero keeps all.
type Retention struct {
	Age   time.Duration
	Count int
	// Reports is how long after a job's end it is tried to report it.
	Reports time.Duration
}

// Images is how the image store grows and shrinks.
type Images struct {
	// Quota is how many bytes the files of all layers may have; 0 is any number.
	Quota int64
	// Registries may be pulled from, PlainHTTP without TLS; each is HOST or
	// HOST:PORT, and "*" alone is any.
	Registries, PlainHTTP []string
	// AuthFile and CAFile are read by the daemon's unprivileged user, and need not be there.
	AuthFile, CAFile string
	// PullTimeout is for a pull as a whole, ConnectTimeout for a registry's first word.
	PullTimeout, ConnectTimeout time.Duration
	// PruneEvery is how often what nobody needs is removed; 0 is never.
	PruneEvery time.Duration
}

// MayPull tells whether images may come from a registry.
func (i Images) MayPull(registry string) bool {
	return slices.Contains(i.Registries, registry) || slices.Contains(i.Registries, "*")
}

// Log is how the daemon tells of itself.
type Log struct {
	Level slog.Level
	// JSON writes one JSON object a line instead of text.
	JSON bool
}

// Default returns the configuration of a daemon that nobody configured.
func Default() Config {
	return Config{
		StateDir:       "/var/lib/girder-worker",
		RuntimeDir:     "/run/girder-worker",
		MetricsAddress: "127.0.0.1:9811",
		User:           "girder-worker",
		Group:          "girder-worker",
		AdminGroup:     "girder-worker-admin",
		PolicyFile:     "/etc/girder-worker/policy.toml",
		TasksDir:       "/etc/girder-worker/tasks.d",
		Outage:         6 * time.Hour,
		Launcher:       LauncherAuto,
		Celery:         Celery{Queues: "celery", ETALimit: 10_000},
		Python:         Python{AppMain: "girder_worker", TmpRoot: "tmp", ImportTime: 30 * time.Second, Ready: 2, ReadyTime: time.Minute},
		MaxQueue:       2_000_000,
		// Above systemd's ranges for services and containers, above what
		// useradd gives to people, below 2^31.
		IDs: IDRange{Base: 0x70000000, Size: 1024 * SliceSize},
		GPUs: GPUs{
			Dirs:  []string{"/etc/cdi", "/var/run/cdi"},
			Kinds: []string{"nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"},
			Share: 1,
			Hooks: []string{"/usr/bin/nvidia-cdi-hook", "/usr/bin/nvidia-ctk"},
		},
		Limits: Limits{
			PIDs: 4096,
			Shm:  64 << 20,
			Log:  64 << 20,
			Time: 7 * 24 * time.Hour,
		},
		Retention: Retention{Age: 90 * 24 * time.Hour, Count: 100_000, Reports: 7 * 24 * time.Hour},
		Images: Images{
			AuthFile:       "/etc/girder-worker/auth.json",
			CAFile:         "/etc/girder-worker/ca.pem",
			Registries:     []string{"*"},
			PullTimeout:    time.Hour,
			ConnectTimeout: 5 * time.Second,
		},
		Log: Log{Level: slog.LevelInfo},
	}
}

// SocketPath is where the API listens.
func (c *Config) SocketPath() string {
	if c.Socket != "" {
		return c.Socket
	}
	return filepath.Join(c.RuntimeDir, "girder-worker.sock")
}

// AuditPath is where the audit log is.
func (c *Config) AuditPath() string {
	if c.AuditLog != "" {
		return c.AuditLog
	}
	return filepath.Join(c.StateDir, "audit.jsonl")
}

// DropPath is the directory watched for images.
func (c *Config) DropPath() string {
	if c.DropDir != "" {
		return c.DropDir
	}
	return filepath.Join(c.StateDir, "images", "drop")
}
