package plugin

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// A Problem is one thing that is wrong with a file. Line and Column are 0 where it has
// no place.
type Problem struct {
	File         string
	Line, Column int
	Text         string
}

// Error is FILE:LINE:COLUMN: what is wrong.
func (p *Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
}

type position struct{ line, column int }

// positions is where each key and table of a valid document begins, by its path:
// "parameters[1].type".
func positions(data []byte) map[string]position {
	found := map[string]position{}
	count := map[string]int{} // of the tables in a list
	var p unstable.Parser
	p.Reset(data)
	prefix := ""
	for p.NextExpression() {
		e := p.Expression()
		var parts []string
		var at position
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if at.line == 0 {
				start := p.Shape(n.Raw).Start
				at = position{start.Line, start.Column}
			}
			parts = append(parts, string(n.Data))
		}
		switch e.Kind {
		case unstable.ArrayTable:
			name := indexed(parts, count)
			name += "[" + strconv.Itoa(count[name]) + "]"
			count[strings.TrimSuffix(name, name[strings.LastIndexByte(name, '['):])]++
			found[name] = at
			prefix = name + "."
		case unstable.Table:
			name := indexed(parts, count)
			found[name] = at
			prefix = name + "."
		case unstable.KeyValue:
			found[prefix+strings.Join(parts, ".")] = at
		}
	}
	return found
}

// indexed is a path in which each list of tables has the index of its last one.
func indexed(parts []string, count map[string]int) string {
	name := ""
	for i, part := range parts {
		if i > 0 {
			if n := count[name]; n > 0 {
				name += "[" + strconv.Itoa(n-1) + "]"
			}
			name += "."
		}
		name += part
	}
	return name
}

// locate finds the innermost place on the way to a path.
func locate(all map[string]position, path string) position {
	for {
		if at, ok := all[path]; ok {
			return at
		}
		i := max(strings.LastIndexByte(path, '.'), strings.LastIndexByte(path, '['))
		if i < 0 {
			return position{}
		}
		path = path[:i]
	}
}
