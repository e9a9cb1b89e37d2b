package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// MaxSize is how large a policy may be, in bytes.
const MaxSize = 32 << 10

// Problem is one thing that is wrong with a file. Line is 0 where it has none.
type Problem struct {
	Line int
	Text string
}

// Invalid is everything that is wrong with a file.
type Invalid struct {
	File     string
	Problems []Problem
}

// Error has a line for each problem.
func (e *Invalid) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = e.File + ": " + p.Text
		if p.Line > 0 {
			lines[i] = fmt.Sprintf("%s:%d: %s", e.File, p.Line, p.Text)
		}
	}
	return strings.Join(lines, "\n")
}

const (
	maxKeys = 64
	maxKey  = 8 << 10 // bytes of a file
)

// Names finds the numbers behind the names of users and groups.
type Names struct {
	User, Group func(name string) (int, error)
}

// Parse reads a policy. file is its name in errors, which are an [*Invalid].
func Parse(file string, data []byte, names Names) (*Policy, error) {
	bad := &Invalid{File: file}
	if len(data) > MaxSize {
		bad.add(0, "it has %d bytes, the limit is %d", len(data), MaxSize)
		return nil, bad
	}
	var root map[string]any
	if err := toml.Unmarshal(data, &root); err != nil {
		line := 0
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, _ = at.Position()
		}
		bad.add(line, "%s", strings.TrimPrefix(err.Error(), "toml: "))
		return nil, bad
	}
	lines := linesOf(data)
	p := builtin()
	for _, name := range slices.Sorted(maps.Keys(root)) {
		table, isTable := root[name].(map[string]any)
		if !isTable {
			bad.add(lines[name], "%s stands in no section; want [socket], [amqp], [group.NAME], [user.NAME] or [keys]", name)
			continue
		}
		switch name {
		case Socket, AMQP:
			s := p.sources[name]
			bad.section(s, name, table, lines)
			s.complete(name)
		case "group", "user":
			lookUp, sections := names.Group, p.groups
			if name == "user" {
				lookUp, sections = names.User, p.users
			}
			for _, who := range slices.Sorted(maps.Keys(table)) {
				at := name + "." + who
				grants, ok := table[who].(map[string]any)
				if !ok {
					bad.add(lines[at], "%s is no section", at)
					continue
				}
				id, err := lookUp(who)
				if err != nil {
					bad.add(lines[at], "[%s]: there is no %s %q on this machine; one of a directory service is written by its number", at, name, who)
				}
				s := &section{name: "[" + at + "]"}
				bad.section(s, at, grants, lines)
				if other := sections[id]; other != nil && err == nil {
					bad.add(lines[at], "%s and %s are the same %s", s.name, other.name, name)
				}
				sections[id] = s
			}
		case "keys":
			if len(table) > maxKeys {
				bad.add(lines["keys"], "[keys] has %d keys, the limit is %d", len(table), maxKeys)
			}
			for _, key := range slices.Sorted(maps.Keys(table)) {
				path, err := text(table[key])
				if err == nil {
					err = cleanPath(path)
				}
				if err != nil {
					bad.add(lines["keys."+key], "keys.%s: %s", key, err)
				}
				p.Keys[key] = path
			}
		default:
			bad.add(lines[name], "unknown section [%s]; want [socket], [amqp], [group.NAME], [user.NAME] or [keys]", name)
		}
	}
	for _, s := range p.all() {
		for _, key := range s.signedBy {
			if _, ok := p.Keys[key]; !ok {
				bad.add(0, "%s: signed_by names the key %q, which [keys] does not have", s.name, key)
			}
		}
	}
	if len(bad.Problems) > 0 {
		slices.SortStableFunc(bad.Problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, bad
	}
	return p, nil
}

func (e *Invalid) add(line int, format string, args ...any) {
	e.Problems = append(e.Problems, Problem{line, fmt.Sprintf(format, args...)})
}

func (e *Invalid) section(s *section, at string, table map[string]any, lines map[string]int) {
	for _, key := range slices.Sorted(maps.Keys(table)) {
		if err := s.set(key, table[key]); err != nil {
			e.add(lines[at+"."+key], "%s: %s: %s", s.name, key, err)
		}
	}
}

// linesOf is where each key and section of a valid document stands.
func linesOf(data []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(data)
	prefix := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 {
				line = p.Shape(n.Raw).Start.Line
			}
			parts = append(parts, string(n.Data))
		}
		name := strings.Join(parts, ".")
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			prefix = name + "."
		default:
			name = prefix + name
		}
		for at := name; ; {
			if _, ok := lines[at]; !ok {
				lines[at] = line
			}
			i := strings.LastIndexByte(at, '.')
			if i < 0 {
				break
			}
			at = at[:i]
		}
	}
	return lines
}
