package transforms

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep arrays and objects may nest. No document we read
// needs more than six levels.
const maxDepth = 16

// A DocumentError says what is wrong with a document and where.
type DocumentError struct {
	// Field is the path of the part to blame, for example "binds[2].source".
	// It is empty when the document as a whole is.
	Field string
	// Problem is one line for a person, with the value that is wrong.
	Problem string
	// TooLarge is set when a limit of size is what the document broke.
	TooLarge bool
}

// Error is the field and the problem.
func (e *DocumentError) Error() string {
	if e.Field == "" {
		return e.Problem
	}
	return e.Field + ": " + e.Problem
}

func problem(format string, args ...any) *DocumentError {
	return &DocumentError{Problem: fmt.Sprintf(format, args...)}
}

func inField(field string, err error) error {
	e, ok := err.(*DocumentError)
	if !ok {
		e = &DocumentError{Problem: err.Error()}
	}
	switch {
	case e.Field == "":
		e.Field = field
	case e.Field[0] == '[':
		e.Field = field + e.Field
	default:
		e.Field = field + "." + e.Field
	}
	return e
}

// A reader takes one JSON text apart, strictly: no key twice, no invalid UTF-8,
// nothing after the value. encoding/json cannot be told to refuse a second key
// or to match names exactly, and this is on the path of every submission.
type reader struct {
	data  []byte
	pos   int
	depth int
}

// kind is the first byte of a value, '0' for every number, 0 at the end.
func (r *reader) kind() byte {
	r.space()
	if r.pos == len(r.data) {
		return 0
	}
	c := r.data[r.pos]
	if c == '-' || c >= '0' && c <= '9' {
		return '0'
	}
	return c
}

func (r *reader) space() {
	for r.pos < len(r.data) {
		switch r.data[r.pos] {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return
		}
	}
}

// end refuses anything but white space after the value.
func (r *reader) end() error {
	if r.kind() != 0 {
		return problem("unexpected text after the document, at byte %d", r.pos)
	}
	return nil
}

// mismatch names what stands where something else was wanted.
func (r *reader) mismatch(want string) error {
	var got string
	switch r.kind() {
	case 0:
		return problem("the document ends where %s was expected", want)
	case '{':
		got = "an object"
	case '[':
		got = "a list"
	case '"':
		got = "a string"
	case '0':
		got = "a number"
	case 't', 'f':
		got = "true or false"
	case 'n':
		got = "null"
	default:
		return problem("not JSON at byte %d: %s was expected", r.pos, want)
	}
	return problem("%s is needed here, not %s", want, got)
}

func (r *reader) enter(open byte, what string) error {
	if r.kind() != open {
		return r.mismatch(what)
	}
	if r.depth++; r.depth > maxDepth {
		return problem("nested deeper than %d levels", maxDepth)
	}
	r.pos++
	return nil
}

// next steps to the next member of an array or object and tells whether there
// is one.
func (r *reader) next(closing byte, first bool) (bool, error) {
	switch c := r.kind(); {
	case c == closing:
		r.pos++
		r.depth--
		return false, nil
	case first:
		return true, nil
	case c == ',':
		r.pos++
		return true, nil
	case c == 0:
		return false, problem("the document ends too early")
	default:
		return false, problem("not JSON at byte %d: ',' or '%c' was expected", r.pos, closing)
	}
}

// object calls member with each key; member reads the value.
func (r *reader) object(member func(key string) error) error {
	if err := r.enter('{', "an object"); err != nil {
		return err
	}
	var few [24]string // as many keys as are cheaper to compare than to hash
	seen := few[:0]
	var many map[string]bool
	for first := true; ; first = false {
		more, err := r.next('}', first)
		if err != nil || !more {
			return err
		}
		if r.kind() != '"' {
			return r.mismatch("a key")
		}
		key, err := r.text()
		if err != nil {
			return err
		}
		twice := many[key]
		for _, k := range seen {
			twice = twice || k == key
		}
		switch {
		case twice:
			return inField(key, problem("given twice"))
		case many == nil && len(seen) < cap(seen):
			seen = append(seen, key)
		case many == nil:
			many = make(map[string]bool)
			fallthrough
		default:
			many[key] = true
		}
		if r.kind() != ':' {
			return r.mismatch("':'")
		}
		r.pos++
		if err := member(key); err != nil {
			return inField(key, err)
		}
	}
}

// array calls element with each index, at most limit times; element reads the value.
func (r *reader) array(limit int, element func() error) error {
	if err := r.enter('[', "a list"); err != nil {
		return err
	}
	for i := 0; ; i++ {
		more, err := r.next(']', i == 0)
		if err != nil || !more {
			return err
		}
		if i == limit {
			return problem("more than %d entries", limit)
		}
		if err := element(); err != nil {
			return inField("["+strconv.Itoa(i)+"]", err)
		}
	}
}

func (r *reader) boolean() (bool, error) {
	if r.word("true") {
		return true, nil
	}
	if r.word("false") {
		return false, nil
	}
	return false, r.mismatch("true or false")
}

func (r *reader) word(w string) bool {
	r.space()
	if !bytes.HasPrefix(r.data[r.pos:], []byte(w)) {
		return false
	}
	r.pos += len(w)
	return true
}

// number returns the literal, checked against JSON's grammar.
func (r *reader) number() (string, error) {
	if r.kind() != '0' {
		return "", r.mismatch("a number")
	}
	start := r.pos
	digits := func() bool {
		from := r.pos
		for r.pos < len(r.data) && r.data[r.pos] >= '0' && r.data[r.pos] <= '9' {
			r.pos++
		}
		return r.pos > from
	}
	r.skip('-')
	zero := r.pos < len(r.data) && r.data[r.pos] == '0'
	from := r.pos
	ok := digits() && (!zero || r.pos == from+1)
	if ok && r.skip('.') {
		ok = digits()
	}
	if ok && (r.skip('e') || r.skip('E')) {
		_ = r.skip('+') || r.skip('-')
		ok = digits()
	}
	if !ok {
		return "", problem("not a JSON number at byte %d", start)
	}
	if r.pos-start > 64 {
		return "", problem("a number of more than 64 characters")
	}
	return string(r.data[start:r.pos]), nil
}

func (r *reader) skip(c byte) bool {
	if r.pos < len(r.data) && r.data[r.pos] == c {
		r.pos++
		return true
	}
	return false
}

// integer reads a whole number written without fraction and exponent.
func (r *reader) integer() (int64, error) {
	lit, err := r.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(lit, 10, 64)
	if err != nil {
		return 0, problem("%s is not a whole number that fits", lit)
	}
	return n, nil
}

func (r *reader) float() (float64, error) {
	lit, err := r.number()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(lit, 64)
	if err != nil {
		return 0, problem("%s is out of range", lit)
	}
	return f, nil
}

// text reads a string. A NUL is refused: no name, path, argument or variable
// can hold one.
func (r *reader) text() (string, error) {
	if r.kind() != '"' {
		return "", r.mismatch("a string")
	}
	r.pos++
	start := r.pos
	for r.pos < len(r.data) {
		switch c := r.data[r.pos]; {
		case c == '"':
			s := r.data[start:r.pos]
			r.pos++
			if !utf8.Valid(s) {
				return "", problem("not valid UTF-8")
			}
			return string(s), nil
		case c == '\\':
			return r.escaped(start)
		case c < ' ':
			return "", problem("a raw control character in a string, at byte %d", r.pos)
		}
		r.pos++
	}
	return "", problem("the document ends within a string")
}

// escaped goes on with a string that has an escape at r.pos.
func (r *reader) escaped(start int) (string, error) {
	out := append(make([]byte, 0, 2*(r.pos-start)+16), r.data[start:r.pos]...)
	for r.pos < len(r.data) {
		c := r.data[r.pos]
		switch {
		case c == '"':
			r.pos++
			if !utf8.Valid(out) {
				return "", problem("not valid UTF-8")
			}
			return string(out), nil
		case c < ' ':
			return "", problem("a raw control character in a string, at byte %d", r.pos)
		case c != '\\':
			out = append(out, c)
			r.pos++
			continue
		}
		r.pos++
		if r.pos == len(r.data) {
			break
		}
		c = r.data[r.pos]
		r.pos++
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
			u, err := r.unicode()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, u)
		default:
			return "", problem("unknown escape \\%c in a string", c)
		}
	}
	return "", problem("the document ends within a string")
}

// unicode reads what follows \u, with the second half of a surrogate pair.
func (r *reader) unicode() (rune, error) {
	hex := func() (rune, bool) {
		if r.pos+4 > len(r.data) {
			return 0, false
		}
		n, err := strconv.ParseUint(string(r.data[r.pos:r.pos+4]), 16, 16)
		r.pos += 4
		return rune(n), err == nil
	}
	u, ok := hex()
	if ok && utf16.IsSurrogate(u) {
		ok = false
		if r.skip('\\') && r.skip('u') {
			var low rune
			if low, ok = hex(); ok {
				u = utf16.DecodeRune(u, low)
				ok = u != utf8.RuneError
			}
		}
	}
	switch {
	case !ok:
		return 0, problem("a bad \\u escape in a string")
	case u == 0:
		return 0, problem("a NUL character in a string")
	}
	return u, nil
}
