package transforms

import (
	"encoding/json"
	"math"
	"time"

	"girderworker/sandbox"
)

// The limits on a job document. A document that is larger in any of them is
// refused with the limit named.
const (
	MaxDocument   = 1 << 20 // bytes of one document
	MaxBatch      = 1000    // documents in one request
	MaxArgument   = 1<<17 - 1
	MaxArguments  = 4096
	MaxEnv        = 4096
	MaxBinds      = 128
	MaxStreams    = 64 // inputs, outputs and standard streams together
	MaxVolumes    = 64
	MaxGirders    = 64
	MaxDownloads  = 1024
	MaxUploads    = 1024
	MaxReference  = 1 << 14 // bytes of an upload's reference
	MaxAfter      = 256
	MaxPath       = 4095
	MaxName       = 256
	MaxIdentifier = 64 // bytes of a job's id and of a stream's name
	MaxPriority   = 9
	MaxRetries    = 100
	MaxCPUs       = 8192
	MaxPIDs       = 1 << 22
	MaxGPUs       = 1024
	MaxSize       = 1 << 50 // bytes, of any resource
	MaxDuration   = 10 * 365 * 24 * time.Hour
	MaxGrace      = time.Hour

	minMemory = 4 << 20
	minCPUs   = 0.01
	maxShares = 262144 // the kernel's
)

// TaskDockerRun is the task that a document without one asks for.
const TaskDockerRun = "girder_worker.docker.tasks.docker_run"

// A JobFile is the job document: what `submit --file` sends, the body of
// POST /v1/jobs and what the queue keeps. The zero value of a field means that
// the document does not name it.
type JobFile struct {
	// ID makes the submission idempotent; empty lets the daemon choose.
	ID   string
	Name string // for people, any text of one line
	Task string // TaskDockerRun when not named
	// Call has the arguments of another task; of docker_run it is empty.
	Call Call

	Image string
	// Pull tells when the image is pulled from its registry before an attempt.
	Pull       Pull
	Entrypoint []string // nil: the image's own
	Args       []string // nil: the image's own
	Env        map[string]string
	WorkDir    string
	User       string
	Hostname   string
	Network    sandbox.NetworkMode
	ExtraHosts []sandbox.HostEntry // by name
	DNS        []string            // IP addresses, instead of the network's own
	ReadOnly   bool                // the root file system

	Binds   []Bind
	Volumes []Volume

	// Inputs and Outputs are named pipes. Of the standard streams, only one that
	// is connected to something has an end.
	Inputs                []Pipe
	Outputs               []Pipe
	Stdin, Stdout, Stderr Pipe
	// Progress is a pipe named "progress" for lines of progress, at ProgressPath
	// or, when that is empty, in [PipeDirectory].
	Progress       bool
	ProgressPath   string
	SlicerProgress bool // slicer_cli_web's progress on the standard output

	// Girders are the servers of the job; the first one is meant where none is
	// named. In Downloads and Uploads an empty Girder is that one, and an empty
	// Into or From the default volume; an upload may have no Name.
	Girders   []GirderAccess
	Downloads []Fetch
	Uploads   []Hook

	Resources Resources
	Priority  int // 0 to 9, 9 first

	// After must have succeeded, AfterAny must have ended, before this starts.
	After     []string
	AfterAny  []string
	NotBefore time.Time
	Expires   time.Time

	Timeout     time.Duration // wall time until the job is killed
	SoftTimeout time.Duration // wall time until the stop signal
	IdleTimeout time.Duration // time without output

	Retries Retries
	// Hold has the job wait for a release, with the reason.
	Hold string

	// Python is set where the task is a function, and Function, which no canonical
	// form has, what it is called with: a [PythonCall]. See [Secrets].
	Python   *Python
	Function json.RawMessage

	// Command is a program of the host with its first arguments, which Args follow. As
	// with Python, the front has it from an admin's task file, and no one who submits
	// can write it.
	Command []string

	StopSignal int // 0: the image's
	StopGrace  time.Duration

	Options
}

// Pull is what docker_run calls pull_image.
type Pull string

// The values of Pull. The zero value is PullNever: what an admin imported is
// what runs.
const (
	// PullAlways is docker_run's True: what the registry has, and where it cannot be
	// had the image that is here.
	PullAlways Pull = "always"
	// PullMissing is 'if-not-present'.
	PullMissing Pull = "missing"
	// PullNever is False.
	PullNever Pull = "never"
)

// Resources are what a job takes, in bytes where nothing else is said. Zero is
// "not named".
type Resources struct {
	CPUs   float64
	Memory int64
	// GPUs is a number of devices, or AllGPUs in a document that was not accepted
	// yet. Devices are those that it has to be, as text such as "0,GPU-5b1c…":
	// names of CDI, with or without their kind. GPUs is their number then.
	GPUs    int
	Devices string
	PIDs    int64
	Shm     int64
	Scratch int64
	Log     int64
	// Swap is on top of Memory. Nobody gets any by default.
	Swap int64
	// Reservation is the memory that the job keeps when the machine runs short.
	Reservation int64
	// CPUSet are the processors that the job may run on, as in "0-3,8", and
	// MemorySet the nodes of a NUMA machine.
	CPUSet, MemorySet string
	// CPUShares weighs the job against others where processors are short; 1024
	// is what a job has that says nothing.
	CPUShares int64
}

// Or fills what r does not name from defaults.
func (r Resources) Or(defaults Resources) Resources {
	if r.CPUs == 0 {
		r.CPUs = defaults.CPUs
	}
	if r.GPUs == 0 {
		r.GPUs, r.Devices = defaults.GPUs, defaults.Devices
	}
	for _, f := range []struct {
		own  *int64
		from int64
	}{
		{&r.Memory, defaults.Memory},
		{&r.PIDs, defaults.PIDs},
		{&r.Shm, defaults.Shm},
		{&r.Scratch, defaults.Scratch},
		{&r.Log, defaults.Log},
	} {
		if *f.own == 0 {
			*f.own = f.from
		}
	}
	return r
}

// Defaults complete a document that does not name what every job must have.
type Defaults struct {
	Resources  Resources
	Timeout    time.Duration // wall time
	RetryDelay time.Duration // before the first retry
	// Girder is the server, as a URL, that the machine's own API key is for.
	Girder string
}

// Complete fills what f does not name. What is filled in never contradicts what
// was named: a completed document is as good as it was.
func (f *JobFile) Complete(d Defaults) {
	shm := f.Resources.Shm
	f.Resources = f.Resources.Or(d.Resources)
	if shm == 0 && f.Resources.Memory > 0 {
		f.Resources.Shm = min(f.Resources.Shm, f.Resources.Memory)
	}
	if f.Resources.Memory < f.Resources.Shm {
		f.Resources.Memory = f.Resources.Shm // the default is too small for what was named
	}
	if f.Timeout == 0 {
		if f.Timeout = d.Timeout; f.Timeout > 0 && f.Timeout <= f.SoftTimeout {
			f.Timeout = f.SoftTimeout + max(f.StopGrace, 10*time.Second)
		}
	}
	if f.Retries.Max > 0 && f.Retries.Delay == 0 {
		f.Retries.Delay = d.RetryDelay
	}
	if d.Girder != "" && len(f.Girders) == 0 && f.NeedsGirder() {
		f.Girders = []GirderAccess{{Name: firstGirder, MachineKey: true}}
	}
	for i := range f.Girders {
		if g := &f.Girders[i]; g.MachineKey && g.URL == "" {
			g.URL = d.Girder
		}
	}
}

// Retries say what happens after a failed attempt.
type Retries struct {
	Max             int
	Delay           time.Duration
	FailInterrupted bool // an attempt lost to a reboot fails the job
}

// canonicalGrowth is how much longer the canonical form of a document may be
// than the document: sizes and durations are spelled out, variables given as a
// list become an object, the daemon adds its defaults.
const canonicalGrowth = 32 << 10

// ParseJobFile decodes and checks one document, as it was sent or in its
// canonical form. The error is a *DocumentError.
func ParseJobFile(data []byte) (*JobFile, error) {
	if len(data) > MaxDocument+canonicalGrowth {
		return nil, tooLarge(len(data))
	}
	r := &reader{data: data}
	f, err := r.jobFile()
	if err == nil {
		err = r.end()
	}
	if err != nil {
		return nil, asDocumentError(err)
	}
	return f, nil
}

// ParseJobFiles decodes either one document or {"jobs": [document, …]} and
// tells which it was. Fields of the error start with jobs[i] for a batch.
func ParseJobFiles(data []byte) (files []*JobFile, batch bool, err error) {
	r := &reader{data: data}
	if !r.startsBatch() {
		if len(data) > MaxDocument {
			return nil, false, tooLarge(len(data))
		}
		f, err := ParseJobFile(data)
		if err != nil {
			return nil, false, err
		}
		return []*JobFile{f}, false, nil
	}
	err = r.object(func(key string) error {
		if key != "jobs" {
			return problem("unknown field beside jobs")
		}
		return r.array(MaxBatch, func() error {
			r.space()
			start := r.pos
			f, err := r.jobFile()
			if err != nil {
				return err
			}
			if size := r.pos - start; size > MaxDocument {
				return tooLarge(size)
			}
			files = append(files, f)
			return nil
		})
	})
	if err == nil {
		err = r.end()
	}
	if err == nil && len(files) == 0 {
		err = inField("jobs", problem("no job in the list"))
	}
	if err != nil {
		return nil, true, asDocumentError(err)
	}
	return files, true, nil
}

// startsBatch looks at the first key, which is not one of a document.
func (r *reader) startsBatch() bool {
	ahead := reader{data: r.data}
	if ahead.kind() != '{' {
		return false
	}
	ahead.pos++
	if ahead.kind() != '"' {
		return false
	}
	key, err := ahead.text()
	return err == nil && key == "jobs"
}

func tooLarge(size int) error {
	e := problem("a document of %d bytes; the limit is %d", size, MaxDocument)
	e.TooLarge = true
	return e
}

func asDocumentError(err error) error {
	if _, ok := err.(*DocumentError); ok {
		return err
	}
	return problem("%s", err.Error())
}

// jobFile reads one document and checks what lies across its fields.
func (r *reader) jobFile() (*JobFile, error) {
	f := new(JobFile)
	if err := r.object(func(key string) error { return r.jobField(f, key) }); err != nil {
		return nil, err
	}
	if f.Task == "" {
		f.Task = TaskDockerRun
	}
	if err := f.readCall(); err != nil {
		return nil, err
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

func (r *reader) jobField(f *JobFile, key string) (err error) {
	switch key {
	case "id":
		f.ID, err = r.identifier()
	case "name":
		f.Name, err = r.line(MaxName)
	case "task":
		f.Task, err = r.token(MaxName)
	case "image":
		f.Image, err = r.token(512)
	case "pull":
		f.Pull, err = r.pull()
	case "entrypoint":
		if r.kind() == '"' {
			f.Entrypoint = make([]string, 1)
			f.Entrypoint[0], err = r.argument()
		} else {
			f.Entrypoint, err = r.arguments()
		}
	case "args":
		err = r.callArguments(f)
	case "kwargs":
		err = r.callKeywords(f)
	case "env":
		f.Env, err = r.env()
	case "workdir":
		f.WorkDir, err = r.containerPath()
	case "user":
		f.User, err = r.user()
	case "hostname":
		f.Hostname, err = r.hostname()
	case "network":
		f.Network, err = r.network()
	case "extra_hosts":
		f.ExtraHosts, err = r.extraHosts()
	case "dns":
		f.DNS, err = r.listOf(sandbox.MaxResolvers, func(s string) (string, error) { return s, checkAddress(s) })
	case "read_only":
		f.ReadOnly, err = r.boolean()
	case "binds":
		err = r.array(MaxBinds, func() error {
			b, err := r.bind()
			f.Binds = append(f.Binds, b)
			return err
		})
	case "volumes":
		err = r.array(MaxVolumes, func() error {
			v, err := r.volume()
			f.Volumes = append(f.Volumes, v)
			return err
		})
	case "inputs":
		f.Inputs, err = r.pipes(reads)
	case "outputs":
		f.Outputs, err = r.pipes(writes)
	case "stdin":
		f.Stdin, err = r.standard(reads)
	case "stdout":
		f.Stdout, err = r.standard(writes)
	case "stderr":
		f.Stderr, err = r.standard(writes)
	case "progress":
		if r.kind() == '"' {
			f.Progress = true
			f.ProgressPath, err = r.containerPath()
		} else {
			f.Progress, err = r.boolean()
		}
	case "slicer_progress":
		f.SlicerProgress, err = r.boolean()
	case "girder":
		f.Girders, err = r.girders()
	case "downloads":
		err = r.array(MaxDownloads, func() error {
			d, err := r.download()
			f.Downloads = append(f.Downloads, d)
			return err
		})
	case "uploads":
		err = r.array(MaxUploads, func() error {
			u, err := r.upload()
			f.Uploads = append(f.Uploads, u)
			return err
		})
	case "resources":
		err = r.object(func(key string) error { return r.resourceField(&f.Resources, key) })
	case "priority":
		f.Priority, err = r.whole(0, MaxPriority)
	case "after":
		f.After, err = r.identifiers()
	case "after_any":
		f.AfterAny, err = r.identifiers()
	case "not_before":
		f.NotBefore, err = r.instant()
	case "expires":
		f.Expires, err = r.instant()
	case "timeout":
		f.Timeout, err = r.duration(MaxDuration)
	case "soft_timeout":
		f.SoftTimeout, err = r.duration(MaxDuration - MaxGrace)
	case "idle_timeout":
		f.IdleTimeout, err = r.duration(MaxDuration)
	case "retries":
		err = r.object(func(key string) error { return r.retryField(&f.Retries, key) })
	case "python":
		f.Python, err = r.python()
	case "command":
		f.Command, err = r.arguments()
	case "hold":
		f.Hold, err = r.line(MaxName)
	case "stop_signal":
		f.StopSignal, err = r.signal()
	case "stop_grace":
		f.StopGrace, err = r.duration(MaxGrace)
	default:
		known := false
		if known, err = r.optionField(&f.Options, key); !known {
			err = problem("unknown field")
		}
	}
	return err
}

func (r *reader) resourceField(res *Resources, key string) (err error) {
	switch key {
	case "cpus":
		res.CPUs, err = r.float()
		if err == nil && (res.CPUs < minCPUs || res.CPUs > MaxCPUs || math.IsNaN(res.CPUs)) {
			err = problem("%v is not between %v and %d", res.CPUs, minCPUs, MaxCPUs)
		}
	case "memory":
		res.Memory, err = r.size(minMemory)
	case "gpus":
		res.GPUs, err = r.whole(AllGPUs, MaxGPUs)
	case "gpu_devices":
		if res.Devices, err = r.line(maxDeviceNames); err == nil {
			err = checkGPUDevices(res.Devices)
		}
	case "pids":
		var n int
		n, err = r.whole(1, MaxPIDs)
		res.PIDs = int64(n)
	case "shm":
		res.Shm, err = r.size(1 << 12)
	case "scratch":
		res.Scratch, err = r.size(1 << 20)
	case "log":
		res.Log, err = r.size(1 << 12)
	case "swap":
		res.Swap, err = r.size(0)
	case "memory_reservation":
		res.Reservation, err = r.size(0)
	case "cpuset":
		res.CPUSet, err = r.cpuList()
	case "cpuset_mems":
		res.MemorySet, err = r.cpuList()
	case "cpu_shares":
		var n int
		n, err = r.whole(2, maxShares)
		res.CPUShares = int64(n)
	default:
		err = problem("unknown field")
	}
	return err
}

func (r *reader) retryField(retries *Retries, key string) (err error) {
	switch key {
	case "max":
		retries.Max, err = r.whole(0, MaxRetries)
	case "delay":
		retries.Delay, err = r.duration(30 * 24 * time.Hour)
	case "fail_interrupted":
		retries.FailInterrupted, err = r.boolean()
	default:
		err = problem("unknown field")
	}
	return err
}
