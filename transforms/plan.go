package transforms

import (
	"time"

	"girderworker/sandbox"
)

// A Plan is what a job's document comes to: everything the runner of an attempt
// must do, in a form that is small, strict JSON. The front, which is not root,
// makes it; the monitor holds it against policy; the runner carries it out and
// decides nothing.
type Plan struct {
	// Image is the reference that was asked for; the digest it resolved to is
	// beside the plan, in the attempt's request.
	Image string `json:"image"`
	// Entrypoint replaces the image's when not nil (and with it the image's command).
	Entrypoint []string `json:"entrypoint"`
	// Args replaces the image's command when not nil.
	Args []string `json:"args"`
	// Env is KEY=VALUE on top of the image's.
	Env      []string `json:"env,omitempty"`
	Cwd      string   `json:"cwd,omitempty"`
	User     string   `json:"user,omitempty"` // "name", "uid", "name:group", "uid:gid"
	Hostname string   `json:"hostname,omitempty"`

	Network        sandbox.NetworkMode `json:"network,omitempty"`
	ReadOnlyRootfs bool                `json:"read_only_rootfs,omitempty"`
	// ExtraHosts are added to /etc/hosts; DNS replaces the network's own name
	// servers, by their IP addresses.
	ExtraHosts []sandbox.HostEntry `json:"extra_hosts,omitempty"`
	DNS        []string            `json:"dns,omitempty"`

	Binds   []Bind   `json:"binds,omitempty"`
	Volumes []Volume `json:"volumes,omitempty"`
	Streams []Stream `json:"streams,omitempty"`

	// Girders are the servers that Fetches, Streams and Hooks name.
	Girders []Girder    `json:"girders,omitempty"`
	Fetches []Fetch     `json:"fetches,omitempty"`
	Inserts []Insertion `json:"inserts,omitempty"`
	Hooks   []Hook      `json:"hooks,omitempty"`
	// SlicerProgress reads slicer_cli_web's progress XML on the standard output.
	SlicerProgress bool `json:"slicer_progress,omitempty"`

	// Python is a function to be called, Command a program of the host with its first
	// arguments, see [JobFile.Command]. There is no image then: the host's file
	// system is the container's root.
	Python  *Python  `json:"python,omitempty"`
	Command []string `json:"command,omitempty"`

	// Options are the rarer settings; its Labels are empty.
	Options Options `json:"options,omitzero"`

	StopSignal int           `json:"stop_signal,omitempty"` // 0: the image's, else SIGTERM
	StopGrace  time.Duration `json:"stop_grace,omitempty"`  // 0: 10 s
}

// Bind makes a file or directory of the submitter visible in the container.
// Source is opened by a process with the submitter's identity.
type Bind struct {
	// Name is only needed where a [Fetch] or [Hook] refers to the bind.
	Name     string `json:"name,omitempty"`
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// StreamKind says which way a stream runs and what it is connected to.
type StreamKind string

// The kinds of stream.
const (
	// StreamInput is a named pipe that the container reads.
	StreamInput StreamKind = "input"
	// StreamOutput is a named pipe that the container writes.
	StreamOutput StreamKind = "output"
	// StreamStdin is the container's standard input.
	StreamStdin StreamKind = "stdin"
	// StreamProgress is a named pipe for lines of progress, see [ProgressLine].
	StreamProgress StreamKind = "progress"
	// StreamStdout and StreamStderr are the container's standard output and
	// error, taken away from the job's log (ContainerStdOut, ContainerStdErr).
	StreamStdout StreamKind = "stdout"
	StreamStderr StreamKind = "stderr"
)

// Stream connects one end in the container with one on the host: exactly one of
// File, Girder, HTTP and Log is set, and none for StreamProgress.
type Stream struct {
	// Name is unique in the plan: one path element, at most 64 bytes of
	// letters, digits, '.', '_' and '-', the first a letter or digit.
	Name string     `json:"name"`
	Kind StreamKind `json:"kind"`
	// File is the submitter's host file.
	File string `json:"file,omitempty"`
	// Girder is a file that is read (StreamInput and StreamStdin).
	Girder *GirderFile `json:"girder,omitempty"`
	// HTTP takes an output.
	HTTP *HTTPTarget `json:"http,omitempty"`
	// Log sends an output into the job's log, as "stdout" or "stderr" (HostStdOut,
	// HostStdErr).
	Log string `json:"log,omitempty"`
	// Path is where the container finds the pipe: Name in [PipeDirectory] or, where
	// the job names a place of its own, anywhere else, also within a volume or
	// bind; empty for the standard streams.
	Path string `json:"path,omitempty"`
}

// PipeDirectory is where named pipes are inside every container. The directory
// is mounted read-only: the container can open the pipes, not replace them.
const PipeDirectory = "/mnt/girder_worker/pipes"

// ProgressLine is one line of a progress pipe: a JSON object. Lines that are
// not one are counted and skipped (girder_worker docker/io/girder.py).
type ProgressLine struct {
	Total   *float64 `json:"total,omitempty"`
	Current *float64 `json:"current,omitempty"`
	Message string   `json:"message,omitempty"`
}
