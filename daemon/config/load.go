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
func Load(s Sources) (c Config, warnings []string, err error) {
	if s.File != "" {
		_, err := os.Stat(s.File)
		if errors.Is(err, fs.ErrNotExist) {
			return Config{}, nil, missingFile(s.File)
		}
		if err != nil {
			return Config{}, nil, fmt.Errorf("cannot read the configuration: %w", err)
		}
	}
	var entries []entry
	var problems Invalid
	for _, path := range s.Files() {
		more, bad, err := readINI(path)
		if err != nil {
			return Config{}, nil, err
		}
		entries = append(entries, more...)
		problems = append(problems, bad...)
	}

	c = Default()
	keys := c.Keys()
	fromEnviron, ignored := environ(keys, s.Environ)
	warnings = append(warnings, ignored...)
	entries = append(entries, fromEnviron...)
	entries = append(entries, flags(keys, s.Flags)...)

	origins := map[string]string{}
	for _, e := range entries {
		i := slices.IndexFunc(keys, func(k Key) bool { return k.String() == e.key })
		switch {
		case i < 0 && isPython(e.key):
			warnings = append(warnings, fmt.Sprintf("%s: %s is an option of the Python worker and has no effect", e.origin, e.key))
		case i < 0:
			problems = append(problems, Problem{e.origin, e.key, errors.New("is not an option; `girder-worker daemon --help` lists them")})
		default:
			if err := keys[i].value.Set(e.value); err != nil {
				problems = append(problems, Problem{e.origin, e.key, fmt.Errorf("%w, not %q", err, clip(e.value))})
				continue
			}
			origins[e.key] = e.origin
		}
	}
	problems = append(problems, c.contradictions(origins)...)
	if len(problems) > 0 {
		return Config{}, warnings, problems
	}
	return c, warnings, nil
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
			entries = append(entries, entry{keys[i].String(), value, name})
		case slices.Contains(otherVariables, rest):
			warnings = append(warnings, name+" is a variable of the Python worker and has no effect")
		default:
			warnings = append(warnings, name+" is not a variable of girder-worker and has no effect")
		}
	}
	return entries, warnings
}

func flags(keys []Key, given map[string]string) (entries []entry) {
	for _, k := range keys {
		if value, ok := given[k.Flag()]; ok {
			entries = append(entries, entry{k.String(), value, "--" + k.Flag()})
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
