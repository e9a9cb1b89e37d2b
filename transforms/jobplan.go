package transforms

import (
	"path"
	"slices"
	"strings"

	"girderworker/sandbox"
)

// The names of the streams that the document turns on without naming them.
const (
	stdinName    = "stdin"
	progressName = "progress"
)

// check refuses what no single field shows.
func (f *JobFile) check() error {
	if f.Task != TaskDockerRun {
		return nil // nothing here can judge another task; it is born failed
	}
	if f.Image == "" {
		return inField("image", problem("missing; name the image to run"))
	}
	if len(f.Entrypoint) > 0 && f.Entrypoint[0] == "" {
		return inField("entrypoint", problem("an empty command"))
	}
	if !f.Expires.IsZero() && !f.Expires.After(f.NotBefore) {
		return inField("expires", problem("not after not_before"))
	}
	if f.SoftTimeout > 0 && f.Timeout > 0 && f.SoftTimeout >= f.Timeout {
		return inField("soft_timeout", problem("%v is not less than timeout, which is %v", f.SoftTimeout, f.Timeout))
	}
	if f.Resources.Shm > 0 && f.Resources.Memory > 0 && f.Resources.Shm > f.Resources.Memory {
		return inField("resources.shm", problem("%s is more than memory, which is %s",
			FormatBytes(f.Resources.Shm), FormatBytes(f.Resources.Memory)))
	}
	if err := f.checkStreams(); err != nil {
		return err
	}
	if err := f.checkBinds(); err != nil {
		return err
	}
	if n := len(f.After) + len(f.AfterAny); n > MaxAfter {
		return inField("after", problem("%d jobs together with after_any; the limit is %d", n, MaxAfter))
	}
	return nil
}

func (f *JobFile) checkStreams() error {
	names := make(map[string]string)
	if f.Stdin != "" {
		names[stdinName] = "stdin"
	}
	if f.Progress {
		names[progressName] = "progress"
	}
	for _, list := range []struct {
		field string
		pipes []Pipe
	}{{"inputs", f.Inputs}, {"outputs", f.Outputs}} {
		for _, p := range list.pipes {
			if by, taken := names[p.Name]; taken {
				return inField(list.field, problem("the name %s is already used by %s", p.Name, by))
			}
			names[p.Name] = list.field
		}
	}
	return nil
}

// pipesNeeded tells whether the container gets [PipeDirectory].
func (f *JobFile) pipesNeeded() bool {
	return f.Progress || len(f.Inputs)+len(f.Outputs) > 0
}

func (f *JobFile) checkBinds() error {
	targets := make(map[string]bool, len(f.Binds))
	for _, b := range f.Binds {
		switch {
		case targets[b.Target]:
			return inField("binds", problem("the target %s is given twice", b.Target))
		case b.Target == "/":
			return inField("binds", problem("the target / would hide the image"))
		case within(b.Target, PipeDirectory), f.pipesNeeded() && within(PipeDirectory, b.Target):
			return inField("binds", problem("the target %s would hide the job's pipes in %s", b.Target, PipeDirectory))
		}
		for _, own := range []string{"/proc", "/sys", "/dev"} {
			if within(b.Target, own) {
				return inField("binds", problem("the target %s is within %s, which is the container's own", b.Target, own))
			}
		}
		targets[b.Target] = true
	}
	return nil
}

// HostNetwork tells whether the job asks for the host's own network.
func (f *JobFile) HostNetwork() bool { return f.Network == sandbox.NetworkHost }

// within tells whether the clean path p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}

// Plan turns the document into what the runner carries out.
//
// In an argument, in the entrypoint and in the value of a variable, {NAME}
// becomes the path of the pipe NAME in the container; {progress} is the pipe of
// --progress. Only names of this job's pipes are replaced: any other text in
// braces stays as it is, so that JSON, awk and templates pass unchanged. Doubled
// braces protect a name: {{NAME}} becomes the text {NAME}.
func (f *JobFile) Plan() (Plan, error) {
	if f.Task != TaskDockerRun {
		return Plan{}, inField("task", problem("%q is not a task that this worker knows", f.Task))
	}
	p := Plan{
		Image:          f.Image,
		Cwd:            f.WorkDir,
		User:           f.User,
		Hostname:       f.Hostname,
		Network:        f.Network,
		ReadOnlyRootfs: f.ReadOnly,
		Streams:        f.streams(),
		StopSignal:     f.StopSignal,
		StopGrace:      f.StopGrace,
	}
	paths := make(map[string]string, len(p.Streams))
	for _, s := range p.Streams {
		if s.Path != "" {
			paths[s.Name] = s.Path
		}
	}
	p.Entrypoint = substituteAll(f.Entrypoint, paths)
	p.Args = substituteAll(f.Args, paths)
	for _, key := range f.sortedEnv() {
		p.Env = append(p.Env, key+"="+substitute(f.Env[key], paths))
	}
	// A bind below another must be mounted after it, whatever the order in the
	// document; by name, a directory comes before what is in it.
	p.Binds = slices.Clone(f.Binds)
	slices.SortFunc(p.Binds, func(a, b Bind) int { return strings.Compare(a.Target, b.Target) })
	return p, nil
}

func (f *JobFile) streams() []Stream {
	var streams []Stream
	if f.Stdin != "" {
		streams = append(streams, Stream{Name: stdinName, Kind: StreamStdin, File: f.Stdin})
	}
	for _, p := range f.Inputs {
		streams = append(streams, Stream{Name: p.Name, Kind: StreamInput, File: p.File, Path: path.Join(PipeDirectory, p.Name)})
	}
	for _, p := range f.Outputs {
		streams = append(streams, Stream{Name: p.Name, Kind: StreamOutput, File: p.File, Path: path.Join(PipeDirectory, p.Name)})
	}
	if f.Progress {
		streams = append(streams, Stream{Name: progressName, Kind: StreamProgress, Path: path.Join(PipeDirectory, progressName)})
	}
	return streams
}

func substituteAll(args []string, paths map[string]string) []string {
	if args == nil {
		return nil
	}
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = substitute(arg, paths)
	}
	return out
}

func substitute(s string, paths map[string]string) string {
	if len(paths) == 0 || !strings.ContainsRune(s, '{') {
		return s
	}
	var out strings.Builder
	for {
		open := strings.IndexByte(s, '{')
		if open < 0 {
			break
		}
		out.WriteString(s[:open])
		s = s[open:]
		doubled := strings.HasPrefix(s, "{{")
		name, rest, closed := strings.Cut(s[1:], "}")
		if doubled {
			name, rest, closed = strings.Cut(s[2:], "}}")
		}
		target, known := paths[name]
		switch {
		case !closed || !known:
			out.WriteByte('{')
			s = s[1:]
			if doubled { // both braces are text, or the second would open a name
				out.WriteByte('{')
				s = s[1:]
			}
		case doubled:
			out.WriteString("{" + name + "}")
			s = rest
		default:
			out.WriteString(target)
			s = rest
		}
	}
	out.WriteString(s)
	return out.String()
}
