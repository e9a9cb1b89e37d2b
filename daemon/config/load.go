package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Problem is one thing wrong with the configuration.
type Problem struct {
	// Origin is file:line, the variable, or the flag.
	Origin string
	Key    string // section.name; empty when the line has none
	Err    error
}

// String is one line for a person.
func (p Problem) String() string {
	parts := make([]string, 0, 2)
	if p.Origin != "" {
		parts = append(parts, p.Origin)
	}
	if p.Key != "" {
		return strings.Join(append(parts, p.Key+" "+p.Err.Error()), ": ")
	}
	return strings.Join(append(parts, p.Err.Error()), ": ")
}

// Invalid is every problem of a configuration at once.
type Invalid []Problem

// Error is one line a problem.
func (e Invalid) Error() string {
	lines := make([]string, len(e))
	for i, p := range e {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// missingFile is the file that was named and is not there.
type missingFile string

func (f missingFile) Error() string {
	return fmt.Sprintf("cannot read the configuration: %s does not exist; make it, or name none for %s", string(f), DefaultFile)
}

func (f missingFile) Unwrap() error { return fs.ErrNotExist }

// Sources are where a configuration comes from.
type Sources struct {
	// File is the main file; empty is [DefaultFile], which may be missing.
	File string
	// Environ is os.Environ().
	Environ []string
	// Flags holds the flags that were given, by [Key.Flag].
	Flags map[string]string
	// Check, when set, finds what only those can tell who use the values.
	Check func(*Config) Invalid
}

// Files are the files that Load reads, whether they exist or not.
func (s Sources) Files() []string {
	main := s.File
	if main == "" {
		main = DefaultFile
	}
	return []string{main, strings.TrimSuffix(main, filepath.Ext(main)) + ".local.cfg"}
}

// Load reads and checks the configuration. Warnings are lines for the log. The
// error is [Invalid] when the configuration is to blame.
func Load(s Sources) (Config, []string, error) {
	if s.File != "" {
		_, err := os.Stat(s.File)
		if errors.Is(err, fs.ErrNotExist) {
			return Config{}, nil, missingFile(s.File)
		}
		if err != nil {
			return Config{}, nil, fmt.Errorf("cannot read the configuration: %w", err)
		}
	}
	l, err := load(s, nil)
	if err != nil {
		return Config{}, nil, err
	}
	if len(l.problems) > 0 {
		return Config{}, l.warnings, l.problems
	}
	return l.config, l.warnings, nil
}

// loaded is a configuration with all that there is to say about it.
type loaded struct {
	config   Config
	entries  []entry // of the files, in order
	origins  map[string]string
	warnings []string
	problems Invalid
}

// load reads the files, but for those whose text is given.
func load(s Sources, texts map[string]string) (*loaded, error) {
	l := &loaded{config: Default(), origins: map[string]string{}}
	for _, path := range s.Files() {
		text, given := texts[path]
		if !given {
			var err error
			if text, err = readFile(path); err != nil {
				return nil, err
			}
		}
		more, bad := parseINI(path, text)
		l.entries = append(l.entries, more...)
		l.problems = append(l.problems, bad...)
	}
	expand(l.entries, s.Environ)

	c := &l.config
	keys := c.Keys()
	fromEnviron, ignored := environ(keys, s.Environ)
	l.warnings = append(l.warnings, ignored...)
	for _, e := range concurrency(slices.Concat(l.entries, fromEnviron, flags(keys, s.Flags))) {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.String() == e.key })
		if i < 0 {
			if why, known := without(keys, e.key, e.value); known {
				if why != "" {
					l.warnings = append(l.warnings, fmt.Sprintf("%s: %s has no effect: %s", e.origin, e.key, why))
				}
				continue
			}
			l.problems = append(l.problems, Problem{e.origin, e.key, errors.New("is not an option; " + suggest(keys, e.key))})
			continue
		}
		err := e.err
		if err == nil {
			if err = keys[i].value.Set(e.value); err != nil {
				err = fmt.Errorf("%w, not %q", err, clip(e.value))
			}
		}
		if err != nil {
			l.problems = append(l.problems, Problem{e.origin, e.key, err})
			continue
		}
		l.origins[e.key] = e.origin
	}
	l.problems = append(l.problems, c.contradictions(l.origins)...)
	if s.Check != nil {
		for _, p := range s.Check(c) {
			p.Origin = l.origins[p.Key]
			l.problems = append(l.problems, p)
		}
	}
	return l, nil
}

func environ(keys []Key, env []string) (entries []entry, warnings []string) {
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		rest, ours := strings.CutPrefix(name, envPrefix)
		if !ours || rest == "CONFIG" {
			continue
		}
		i := slices.IndexFunc(keys, func(k Key) bool { return k.Variable() == name })
		switch {
		case i >= 0:
			entries = append(entries, entry{key: keys[i].String(), value: value, origin: name})
		case pythonVariables[rest] != nil:
			if why := pythonVariables[rest](value); why != "" {
				warnings = append(warnings, name+" has no effect: "+why)
			}
		default:
			hint := ""
			if near := nearestVariable(keys, name); near != "" {
				hint = "; did you mean " + near + "?"
			}
			warnings = append(warnings, name+" is not a variable of girder-worker and has no effect"+hint)
		}
	}
	return entries, warnings
}

func flags(keys []Key, given map[string]string) (entries []entry) {
	for _, k := range keys {
		if value, ok := given[k.Flag()]; ok {
			entries = append(entries, entry{key: k.String(), value: value, origin: "--" + k.Flag()})
		}
	}
	return entries
}

// maxSocketPath is what fits into sockaddr_un with its final NUL.
const maxSocketPath = 107

// contradictions are what no single option can be blamed for alone.
func (c *Config) contradictions(origins map[string]string) (problems Invalid) {
	bad := func(key, format string, args ...any) {
		problems = append(problems, Problem{origins[key], key, fmt.Errorf(format, args...)})
	}
	if c.IDs.Size%SliceSize != 0 {
		bad("girder_worker.id_size", "must be a multiple of %d", SliceSize)
	}
	if c.IDs.Base > maxID-c.IDs.Size {
		bad("girder_worker.id_base", "and id_size end beyond %d", maxID)
	}
	if c.Machine.Slots > c.IDs.Slices() {
		bad("girder_worker.slots", "is %d, but the id range serves only %d attempts at a time", c.Machine.Slots, c.IDs.Slices())
	}
	if p := c.SocketPath(); len(p) > maxSocketPath {
		key := "girder_worker.socket"
		if c.Socket == "" {
			key = "girder_worker.runtime_dir"
		}
		bad(key, "makes the socket's path %d bytes long; the kernel takes %d", len(p), maxSocketPath)
	}
	return problems
}

// Changed compares two configurations: the keys whose change a reload applies,
// and those that need a restart.
func Changed(before, after Config) (live, restart []string) {
	a, b := before.Keys(), after.Keys()
	for i := range a {
		switch {
		case a[i].Value() == b[i].Value():
		case a[i].Live:
			live = append(live, a[i].String())
		default:
			restart = append(restart, a[i].String())
		}
	}
	return live, restart
}

// ApplyLive copies the options that a reload may change from one to another.
// Both are filled in, see [Config.Fill].
func ApplyLive(from Config, to *Config) error {
	target := to.Keys()
	for i, k := range from.Keys() {
		if !k.Live || k.Value() == target[i].Value() {
			continue
		}
		if err := target[i].value.Set(k.Value()); err != nil {
			return fmt.Errorf("cannot apply %s: %w", k, err)
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
