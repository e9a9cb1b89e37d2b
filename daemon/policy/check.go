package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// Job is what is held against the rights of who submitted it.
type Job struct {
	Plan      *transforms.Plan
	Resources attempt.Resources
	Limits    attempt.Limits
	// ImageID is the digest that Plan.Image came to.
	ImageID string
	// SignedBy are the names of those keys of the policy that have signed the
	// image. They are asked for only where [Rights.WantSignatures].
	SignedBy []string
	// Closed are paths that no policy opens, see [SystemPaths].
	Closed []string
}

// Refusal is one wish that is not granted.
type Refusal struct {
	// Field is the wish as a job's document names it.
	Field  string
	Reason string
	// Key is the policy's key that would have to say otherwise; empty: none can.
	Key string
}

// Denied is everything of a job that is refused.
type Denied struct {
	Refusals []Refusal
	Sections []string // that applied
}

// Error says what is refused, why, and what to do about it.
func (d *Denied) Error() string {
	parts := make([]string, len(d.Refusals))
	for i, r := range d.Refusals {
		parts[i] = r.Field + ": " + r.Reason
		if r.Key != "" {
			parts[i] += fmt.Sprintf("; the machine's admin can allow it with %s in a section of policy.toml for you (yours: %s)",
				r.Key, strings.Join(d.Sections, " "))
		}
	}
	return strings.Join(parts, "; ")
}

// Check returns nil, or a [*Denied] with everything that is not granted.
func (r *Rights) Check(j *Job) error {
	c := &checker{rights: r, job: j}
	c.fields(reflect.ValueOf(j.Plan).Elem(), "Plan")
	c.fields(reflect.ValueOf(j.Plan.Options), "Options")
	c.fields(reflect.ValueOf(j.Resources), "Resources")
	c.fields(reflect.ValueOf(j.Limits), "Limits")
	if !j.Plan.OnHost() {
		c.image()
	}
	if c.rights.time != nil && c.job.Limits.Hard == 0 {
		c.refuse("timeout", "time", "without one is more than %v", *c.rights.time)
	}
	if len(c.refusals) == 0 {
		return nil
	}
	return &Denied{c.refusals, r.Sections}
}

type checker struct {
	rights   *Rights
	job      *Job
	refusals []Refusal
}

func (c *checker) refuse(field, key, format string, args ...any) {
	c.refusals = append(c.refusals, Refusal{field, fmt.Sprintf(format, args...), key})
}

// fields holds every field of a struct that is set against its rule.
func (c *checker) fields(v reflect.Value, of string) {
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			continue
		}
		name := of + "." + v.Type().Field(i).Name
		rule, known := rules[name]
		switch {
		case !known:
			c.refuse(strings.ToLower(v.Type().Field(i).Name), "", "the policy of this release has no rule for it")
		case rule != nil:
			rule(c)
		}
	}
}

// rules has every field of a plan, its resources and its limits. nil passes:
// the comment says why. The fields of structs within a plan are in here too, so
// that a test can tell that somebody thought of each; they are judged by the
// rule of the field that holds them.
var rules = map[string]func(*checker){
	// What runs in the container is the submitter's own business.
	"Plan.Image":      nil, // see image
	"Plan.Entrypoint": nil, "Plan.Args": nil, "Plan.Env": nil, "Plan.Cwd": nil, "Plan.Hostname": nil,
	// Whoever it is in the container, outside it is the submitter or nobody.
	"Plan.User":           nil,
	"Plan.ReadOnlyRootfs": nil,
	"Plan.StopSignal":     nil, "Plan.StopGrace": nil,

	"Plan.Options": nil, // field by field, see options.go

	// Which interpreters there are, the admin has said elsewhere, see the monitor's judge.
	"Plan.Python":        (*checker).python,
	"Python.Interpreter": nil, "Python.Module": nil, "Python.Plugin": nil, "Python.Path": nil, "Python.AppMain": nil, "Python.TmpRoot": nil, "Python.Previous": nil,
	// Where it connects to is decided when the monitor makes its network.
	"Python.Girders": nil,

	// Which programs there are, the admin has said elsewhere, too.
	"Plan.Command": (*checker).command,

	"Plan.Network": (*checker).network,
	// A name in the container's own /etc/hosts leads nowhere that its address would not.
	"Plan.ExtraHosts": nil, "HostEntry.Name": nil, "HostEntry.Address": nil,
	"Plan.DNS": (*checker).dns,

	"Plan.Binds": (*checker).binds,
	"Bind.Name":  nil, "Bind.Source": nil, "Bind.Target": nil, "Bind.ReadOnly": nil,
	"Plan.Volumes": (*checker).volumes,
	"Volume.Name":  nil, "Volume.Target": nil, "Volume.ReadOnly": nil, "Volume.Mode": nil, "Volume.HostDir": nil,
	"Plan.Streams": (*checker).streams,
	"Stream.Name":  nil, "Stream.Kind": nil, "Stream.File": nil, "Stream.Girder": nil, "Stream.HTTP": nil, "Stream.Log": nil, "Stream.Path": nil,

	// A process with the submitter's identity talks to the servers, with the
	// submitter's tokens: it can do there what the submitter could without a job,
	// but where the machine's key is used. Where it can connect to is decided when it
	// does, by transfers.
	"Plan.Girders": (*checker).girders, "Girder.Name": nil, "Girder.URL": nil, "Girder.Session": nil, "Girder.MachineKey": nil, "Girder.Own": nil,
	"Plan.Fetches": nil, "Fetch.Name": nil, "Fetch.Kind": nil, "Fetch.Girder": nil, "Fetch.ID": nil, "Fetch.Into": nil, "Fetch.Rename": nil, "Fetch.Direct": nil,
	"Plan.Inserts": nil, "Insertion.Arg": nil, "Insertion.At": nil, "Insertion.Fetch": nil, "Insertion.List": nil, "Insertion.Token": nil,
	"GirderFile.Girder": nil, "GirderFile.ID": nil, "HTTPTarget.URL": nil, "HTTPTarget.Own": nil,
	"Plan.Hooks": nil, "Hook.Name": nil, "Hook.Kind": nil, "Hook.Girder": nil, "Hook.ID": nil, "Hook.From": nil, "Hook.Path": nil,
	"Hook.ArtifactName": nil, "Hook.Reference": nil, "Hook.MimeType": nil, "Hook.FileName": nil, "Hook.DeleteFile": nil,
	"Hook.MustExist": nil, "Hook.OnException": nil,
	"Plan.SlicerProgress": nil,

	"Resources.CPUs":    (*checker).cpus,
	"Resources.Memory":  func(c *checker) { c.size("memory", c.job.Resources.Memory, c.rights.memory) },
	"Resources.PIDs":    func(c *checker) { c.count("pids", c.job.Resources.PIDs, c.rights.pids) },
	"Resources.Shm":     func(c *checker) { c.size("shm", c.job.Resources.Shm, c.rights.shm) },
	"Resources.Scratch": func(c *checker) { c.size("scratch", c.job.Resources.Scratch, c.rights.scratch) },
	"Resources.Log":     func(c *checker) { c.size("log", c.job.Resources.Log, c.rights.log) },

	"Options.CapAdd": (*checker).capAdd,
	// Less than the default.
	"Options.CapDrop": nil,
	// Groups of the container: outside they are the submitter's own or nobody's.
	"Options.GroupAdd": nil,
	"Options.Init":     nil, "Options.Labels": nil, "Options.Domainname": nil,
	// Memory, which is limited as such.
	"Options.Tmpfs": nil, "Tmpfs.Target": nil, "Tmpfs.Size": nil, "Tmpfs.Mode": nil, "Tmpfs.Exec": nil,
	"Options.Ulimits": (*checker).ulimitRules, "Ulimit.Name": nil, "Ulimit.Soft": nil, "Ulimit.Hard": nil,
	"Options.Sysctls": (*checker).sysctlNames,
	"Options.Devices": (*checker).devices, "Device.Source": nil, "Device.Target": nil, "Device.Access": nil,
	// Never below 1: the machine's own processes go after every job.
	"Options.OOMScoreAdj": nil,
	"Options.Seccomp":     (*checker).seccomp,

	"Resources.Swap": func(c *checker) { c.size("swap", c.job.Resources.Swap, c.rights.swap) },
	// No more than the memory, and weights among jobs, whose processors are limited.
	"Resources.Reservation": nil, "Resources.CPUSet": nil, "Resources.MemorySet": nil, "Resources.CPUShares": nil,
	"Resources.GPUs": (*checker).gpus,

	"Limits.Hard": (*checker).time,
	// They only end a job earlier.
	"Limits.Soft": nil, "Limits.Idle": nil,
	// How patient a job is with its server costs a slot that is its own.
	"Limits.Outage": nil, "Limits.Turn": nil,
}

// WantSignatures tells whether there are images that need one.
func (r *Rights) WantSignatures() bool {
	return slices.ContainsFunc(r.images, func(rule imageRule) bool { return len(rule.keys) > 0 })
}

func (c *checker) image() {
	r, p := c.rights, c.job.Plan
	named := false
	var keys []string
	for _, rule := range r.images {
		if !matchImage(rule.patterns, p.Image, c.job.ImageID) {
			continue
		}
		named = true
		keys = append(keys, rule.keys...)
		if len(rule.keys) == 0 || slices.ContainsFunc(rule.keys, func(k string) bool { return slices.Contains(c.job.SignedBy, k) }) {
			return
		}
	}
	if named {
		c.refuse("image", "signed_by", "%s has no signature of a key that is trusted here (%s); `girder-worker images verify` holds it against keys that came later", p.Image, strings.Join(keys, ", "))
		return
	}
	c.refuse("image", "images", "%s is not among the images that may be run", p.Image)
}

// matchImage holds the patterns against a name as it was given, without its
// tag or digest, and against the image's id.
func matchImage(patterns []string, name, id string) bool {
	names := []string{name, id}
	bare, digest, _ := strings.Cut(name, "@")
	if digest != "" {
		names = append(names, bare, digest)
	}
	if i := strings.LastIndexByte(bare, ':'); i > strings.LastIndexByte(bare, '/') {
		names = append(names, bare[:i])
	}
	return slices.ContainsFunc(names, func(n string) bool { return matchAny(patterns, n) })
}

func (c *checker) network() {
	mode := string(c.job.Plan.Network)
	if mode == string(sandbox.NetworkNone) || slices.Contains(c.rights.networks, mode) {
		return
	}
	c.refuse("network", "networks", "%s is not allowed", mode)
}

// dns refuses name servers of the job's own where names decide what it reaches.
func (c *checker) dns() {
	if c.job.Plan.Network == sandbox.NetworkPrivate && !slices.Contains(c.rights.hosts, "*") {
		c.refuse("dns", "hosts", "a job that may reach some hosts only cannot choose who resolves their names")
	}
}

func (c *checker) python() {
	if !c.rights.python {
		c.refuse("task", "python", "it is a function of a Python package, which sees this machine's files, and none may be called")
	}
}

func (c *checker) command() {
	if !c.rights.commands {
		c.refuse("task", "commands", "it runs a program of this machine, which sees its files, and none may be run")
	}
}

func (c *checker) gpus() {
	if n := len(c.job.Resources.GPUs); n > c.rights.gpus {
		c.refuse("resources.gpus", "gpus", "%d is more than %d", n, c.rights.gpus)
	}
	for _, name := range c.job.Resources.GPUs {
		if !c.rights.GrantsGPU(name) {
			c.refuse("resources.gpus", "gpu_kinds", "%s is not allowed", name)
		}
	}
}

func (c *checker) binds() {
	for _, b := range c.job.Plan.Binds {
		c.path("binds", b.Source, !b.ReadOnly)
	}
}

func (c *checker) girders() {
	for _, g := range c.job.Plan.Girders {
		if g.MachineKey && !c.rights.girderKey {
			c.refuse("girder.machine_key", "girder_key", "the machine's API key is not for this job")
		}
	}
}

func (c *checker) volumes() {
	for _, v := range c.job.Plan.Volumes {
		if v.HostDir != "" {
			c.path("volumes", v.HostDir, true)
		}
	}
}

func (c *checker) streams() {
	for _, s := range c.job.Plan.Streams {
		if s.File == "" {
			continue
		}
		field, write := "outputs", true
		switch s.Kind {
		case transforms.StreamInput:
			field, write = "inputs", false
		case transforms.StreamStdin:
			field, write = "stdin", false
		}
		c.path(field, s.File, write)
	}
}

func (c *checker) path(field, p string, write bool) {
	err := MayHave(c.rights.roots, c.job.Closed, p, write)
	if err == nil {
		return
	}
	key := ""
	if e, ok := err.(*pathError); ok && e.byRoots {
		key = "read or write"
		if write {
			key = "write"
		}
	}
	var roots []string
	for _, r := range c.rights.roots {
		if r.Write || !write {
			roots = append(roots, r.Path)
		}
	}
	switch {
	case key == "":
		c.refuse(field, key, "%s", err)
	case len(roots) == 0:
		c.refuse(field, key, "%s; there are none", err)
	default:
		c.refuse(field, key, "%s (%s)", err, strings.Join(roots, " "))
	}
}

func (c *checker) cpus() {
	if most := c.rights.cpus; most != nil && c.job.Resources.CPUs > *most {
		c.refuse("resources.cpus", "cpus", "%g are more than %g", c.job.Resources.CPUs, *most)
	}
}

func (c *checker) size(name string, want int64, most *int64) {
	if most != nil && want > *most {
		c.refuse("resources."+name, name, "%s are more than %s", transforms.FormatBytes(want), transforms.FormatBytes(*most))
	}
}

func (c *checker) count(name string, want int64, most *int64) {
	if most != nil && want > *most {
		c.refuse("resources."+name, name, "%s are more than %s", strconv.FormatInt(want, 10), strconv.FormatInt(*most, 10))
	}
}

func (c *checker) time() {
	if most := c.rights.time; most != nil && c.job.Limits.Hard > *most {
		c.refuse("timeout", "time", "%v is more than %v", c.job.Limits.Hard, *most)
	}
}

// Explain lists what the rights are, a line for each key as the file spells it.
func (r *Rights) Explain() []string {
	list := func(key string, values []string) string {
		quoted := make([]string, len(values))
		for i, v := range values {
			quoted[i] = strconv.Quote(v)
		}
		return key + " = [" + strings.Join(quoted, ", ") + "]"
	}
	var out []string
	for _, rule := range r.images {
		out = append(out, list("images", rule.patterns))
		if len(rule.keys) > 0 {
			out = append(out, "  "+list("signed_by", rule.keys))
		}
	}
	var read, write []string
	for _, root := range r.roots {
		if root.Write {
			write = append(write, root.Path)
		} else {
			read = append(read, root.Path)
		}
	}
	out = append(out, list("pull", r.pull), list("write", write), list("read", read), list("networks", r.networks),
		list("hosts", r.Hosts()), list("services", distinct(r.services)), list("transfers", r.Transfers()), list("capabilities", r.capabilities), list("devices", r.devices),
		fmt.Sprintf("gpus = %d", r.gpus), list("gpu_kinds", r.gpuKinds), list("sysctls", r.sysctls),
		fmt.Sprintf("seccomp_unconfined = %v", r.unconfined),
		fmt.Sprintf("switch_user = %v", r.switchUser),
		fmt.Sprintf("girder_key = %v", r.girderKey),
		fmt.Sprintf("python = %v", r.python),
		fmt.Sprintf("commands = %v", r.commands))
	if r.cpus != nil {
		out = append(out, fmt.Sprintf("cpus = %g", *r.cpus))
	}
	for _, limit := range []struct {
		key  string
		most *int64
	}{{"memory", r.memory}, {"shm", r.shm}, {"scratch", r.scratch}, {"log", r.log}, {"swap", r.swap}} {
		if limit.most != nil {
			out = append(out, fmt.Sprintf("%s = %q", limit.key, transforms.FormatBytes(*limit.most)))
		}
	}
	if r.pids != nil {
		out = append(out, fmt.Sprintf("pids = %d", *r.pids))
	}
	if r.time != nil {
		out = append(out, fmt.Sprintf("time = %q", r.time.Round(time.Second)))
	}
	var ulimits []string
	for name, n := range r.ulimits {
		ulimits = append(ulimits, fmt.Sprintf("%s=%d", name, n))
	}
	if slices.Sort(ulimits); len(ulimits) > 0 {
		out = append(out, list("ulimits", ulimits))
	}
	return out
}

// harmless are the fields of a plan that say what runs and where its data is,
// which an audit need not tell, or tells in words of its own.
var harmless = []string{
	"Image", "Entrypoint", "Args", "Env", "Cwd", "User", "Hostname", "Network", "ReadOnlyRootfs", "StopSignal", "StopGrace",
	"Binds", "Volumes", "Streams", "Girders", "Fetches", "Inserts", "Hooks", "SlicerProgress",
}

// Privileges are the other fields of a plan that are set: what a job asks beyond
// running a program with data.
func Privileges(p *transforms.Plan) map[string]any {
	var set map[string]any
	v := reflect.ValueOf(p).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if v.Field(i).IsZero() || slices.Contains(harmless, name) {
			continue
		}
		if set == nil {
			set = map[string]any{}
		}
		set[name] = v.Field(i).Interface()
	}
	return set
}
