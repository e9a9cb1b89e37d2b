package transforms

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"girderworker/sandbox"
)

// What becomes of a keyword of docker-py's containers.run.
type fate string

const (
	// honoured: it has its effect, within policy.
	honoured fate = "honoured"
	// refused: the job is not accepted; the keyword's value is to blame.
	refused fate = "refused"
	// pointless: it changes nothing in how a job runs here, whatever its value.
	pointless fate = "pointless"
	// elsewhere: an argument of docker_run itself, read with the others.
	elsewhere fate = "elsewhere"
)

// dockerKeyword is a row of the table: what a keyword comes to, and why where it
// is not honoured. apply is for honoured and for refused ones; a refused keyword
// may still be given with the value that changes nothing.
type dockerKeyword struct {
	fate  fate
	why   string
	apply func(*dockerOptions, any) error
}

// dockerKeywords are the keywords of containers.run and containers.create in
// docker-py 3 to 7 (docker/models/containers.py), each with what it comes to.
func dockerKeywords() map[string]dockerKeyword {
	off := func(why string) dockerKeyword { return dockerKeyword{refused, why, refuseUnless([]string{nothing})} }
	offUnless := func(why string, harmless ...string) dockerKeyword {
		return dockerKeyword{refused, why, refuseUnless(append(harmless, nothing))}
	}
	return map[string]dockerKeyword{
		"image": {fate: elsewhere}, "entrypoint": {fate: elsewhere}, "volumes": {fate: elsewhere},
		"command": {refused, "docker_run names the command container_args", refuseUnless([]string{nothing})},

		"environment": {honoured, "", (*dockerOptions).environment},
		"working_dir": {honoured, "", takesText(func(f *JobFile, s string) error { f.WorkDir = s; return checkPath(s) })},
		"user":        {honoured, "", (*dockerOptions).user},
		"hostname":    {honoured, "", takesText(func(f *JobFile, s string) error { f.Hostname = s; return checkHostname(s) })},
		"domainname":  {honoured, "", takesText(func(f *JobFile, s string) error { f.Domainname = s; return checkHostname(s) })},
		"group_add":   {honoured, "", (*dockerOptions).groupAdd},
		"labels":      {honoured, "", (*dockerOptions).labels},
		"name":        {honoured, "", takesText(func(f *JobFile, s string) error { f.Name = s; return checkName(s) })},
		"stop_signal": {honoured, "", (*dockerOptions).stopSignal},
		"init":        {honoured, "", takesBool(func(f *JobFile, on bool) { f.Init = on })},
		"read_only":   {honoured, "", takesBool(func(f *JobFile, on bool) { f.ReadOnly = on })},
		"tmpfs":       {honoured, "", (*dockerOptions).tmpfs},
		"mounts":      {honoured, "", (*dockerOptions).mounts},
		"ulimits":     {honoured, "", (*dockerOptions).ulimits},
		"sysctls":     {honoured, "", (*dockerOptions).sysctls},
		"shm_size":    {honoured, "", takesSize(func(f *JobFile, n int64) { f.Resources.Shm = n })},

		"mem_limit":       {honoured, "", takesSize(func(f *JobFile, n int64) { f.Resources.Memory = n })},
		"mem_reservation": {honoured, "", takesSize(func(f *JobFile, n int64) { f.Resources.Reservation = n })},
		"memswap_limit":   {honoured, "", (*dockerOptions).memswap},
		"nano_cpus":       {honoured, "", (*dockerOptions).nanoCPUs},
		"cpu_quota":       {honoured, "", (*dockerOptions).cpuQuota},
		"cpu_period":      {honoured, "", (*dockerOptions).cpuPeriod},
		"cpu_shares":      {honoured, "", (*dockerOptions).cpuShares},
		"cpuset_cpus":     {honoured, "", takesText(func(f *JobFile, s string) error { f.Resources.CPUSet = s; return checkCPUList(s) })},
		"cpuset_mems":     {honoured, "", takesText(func(f *JobFile, s string) error { f.Resources.MemorySet = s; return checkCPUList(s) })},
		"pids_limit":      {honoured, "", (*dockerOptions).pids},
		"storage_opt":     {honoured, "", (*dockerOptions).storage},
		"oom_score_adj":   {honoured, "", (*dockerOptions).oomScore},

		"cap_add":      {honoured, "", (*dockerOptions).capAdd},
		"cap_drop":     {honoured, "", (*dockerOptions).capDrop},
		"security_opt": {honoured, "", (*dockerOptions).security},
		"devices":      {honoured, "", (*dockerOptions).devices},

		"network":          {honoured, "", (*dockerOptions).network},
		"network_mode":     {honoured, "", (*dockerOptions).network},
		"network_disabled": {honoured, "", (*dockerOptions).networkDisabled},
		"extra_hosts":      {honoured, "", (*dockerOptions).extraHosts},
		"dns":              {honoured, "", (*dockerOptions).dns},
		"device_requests":  {honoured, "", (*dockerOptions).deviceRequests},
		"runtime":          {honoured, "", (*dockerOptions).runtime},
		"platform":         {honoured, "", (*dockerOptions).platform},

		"ipc_mode":    offUnless("the container shares no System V IPC with the machine or another job", "private", "none", "shareable"),
		"pid_mode":    off("the container does not see the processes of others"),
		"uts_mode":    off("the container has a host name of its own"),
		"userns_mode": offUnless("the container's root is the submitter on this machine, never root", "private"),
		"cgroupns":    offUnless("the container sees its own control group only", "private"),
		"privileged":  off("no job is root on this machine; name what it needs with cap_add or devices"),

		"networking_config": off("there are no named networks here; network is bridge, none or host"),
		"dns_opt":           off("the resolver's options are the network's"),
		"dns_search":        off("names are looked up as they are; write them in full"),
		"mac_address":       off("the container's network has no link of its own"),
		"ports":             off("a job is no server: no port of this machine leads into it"),
		"publish_all_ports": off("a job is no server: no port of this machine leads into it"),
		"links":             off("jobs do not reach one another's containers"),
		"volumes_from":      off("jobs do not share containers; bind a directory into both"),
		"volume_driver":     offUnless("there are no volume drivers here; bind a directory", "local"),

		"cgroup_parent":       off("where a job's control group stands decides how it is ended; limits are keywords of their own"),
		"device_cgroup_rules": off("name the device with devices"),
		"blkio_weight":        off("the disks' scheduling is the machine's"),
		"blkio_weight_device": off("the disks' scheduling is the machine's"),
		"device_read_bps":     off("the disks' scheduling is the machine's"),
		"device_read_iops":    off("the disks' scheduling is the machine's"),
		"device_write_bps":    off("the disks' scheduling is the machine's"),
		"device_write_iops":   off("the disks' scheduling is the machine's"),
		"cpu_rt_period":       off("real-time scheduling could keep the machine from everyone else"),
		"cpu_rt_runtime":      off("real-time scheduling could keep the machine from everyone else"),
		"cpu_count":           off("it is Windows's; write nano_cpus"),
		"cpu_percent":         off("it is Windows's; write nano_cpus"),
		"isolation":           offUnless("it is Windows's", "default"),
		"kernel_memory":       off("the kernel counts its memory for the job in mem_limit"),
		"mem_swappiness":      off("swap is what memswap_limit gives, and none by default"),
		"oom_kill_disable":    off("a job that is out of memory must end, and not hang"),
		"lxc_conf":            off("containers are not made by LXC"),
		"init_path":           off("the first process of init=True is this program's own"),
		"restart_policy":      offUnless("a job that ended has ended; let Celery retry the task, or write retries into the job document", "no"),
		"healthcheck":         {refused, "nothing acts on a job's health; write time_limit or idle_timeout", (*dockerOptions).healthcheck},
		"log_config":          {refused, "the output is the job's log, wherever it runs", (*dockerOptions).logConfig},
		"use_config_proxy":    off("no docker client's configuration is read here; give the variables with environment"),

		// docker_run itself says what these are, whatever is passed.
		"detach": {pointless, "docker_run waits for the container", nil},
		"tty":    {pointless, "docker_run runs containers without a terminal", nil},
		"remove": {pointless, "the container is always removed; its log stays with the job", nil}, "auto_remove": {pointless, "the container is always removed; its log stays with the job", nil},
		"stdout": {pointless, "the log has both outputs", nil}, "stderr": {pointless, "the log has both outputs", nil},
		"stream":     {pointless, "the log is streamed in any case", nil},
		"stdin_open": {pointless, "nothing is connected to the input but what a transform connects", nil},
		"version":    {pointless, "there is no Docker API", nil},
	}
}

// DockerKeywords lists the keywords of docker-py's containers.run, each with
// what becomes of it here ("honoured", "refused", "pointless", "elsewhere" for an
// argument of docker_run) and the reason where it is not honoured: for a manual.
func DockerKeywords() [][3]string {
	var rows [][3]string
	table := dockerKeywords()
	for _, name := range slices.Sorted(maps.Keys(table)) {
		rows = append(rows, [3]string{name, string(table[name].fate), table[name].why})
	}
	return rows
}

// dockerOptions is a job while keywords are applied to it.
type dockerOptions struct {
	f       *JobFile
	keyword string // under way
	given   map[string]any

	quota, period int64
	nvidia        bool  // the runtime is
	swap          int64 // memory and swap together; 0 is not given
}

// applyDockerOptions applies keywords of docker-py's containers.run, as a message
// passes them through docker_run: nil, bool, string, int64, *big.Int, float64,
// []any and map[string]any, docker.types objects as the dicts they are. The error
// is a *DocumentError that names the keyword; an unknown keyword is refused.
//
// A job that says nothing of its network gets [sandbox.NetworkPrivate], which is
// what docker-py's default network means here.
func (f *JobFile) applyDockerOptions(options map[string]any) error {
	table := dockerKeywords()
	d := &dockerOptions{f: f, given: options}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		k, known := table[name]
		if !known || k.fate == elsewhere {
			// In the words of docker-py's create_unexpected_kwargs_error, which
			// scripts know.
			return inField(name, problem("run() got an unexpected keyword argument '%.60s'", name))
		}
		if k.apply == nil {
			continue
		}
		d.keyword = name
		if err := k.apply(d, options[name]); err != nil {
			if k.fate == refused {
				err = problem("%s (it was given %s)", k.why, shown(options[name]))
			}
			return inField(name, err)
		}
	}
	if err := d.finish(); err != nil {
		return err
	}
	return f.Options.check()
}

// finish does what needs more than one keyword.
func (d *dockerOptions) finish() error {
	f := d.f
	if d.given["network"] != nil && d.given["network_mode"] != nil {
		return inField("network_mode", problem(`the options "network" and "network_mode" can not be used together`))
	}
	if f.Network == "" {
		f.Network = sandbox.NetworkPrivate
	}
	if err := d.nvidiaRuntime(); err != nil {
		return err
	}
	if d.quota > 0 {
		if d.given["nano_cpus"] != nil && f.Resources.CPUs > 0 {
			return inField("nano_cpus", problem("given together with cpu_quota"))
		}
		period := d.period
		if period == 0 {
			period = 100_000
		}
		f.Resources.CPUs = float64(d.quota) / float64(period)
	}
	if f.Resources.CPUs != 0 && (f.Resources.CPUs < minCPUs || f.Resources.CPUs > MaxCPUs) {
		return inField(d.cpuKeyword(), problem("%v processors is not between %v and %d", f.Resources.CPUs, minCPUs, MaxCPUs))
	}
	if d.swap > 0 {
		switch memory := f.Resources.Memory; {
		case memory == 0:
			return inField("memswap_limit", problem("it needs mem_limit beside it"))
		case d.swap < memory:
			return inField("memswap_limit", problem("%s is less than mem_limit, which is %s; it is both together", FormatBytes(d.swap), FormatBytes(memory)))
		default:
			f.Resources.Swap = d.swap - memory
		}
	}
	return nil
}

// nvidiaRuntime gives a job of that runtime its GPUs, unless requests did.
func (d *dockerOptions) nvidiaRuntime() error {
	if !d.nvidia || d.f.Resources.GPUs != 0 || d.f.DeclinesGPU() {
		return nil
	}
	visible, named := d.f.Env["NVIDIA_VISIBLE_DEVICES"]
	if !named {
		d.f.Resources.GPUs = 1
		return nil
	}
	if err := d.gpus(strings.Split(visible, ",")); err != nil {
		return inField("environment", err)
	}
	return nil
}

func (d *dockerOptions) cpuKeyword() string {
	if d.quota > 0 {
		return "cpu_quota"
	}
	return "nano_cpus"
}

// nothing is what refuseUnless takes for every value that asks for nothing.
const nothing = ""

// refuseUnless takes what changes nothing: None, False, 0, nothing, an empty list
// or dict, and the harmless values named.
func refuseUnless(harmless []string) func(*dockerOptions, any) error {
	return func(_ *dockerOptions, v any) error {
		switch v := v.(type) {
		case nil:
			return nil
		case bool:
			if !v {
				return nil
			}
		case int64:
			if v == 0 {
				return nil
			}
		case float64:
			if v == 0 {
				return nil
			}
		case string:
			if slices.Contains(harmless, v) {
				return nil
			}
		case []any:
			if len(v) == 0 {
				return nil
			}
		case map[string]any:
			// A RestartPolicy says in Name what a string says elsewhere.
			if name, ok := v["Name"].(string); len(v) == 0 || ok && slices.Contains(harmless, name) {
				return nil
			}
		}
		return problem("refused")
	}
}

// takesText is a keyword that takes a str; None leaves things as they are.
func takesText(set func(*JobFile, string) error) func(*dockerOptions, any) error {
	return func(d *dockerOptions, v any) error {
		switch v := v.(type) {
		case nil:
			return nil
		case string:
			if v == "" {
				return nil
			}
			return set(d.f, v)
		}
		return wrongType(v, "a text")
	}
}

func takesBool(set func(*JobFile, bool)) func(*dockerOptions, any) error {
	return func(d *dockerOptions, v any) error {
		switch v := v.(type) {
		case nil:
			return nil
		case bool:
			set(d.f, v)
			return nil
		}
		return wrongType(v, "True or False")
	}
}

// takesSize is a number of bytes, or a text with docker's units; 0 and None leave the
// default, which is finite.
func takesSize(set func(*JobFile, int64)) func(*dockerOptions, any) error {
	return func(d *dockerOptions, v any) error {
		n, err := bytesOf(v)
		if err == nil && n > 0 {
			set(d.f, n)
		}
		return err
	}
}

func bytesOf(v any) (n int64, err error) {
	switch v := v.(type) {
	case nil:
	case int64:
		n = v
	case float64:
		if v != math.Trunc(v) || math.Abs(v) > MaxSize {
			return 0, problem("%v is no number of bytes", v)
		}
		n = int64(v)
	case string:
		if v == "" {
			return 0, nil
		}
		if n, err = ParseBytes(v); err != nil {
			return 0, problem("%s", err)
		}
	default:
		return 0, wrongType(v, "a number of bytes or a text such as 64m")
	}
	if n < 0 || n > MaxSize {
		return 0, problem("%d bytes is not between 0 and %s; without a limit there is the machine's default", n, FormatBytes(MaxSize))
	}
	return n, nil
}

func wrongType(v any, want string) error {
	return problem("%s where %s is wanted", shown(v), want)
}

// shown is a value as a person may see it: short, in Python's words.
func shown(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[v]
	case string:
		return fmt.Sprintf("%.40q", v)
	case int64:
		return strconv.FormatInt(v, 10)
	case *big.Int:
		return "a number of more than 64 bits"
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case []any:
		return "a list"
	case map[string]any:
		return "a dict"
	}
	return fmt.Sprintf("a %T", v)
}

func (d *dockerOptions) platform(v any) error {
	return takesText(func(_ *JobFile, s string) error {
		system, arch, _ := strings.Cut(s, "/")
		arch, _, _ = strings.Cut(arch, "/")
		arch = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}[arch] + map[bool]string{true: arch}[arch != "x86_64" && arch != "aarch64"]
		if system != "linux" || arch != "" && arch != runtime.GOARCH {
			return problem("%.40q: this machine runs linux/%s, and emulates no other", s, runtime.GOARCH)
		}
		return nil
	})(d, v)
}
