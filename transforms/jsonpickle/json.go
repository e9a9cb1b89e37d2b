package jsonpickle

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// The raw tree is JSON as it was written, tags not looked at: nil, bool, string,
// int64, *big.Int, float64, rawArray, *rawObject.
type rawArray []any

type rawObject struct {
	members []Member // the values are raw
	// unordered: the members came from a map and [Options.Order] did not say in
	// which order all those stood that hold objects.
	unordered bool
}

func (o *rawObject) get(key string) (any, bool) { return get(o.members, key) }

// Python refuses to read longer integers, too (sys.int_info.default_max_str_digits).
const maxDigits = 4300

// parser reads JSON as Python's json module does: NaN, Infinity and -Infinity are
// numbers, integers have any size, floats beyond the range are infinite. Unlike
// it, a key that occurs twice and half a surrogate pair are errors.
// encoding/json can do none of these, nor keep the order of keys.
type parser struct {
	in     []byte
	pos    int
	depth  int
	nodes  int
	limits Limits
	path   path
}

func parse(in []byte, limits Limits) (any, error) {
	p := &parser{in: in, limits: limits}
	v, err := p.value()
	if err == nil {
		p.space()
		if p.pos < len(p.in) {
			err = p.syntax("text after the end of the value")
		}
	}
	if err != nil {
		return nil, &Error{p.path.String(), err}
	}
	return v, nil
}

func (p *parser) syntax(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, what, p.pos)
}

func (p *parser) space() {
	for p.pos < len(p.in) {
		switch p.in[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// peek returns the next byte that is not white space, 0 at the end.
func (p *parser) peek() byte {
	p.space()
	if p.pos == len(p.in) {
		return 0
	}
	return p.in[p.pos]
}

func (p *parser) accept(word string) bool {
	if len(p.in)-p.pos < len(word) || string(p.in[p.pos:p.pos+len(word)]) != word {
		return false
	}
	p.pos += len(word)
	return true
}

func (p *parser) value() (any, error) {
	if p.nodes++; p.nodes > p.limits.Nodes {
		return nil, fmt.Errorf("%w: more than %d values", ErrTooLarge, p.limits.Nodes)
	}
	switch c := p.peek(); {
	case c == '{':
		return p.nested(p.object)
	case c == '[':
		return p.nested(p.array)
	case c == '"':
		return p.str()
	case p.accept("null"):
		return nil, nil
	case p.accept("true"):
		return true, nil
	case p.accept("false"):
		return false, nil
	case p.accept("NaN"):
		return math.NaN(), nil
	case p.accept("Infinity"):
		return math.Inf(1), nil
	case p.accept("-Infinity"):
		return math.Inf(-1), nil
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	case p.pos == len(p.in):
		return nil, p.syntax("the text ends where a value should be")
	}
	return nil, p.syntax("no value")
}

func (p *parser) nested(read func() (any, error)) (any, error) {
	if p.depth++; p.depth > p.limits.Depth {
		return nil, fmt.Errorf("%w: nested deeper than %d", ErrTooLarge, p.limits.Depth)
	}
	p.pos++ // the bracket
	v, err := read()
	p.depth--
	return v, err
}

func (p *parser) array() (any, error) {
	items := rawArray{}
	if p.peek() == ']' {
		p.pos++
		return items, nil
	}
	for {
		p.path.push(step{index: len(items)})
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		p.path.pop()
		items = append(items, v)
		switch p.peek() {
		case ',':
			p.pos++
		case ']':
			p.pos++
			return items, nil
		default:
			return nil, p.syntax("neither ',' nor ']' after an element")
		}
	}
}

func (p *parser) object() (any, error) {
	o := &rawObject{}
	if p.peek() == '}' {
		p.pos++
		return o, nil
	}
	seen := map[string]bool{}
	for {
		if p.peek() != '"' {
			return nil, p.syntax("no key")
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		p.path.push(step{key: key, isKey: true})
		if seen[key] {
			return nil, p.syntax("the key occurs twice")
		}
		seen[key] = true
		if p.peek() != ':' {
			return nil, p.syntax("no ':' after a key")
		}
		p.pos++
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		p.path.pop()
		o.members = append(o.members, Member{key, v})
		switch p.peek() {
		case ',':
			p.pos++
		case '}':
			p.pos++
			return o, nil
		default:
			return nil, p.syntax("neither ',' nor '}' after a member")
		}
	}
}

func (p *parser) number() (any, error) {
	start, isFloat := p.pos, false
	p.accept("-")
	switch {
	case p.accept("0"):
	case !p.digits():
		return nil, p.syntax("no digit after '-'")
	}
	if p.accept(".") {
		if isFloat = true; !p.digits() {
			return nil, p.syntax("no digit after the point")
		}
	}
	if p.accept("e") || p.accept("E") {
		if !p.accept("+") {
			p.accept("-")
		}
		if isFloat = true; !p.digits() {
			return nil, p.syntax("no digit in the exponent")
		}
	}
	text := string(p.in[start:p.pos])
	if isFloat {
		f, err := strconv.ParseFloat(text, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return nil, p.syntax("not a number")
		}
		return f, nil
	}
	if len(text) > maxDigits {
		return nil, fmt.Errorf("%w: an integer of %d digits, the limit is %d", ErrTooLarge, len(text), maxDigits)
	}
	if i, err := strconv.ParseInt(text, 10, 64); err == nil {
		return i, nil
	}
	i, ok := new(big.Int).SetString(text, 10)
	if !ok {
		return nil, p.syntax("not a number")
	}
	return i, nil
}

func (p *parser) digits() bool {
	start := p.pos
	for p.pos < len(p.in) && '0' <= p.in[p.pos] && p.in[p.pos] <= '9' {
		p.pos++
	}
	return p.pos > start
}

func (p *parser) str() (string, error) {
	p.pos++ // the quote
	start := p.pos
	for p.pos < len(p.in) && p.in[p.pos] != '"' && p.in[p.pos] != '\\' && p.in[p.pos] >= ' ' {
		p.pos++
	}
	out := p.in[start:p.pos]
	if p.pos == len(p.in) || p.in[p.pos] != '"' {
		var err error
		if out, err = p.escaped(append([]byte(nil), out...)); err != nil {
			return "", err
		}
	}
	p.pos++ // the other quote
	if len(out) > p.limits.String {
		return "", fmt.Errorf("%w: a string of %d bytes, the limit is %d", ErrTooLarge, len(out), p.limits.String)
	}
	if !utf8.Valid(out) {
		return "", p.syntax("a string that is not UTF-8 ends")
	}
	return string(out), nil
}

// escaped reads the rest of a string from its first escape on, and stops at the quote.
func (p *parser) escaped(out []byte) ([]byte, error) {
	for p.pos < len(p.in) {
		c := p.in[p.pos]
		switch {
		case c == '"':
			return out, nil
		case c < ' ':
			return nil, p.syntax("a control character in a string")
		case c != '\\':
			out = append(out, c)
			p.pos++
			continue
		}
		if p.pos++; p.pos == len(p.in) {
			break
		}
		c = p.in[p.pos]
		p.pos++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := p.hex4()
			if utf16.IsSurrogate(r) && p.accept(`\u`) {
				low, lowOK := p.hex4()
				r, ok = utf16.DecodeRune(r, low), ok && lowOK
				if r == utf8.RuneError { // what DecodeRune gives for no pair
					ok = false
				}
			} else if utf16.IsSurrogate(r) {
				ok = false
			}
			if !ok {
				return nil, p.syntax(`a bad \u escape`)
			}
			out = utf8.AppendRune(out, r)
		default:
			return nil, p.syntax("an unknown escape")
		}
	}
	return nil, p.syntax("the text ends in a string")
}

func (p *parser) hex4() (rune, bool) {
	if len(p.in)-p.pos < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.in[p.pos:p.pos+4]), 16, 16)
	p.pos += 4
	return rune(n), err == nil
}
