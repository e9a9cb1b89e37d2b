package transforms

import (
	"path"
	"slices"
	"strings"

	"girderworker/sandbox"
)

// check refuses what no single field shows.
func (f *JobFile) check() error {
	if f.Task != TaskDockerRun {
		return nil // nothing here can judge another task; it is born failed
	}
	if f.Python != nil && f.Image != "" {
		return inField("python", problem("a function has no image"))
	}
	if err := f.checkCommand(); err != nil {
		return err
	}
	if f.Image == "" && !f.OnHost() {
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
	if names := GPUDevices(f.Resources.Devices); len(names) > 0 {
		if n := f.Resources.GPUs; n != 0 && n != len(names) {
			return inField("resources.gpus", problem("%d, but gpu_devices names %d", n, len(names)))
		}
		f.Resources.GPUs = len(names)
	}
	if f.Resources.Shm > 0 && f.Resources.Memory > 0 && f.Resources.Shm > f.Resources.Memory {
		return inField("resources.shm", problem("%s is more than memory, which is %s",
			FormatBytes(f.Resources.Shm), FormatBytes(f.Resources.Memory)))
	}
	if f.Resources.Reservation > 0 && f.Resources.Memory > 0 && f.Resources.Reservation > f.Resources.Memory {
		return inField("resources.memory_reservation", problem("%s is more than memory, which is %s",
			FormatBytes(f.Resources.Reservation), FormatBytes(f.Resources.Memory)))
	}
	for _, check := range []func() error{f.checkTransfers, f.checkNames, f.checkStreams, f.checkMounts, f.Options.check} {
		if err := check(); err != nil {
			return err
		}
	}
	if n := len(f.After) + len(f.AfterAny); n > MaxAfter {
		return inField("after", problem("%d jobs together with after_any; the limit is %d", n, MaxAfter))
	}
	return nil
}

// checkNames refuses a name that is given twice: in braces it would mean two things.
func (f *JobFile) checkNames() error {
	names := make(map[string]string)
	take := func(field, name string) error {
		if name == "" {
			return nil
		}
		if by, taken := names[name]; taken {
			return inField(field, problem("the name %s is already used by %s", name, by))
		}
		names[name] = field
		return nil
	}
	for i := range f.Girders {
		for _, name := range []string{f.Girders[i].Name, tokenName(f.Girders[i].Name)} {
			if err := take("girder", name); err != nil {
				return err
			}
		}
	}
	if f.Progress {
		if err := take("progress", progressName); err != nil {
			return err
		}
	}
	if err := f.eachPipe(func(field, name string, _ *Pipe) error { return take(field, name) }); err != nil {
		return err
	}
	for i := range f.Binds {
		if err := take("binds", f.Binds[i].Name); err != nil {
			return err
		}
	}
	for _, v := range f.volumes() {
		if err := take("volumes", v.Name); err != nil {
			return err
		}
	}
	for i := range f.Downloads {
		if err := take("downloads", f.Downloads[i].Name); err != nil {
			return err
		}
	}
	for i := range f.Uploads {
		if err := take("uploads", f.Uploads[i].Name); err != nil {
			return err
		}
	}
	return nil
}

// tokenName is what stands in braces for the token of a server.
func tokenName(girder string) string { return girder + ".token" }

// HostNetwork tells whether the job asks for the host's own network.
func (f *JobFile) HostNetwork() bool { return f.Network == sandbox.NetworkHost }

// Plan turns the document into what the runner carries out.
//
// In an argument, in the entrypoint and in the value of a variable, {NAME}
// becomes the path in the container of what has that name in the document: a
// pipe, a volume or bind, a download, an upload; {progress} is the pipe of
// --progress, and {GIRDER.token} the token of a server. Only names of this job
// are replaced: any other text in braces stays as it is, so that JSON, awk and
// templates pass unchanged. Doubled braces protect a name: {{NAME}} becomes the
// text {NAME}.
func (f *JobFile) Plan() (Plan, error) {
	if f.Python != nil {
		return f.Python.plan(f)
	}
	if f.Task != TaskDockerRun {
		return Plan{}, inField("task", problem("%q is not a task that this worker knows", f.Task))
	}
	p := Plan{
		Image:          f.Image,
		Command:        f.Command,
		Cwd:            f.WorkDir,
		User:           f.User,
		Hostname:       f.Hostname,
		Network:        f.Network,
		ExtraHosts:     f.ExtraHosts,
		DNS:            f.DNS,
		ReadOnlyRootfs: f.ReadOnly,
		Streams:        f.streams(),
		SlicerProgress: f.SlicerProgress,
		StopSignal:     f.StopSignal,
		StopGrace:      f.StopGrace,
		Options:        f.Options,
	}
	p.Options.Labels = nil
	if f.Command != nil {
		p.Options.Init = true // programs of a machine are not made to be the first process
	}
	if err := f.moves(&p); err != nil {
		return Plan{}, err
	}
	// A mount below another must come after it, whatever the order in the
	// document; by name, a directory comes before what is in it.
	p.Binds = slices.Clone(f.Binds)
	slices.SortFunc(p.Binds, func(a, b Bind) int { return strings.Compare(a.Target, b.Target) })
	p.Volumes = f.volumes()
	slices.SortFunc(p.Volumes, func(a, b Volume) int { return strings.Compare(a.Target, b.Target) })

	names := f.named(&p)
	if f.Entrypoint != nil {
		p.Entrypoint = make([]string, 0, len(f.Entrypoint))
		for _, s := range f.Entrypoint {
			p.Entrypoint = append(p.Entrypoint, p.expand(InsertEntrypoint, len(p.Entrypoint), "", s, names))
		}
	}
	if f.Args != nil {
		p.Args = make([]string, 0, len(f.Args))
		for _, s := range f.Args {
			p.Args = append(p.Args, p.expand(InsertArgs, len(p.Args), "", s, names))
		}
	}
	for _, key := range f.sortedEnv() {
		p.Env = append(p.Env, p.expand(InsertEnv, len(p.Env), key+"=", f.Env[key], names))
	}
	return p, p.CheckCommand()
}

// A named thing is what {NAME} stands for: a path that is known, or what has to
// be inserted when the attempt runs.
type named struct {
	path         string
	fetch, token string
}

// named gives everything in the document that has a name, as the plan has it.
func (f *JobFile) named(p *Plan) map[string]named {
	all := make(map[string]named)
	for _, g := range f.Girders {
		if g.Token != "" { // those that a key is changed into are for no container
			all[tokenName(g.Name)] = named{token: g.Name}
		}
	}
	for _, b := range p.Binds {
		if b.Name != "" {
			all[b.Name] = named{path: b.Target}
		}
	}
	for _, v := range p.Volumes {
		all[v.Name] = named{path: v.Target}
	}
	for _, d := range p.Fetches {
		all[d.Name] = named{fetch: d.Name}
	}
	for i, h := range p.Hooks {
		if f.Uploads[i].Name != "" {
			all[h.Name] = named{path: path.Join(all[h.From].path, h.Path)}
		}
	}
	for _, s := range p.Streams {
		if s.Path != "" {
			all[s.Name] = named{path: s.Path}
		}
	}
	return all
}

// expand replaces the names in s, an entry of the list, after prefix, which has none.
func (p *Plan) expand(list InsertionList, index int, prefix, s string, names map[string]named) string {
	return substitute(prefix, s, names, func(at int, n named) {
		p.Inserts = append(p.Inserts, Insertion{List: list, Arg: index, At: at, Fetch: n.fetch, Token: n.token})
	})
}

// substitute calls insert with where in the result something is to be inserted.
func substitute(prefix, s string, names map[string]named, insert func(at int, n named)) string {
	if len(names) == 0 || !strings.ContainsRune(s, '{') {
		return prefix + s
	}
	var out strings.Builder
	out.WriteString(prefix)
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
		target, known := names[name]
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
			if target.path == "" {
				insert(out.Len(), target)
			}
			out.WriteString(target.path)
			s = rest
		}
	}
	out.WriteString(s)
	return out.String()
}
