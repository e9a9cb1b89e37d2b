package jsonpickle

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"time"
	"unicode/utf8"
)

// Encode writes a value as jsonpickle does (numbering of 2.0 and later): lists,
// dicts and objects that occur twice, as the same pointer, become references. What
// Encode wrote, [Decode] reads to an equal value.
//
// A [Tuple] is written as py/tuple; [EncodePlain] does without the tags.
func Encode(v Value) ([]byte, error) {
	e := &encoder{numbers: map[any]int{}}
	if err := e.value(v, 0); err != nil {
		return nil, err
	}
	return e.out, nil
}

// EncodePlain writes a value as plain JSON, which has no tag for anybody to know:
// tuples become lists, what occurs twice is written twice. ErrRefused says that
// there is something that JSON has no form for; that value needs [Encode].
func EncodePlain(v Value) ([]byte, error) {
	e := &encoder{}
	if err := e.value(v, 0); err != nil {
		return nil, err
	}
	return e.out, nil
}

// maxEncodeDepth is beyond what any decoding gives, and ends a value that contains itself.
const maxEncodeDepth = 1000

type encoder struct {
	out     []byte
	numbers map[any]int // of what may be referred to, by pointer; nil: plain JSON
	next    int
}

func (e *encoder) plain() bool { return e.numbers == nil }

// enter gives v its number, or writes the reference when it has one.
func (e *encoder) enter(v any) (known bool) {
	if e.plain() {
		return false
	}
	if n, ok := e.numbers[v]; ok {
		e.out = strconv.AppendInt(append(e.out, `{"py/id": `...), int64(n), 10)
		e.out = append(e.out, '}')
		return true
	}
	e.numbers[v] = e.next
	e.next++
	return false
}

func (e *encoder) value(v Value, depth int) error {
	if depth > maxEncodeDepth {
		return fmt.Errorf("cannot encode a value: %w: nested deeper than %d", ErrTooLarge, maxEncodeDepth)
	}
	switch v := v.(type) {
	case nil:
		e.out = append(e.out, "null"...)
	case bool:
		e.out = strconv.AppendBool(e.out, v)
	case string:
		return e.text(v)
	case int64:
		e.out = strconv.AppendInt(e.out, v, 10)
	case *big.Int:
		e.out = v.Append(e.out, 10)
	case float64:
		e.float(v)
	case *List:
		if e.enter(v) {
			return nil
		}
		return e.items(v.Items, depth)
	case *Dict:
		if e.enter(v) {
			return nil
		}
		return e.members("", v.Members, depth)
	case Tuple:
		if e.plain() {
			return e.items(v, depth)
		}
		return e.wrapped(tagTuple, func() error { return e.items(v, depth) })
	default:
		if e.plain() {
			return fmt.Errorf("cannot write a value as plain JSON: %w: a %T", ErrRefused, v)
		}
		return e.tagged(v, depth)
	}
	return nil
}

// tagged writes what only jsonpickle has a form for.
func (e *encoder) tagged(v Value, depth int) error {
	switch v := v.(type) {
	case *Object:
		if e.enter(v) {
			return nil
		}
		return e.members(v.Class, v.Attrs, depth)
	case Set:
		return e.wrapped(tagSet, func() error { return e.items(v, depth) })
	case Type:
		return e.wrapped(tagType, func() error { return e.text(string(v)) })
	case Bytes:
		e.bytes(v)
	case ObjectID:
		e.next++
		e.out = append(e.out, `{"py/object": "`+classObjectID+`", "py/state": `...)
		e.bytes(v[:])
		e.out = append(e.out, '}')
	case UUID:
		e.next++
		e.out = fmt.Appendf(e.out, `{"py/object": "%s", "hex": "%x"}`, classUUID, v[:])
	case Datetime:
		return e.datetime(v)
	case Unresolved:
		return fmt.Errorf("cannot encode a value: %w: reference %d was never resolved", ErrReference, v.ID)
	default:
		return fmt.Errorf("cannot encode a value: %w: a %T", ErrRefused, v)
	}
	return nil
}

func (e *encoder) wrapped(tag string, write func() error) error {
	e.out = append(e.out, `{"`+tag+`": `...)
	if err := write(); err != nil {
		return err
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) items(items []Value, depth int) error {
	e.out = append(e.out, '[')
	for i, item := range items {
		if i > 0 {
			e.out = append(e.out, ", "...)
		}
		if err := e.value(item, depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, ']')
	return nil
}

func (e *encoder) members(class string, members []Member, depth int) error {
	e.out = append(e.out, '{')
	if class != "" {
		e.out = append(e.out, `"`+tagObject+`": `...)
		if err := e.text(class); err != nil {
			return err
		}
	}
	for i, m := range members {
		if i > 0 || class != "" {
			e.out = append(e.out, ", "...)
		}
		if err := e.text(m.Key); err != nil {
			return err
		}
		e.out = append(e.out, ": "...)
		if err := e.value(m.Value, depth+1); err != nil {
			return err
		}
	}
	e.out = append(e.out, '}')
	return nil
}

func (e *encoder) bytes(b []byte) {
	e.out = append(e.out, `{"`+tagB64+`": "`...)
	e.out = base64.StdEncoding.AppendEncode(e.out, b)
	e.out = append(e.out, `"}`...)
}

// float writes a float so that Python reads a float: with a point or an exponent.
func (e *encoder) float(f float64) {
	switch {
	case math.IsNaN(f):
		e.out = append(e.out, "NaN"...)
		return
	case math.IsInf(f, 0):
		if f < 0 {
			e.out = append(e.out, '-')
		}
		e.out = append(e.out, "Infinity"...)
		return
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		format = 'e' // where Python's repr changes, too
	}
	start := len(e.out)
	e.out = strconv.AppendFloat(e.out, f, format, -1, 64)
	if !bytes.ContainsAny(e.out[start:], ".e") {
		e.out = append(e.out, ".0"...)
	}
}

// shortEscapes are the control characters that JSON has a letter for.
var shortEscapes = [' ']byte{'\b': 'b', '\t': 't', '\n': 'n', '\f': 'f', '\r': 'r'}

var errNotUTF8 = errors.New("a string that is not UTF-8")

func (e *encoder) text(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("cannot encode a value: %w: %w", ErrRefused, errNotUTF8)
	}
	e.out = append(e.out, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			e.out = append(e.out, '\\', c)
		case c < ' ' && shortEscapes[c] != 0:
			e.out = append(e.out, '\\', shortEscapes[c])
		case c < ' ':
			e.out = fmt.Appendf(e.out, `\u%04x`, c)
		default:
			e.out = append(e.out, c)
		}
	}
	e.out = append(e.out, '"')
	return nil
}

// datetime writes what [decoder.datetime] reads. An aware one carries a time zone
// and the timedelta in it, which have numbers of their own.
func (e *encoder) datetime(v Datetime) error {
	t := v.Time
	if v.Naive {
		t = t.UTC()
	}
	if t.Year() < 1 || t.Year() > 9999 {
		return fmt.Errorf("cannot encode a value: %w: a datetime in the year %d", ErrRefused, t.Year())
	}
	_, east := t.Zone()
	year, micro := t.Year(), t.Nanosecond()/int(time.Microsecond)
	state := []byte{
		byte(year >> 8), byte(year), byte(t.Month()), byte(t.Day()), byte(t.Hour()), byte(t.Minute()), byte(t.Second()),
		byte(micro >> 16), byte(micro >> 8), byte(micro),
	}
	e.next++
	e.out = fmt.Appendf(e.out, `{"py/object": "%s", "__reduce__": [{"py/type": "%[1]s"}, ["%s"`,
		classDatetime, base64.StdEncoding.EncodeToString(state))
	if !v.Naive {
		e.next += 2
		days := 0
		if east < 0 {
			days, east = -1, east+24*60*60
		}
		e.out = fmt.Appendf(e.out, `, {"py/reduce": [{"py/type": "%s"}, {"py/tuple": [{"py/reduce": [{"py/type": "%s"}, {"py/tuple": [%d, %d, 0]}]}]}]}`,
			classTimezone, classTimedelta, days, east)
	}
	e.out = append(e.out, "]]}"...)
	return nil
}
