package jsonpickle

import (
	"strconv"
	"strings"
)

// path is the way from the top to the value at hand.
type path []step

type step struct {
	key   string
	index int
	isKey bool
}

func (p *path) push(s step) { *p = append(*p, s) }
func (p *path) pop()        { *p = (*p)[:len(*p)-1] }

// Keys in a path are cut and quoted: they come from a stranger and end up in a log.
const maxPathKey = 64

func (p path) String() string {
	var b strings.Builder
	b.WriteByte('$')
	for _, s := range p {
		switch {
		case !s.isKey:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case isIdentifier(s.key) && len(s.key) <= maxPathKey:
			b.WriteString("." + s.key)
		default:
			key := s.key
			if len(key) > maxPathKey {
				key = strings.ToValidUTF8(key[:maxPathKey], "") + "…"
			}
			b.WriteString("[" + strconv.Quote(key) + "]")
		}
	}
	return b.String()
}

// key returns the innermost key, "" when there is none.
func (p path) key() string {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].isKey && p[i].key != tagState {
			return p[i].key
		}
	}
	return ""
}

// isIdentifier reports whether s is a name as Python writes them in ASCII.
func isIdentifier(s string) bool {
	for i, r := range s {
		switch {
		case r == '_', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', i > 0 && '0' <= r && r <= '9':
		default:
			return false
		}
	}
	return s != ""
}
