package policy

import (
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
)

// The sources of jobs, as [attempt.Identity] names them.
const (
	Socket = "socket"
	AMQP   = "amqp"
)

// Policy is one valid file.
type Policy struct {
	sources       map[string]*section
	groups, users map[int]*section
	// Keys are the files of public keys, by the names that signed_by has.
	Keys map[string]string
}

// Default is the policy of a machine that has no file.
func Default() *Policy { return builtin() }

func builtin() *Policy {
	p := &Policy{sources: map[string]*section{}, groups: map[int]*section{}, users: map[int]*section{}, Keys: map[string]string{}}
	var root map[string]map[string]any
	if err := toml.Unmarshal(defaultTOML, &root); err != nil {
		panic(err) // it is a part of the program, which a test reads
	}
	for source, keys := range root {
		s := &section{name: "[" + source + "]"}
		for key, value := range keys {
			if err := s.set(key, value); err != nil {
				panic(err)
			}
		}
		p.sources[source] = s
	}
	return p
}

func (p *Policy) all() []*section {
	all := slices.Collect(maps.Values(p.sources))
	all = slices.AppendSeq(all, maps.Values(p.groups))
	all = slices.AppendSeq(all, maps.Values(p.users))
	slices.SortFunc(all, func(a, b *section) int { return strings.Compare(a.name, b.name) })
	return all
}

// LendsGirderKey tells whether anybody may have the use of the machine's API key.
func (p *Policy) LendsGirderKey() bool {
	return slices.ContainsFunc(p.all(), func(s *section) bool { return s.girderKey != nil && *s.girderKey })
}

// Subject is who asks.
type Subject struct {
	Source string // Socket or AMQP
	// UID is who submitted it and Groups all groups of that process; both mean
	// nothing for AMQP.
	UID    int
	Groups []int
}

// Rights are what all sections for one subject come to.
type Rights struct {
	// Sections are those that apply, as a person finds them in the file.
	Sections []string

	images       []imageRule
	pull         []string
	roots        []Root
	networks     []string
	hosts        []string
	services     []string
	transfers    []string
	capabilities []string
	devices      []string
	gpus         int
	gpuKinds     []string
	sysctls      []string
	unconfined   bool
	switchUser   bool
	girderKey    bool
	python       bool
	commands     bool
	cpus         *float64
	memory, shm  *int64
	scratch, log *int64
	swap, pids   *int64
	time         *time.Duration
	ulimits      map[string]uint64
	source       string
}

// imageRule allows the images that match a pattern and have a signature of a key;
// without keys they need none.
type imageRule struct{ patterns, keys []string }

// Root is a directory beneath which jobs may have files of the host.
type Root = attempt.Root

// For adds up what a subject has. A source that is not known has nothing.
func (p *Policy) For(who Subject) *Rights {
	r := &Rights{source: who.Source, ulimits: map[string]uint64{}}
	var sections []*section
	if s := p.sources[who.Source]; s != nil {
		sections = append(sections, s)
	}
	if who.Source == Socket {
		for _, g := range slices.Compact(slices.Sorted(slices.Values(who.Groups))) {
			if s := p.groups[g]; s != nil {
				sections = append(sections, s)
			}
		}
		if s := p.users[who.UID]; s != nil {
			sections = append(sections, s)
		}
	}
	var roots []Root
	for _, s := range sections {
		r.Sections = append(r.Sections, s.name)
		if s.images != nil || s.signedBy != nil {
			patterns := s.images
			if patterns == nil {
				patterns = []string{"*"}
			}
			r.images = append(r.images, imageRule{patterns, s.signedBy})
		}
		for _, path := range s.read {
			roots = append(roots, Root{Path: path})
		}
		for _, path := range s.write {
			roots = append(roots, Root{Path: path, Write: true})
		}
		r.pull = append(r.pull, s.pull...)
		r.networks = append(r.networks, s.networks...)
		r.hosts = append(r.hosts, s.hosts...)
		r.services = append(r.services, s.services...)
		r.transfers = append(r.transfers, s.transfers...)
		r.capabilities = append(r.capabilities, s.capabilities...)
		r.devices = append(r.devices, s.devices...)
		r.gpuKinds = append(r.gpuKinds, s.gpuKinds...)
		r.sysctls = append(r.sysctls, s.sysctls...)
		r.unconfined = r.unconfined || s.seccompUnconfined != nil && *s.seccompUnconfined
		r.switchUser = r.switchUser || s.switchUser != nil && *s.switchUser
		r.girderKey = r.girderKey || s.girderKey != nil && *s.girderKey
		r.python = r.python || s.python != nil && *s.python
		r.commands = r.commands || s.commands != nil && *s.commands
		if s.gpus != nil {
			r.gpus = max(r.gpus, *s.gpus)
		}
		r.cpus, r.time = larger(r.cpus, s.cpus), larger(r.time, s.time)
		r.memory, r.shm = larger(r.memory, s.memory), larger(r.shm, s.shm)
		r.scratch, r.log = larger(r.scratch, s.scratch), larger(r.log, s.log)
		r.swap, r.pids = larger(r.swap, s.swap), larger(r.pids, s.pids)
		for name, n := range s.ulimits {
			r.ulimits[name] = max(r.ulimits[name], n)
		}
	}
	r.roots = joinRoots(roots)
	return r
}

// Transfers are where the worker may connect to in the job's name: "*" is
// anywhere outside this machine, [sandbox.LocalServices] its services, and the rest
// what [sandbox.ParseDestination] takes. The job's own Girder needs no leave.
func (r *Rights) Transfers() []string { return append([]string{}, distinct(r.transfers)...) }

// GPUs is how many devices a job may have.
func (r *Rights) GPUs() int { return r.gpus }

// GrantsGPU tells whether a job may have a device, by its CDI name.
func (r *Rights) GrantsGPU(name string) bool {
	kind, _, _ := strings.Cut(name, "=")
	return matchAny(r.gpuKinds, kind)
}

// joinRoots has each path once: what one section lets write, no other takes away.
func joinRoots(all []Root) []Root {
	slices.SortFunc(all, func(a, b Root) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		if a.Write {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(all, func(a, b Root) bool { return a.Path == b.Path })
}

func larger[T int64 | float64 | time.Duration](a, b *T) *T {
	if a == nil || b != nil && *b > *a {
		return b
	}
	return a
}

// Roots are the directories beneath which jobs may have files, by path.
func (r *Rights) Roots() []Root { return r.roots }

// Hosts are the destinations that a private network may reach, "*" for any.
func (r *Rights) Hosts() []string { return distinct(r.hosts) }

// Network is where a private network leads.
func (r *Rights) Network() sandbox.Network {
	n := sandbox.Network{Host: distinct(r.services)}
	if !slices.Contains(r.hosts, "*") {
		n.Narrow, n.Allow = true, r.Hosts()
	}
	return n
}

func distinct(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// GPUKinds are patterns of the CDI kinds that jobs may have.
func (r *Rights) GPUKinds() []string { return r.gpuKinds }

// SwitchUser tells whether a container that has files of its submitter may run
// processes as other users. Where file permissions say that a user or group has
// less than everyone else, a process that stops being that user has more; so
// with false such a container is not given CAP_SETUID and CAP_SETGID.
func (r *Rights) SwitchUser() bool { return r.switchUser }

// Python tells whether functions of Python packages may be called.
func (r *Rights) Python() bool { return r.python }

// Commands tells whether tasks may be called that run a program of the host.
func (r *Rights) Commands() bool { return r.commands }

// MayPull tells whether images may be pulled from a registry, by its host name.
func (r *Rights) MayPull(registry string) bool { return matchAny(r.pull, registry) }

// match is a pattern in which * stands for any text, slashes too.
func match(pattern, s string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	s, ok := strings.CutPrefix(s, first)
	if !ok {
		return false
	}
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

func matchAny(patterns []string, s string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, s) })
}

// Within tells whether a clean absolute path is a directory or lies below it.
func Within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}

// RootOf is the innermost root that a clean absolute path lies beneath.
func RootOf(roots []Root, p string) (Root, bool) {
	var found Root
	ok := false
	for _, r := range roots {
		if Within(p, r.Path) && len(r.Path) >= len(found.Path) {
			found, ok = r, true
		}
	}
	return found, ok
}

// MayHave tells whether a job may have the file or directory at a clean
// absolute path. Not only the path counts: what is mounted is mounted with all
// that lies below it. closed are paths that no policy opens.
func MayHave(roots []Root, closed []string, p string, write bool) error {
	for _, c := range closed {
		if Within(p, c) || Within(c, p) {
			return &pathError{p, "it is, or holds, " + c + ", which is the system's own", false}
		}
	}
	root, ok := RootOf(roots, p)
	switch {
	case !ok:
		return &pathError{p, "it is beneath none of the directories that jobs may use", true}
	case write && !root.Write:
		return &pathError{p, "jobs may only read beneath " + root.Path, true}
	case write:
		for _, inner := range roots {
			if !inner.Write && inner.Path != p && Within(inner.Path, p) {
				return &pathError{p, "it holds " + inner.Path + ", which jobs may only read", true}
			}
		}
	}
	return nil
}

// pathError is a path that is refused; byRoots says that another list of roots
// would allow it.
type pathError struct {
	path, reason string
	byRoots      bool
}

func (e *pathError) Error() string { return e.path + ": " + e.reason }

// SystemPaths are the places that no job has anything of, whatever is granted.
func SystemPaths(more ...string) []string {
	closed := []string{"/proc", "/sys", "/dev"}
	for _, p := range more {
		closed = append(closed, path.Clean(p))
	}
	return closed
}
