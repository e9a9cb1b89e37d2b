package transforms

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"girderworker/transforms/jsonpickle"
)

// pyStr is Python's str() of a value. What a transform in it stands for is given
// by object; repr tells it that Python would show the repr() there.
func pyStr(v jsonpickle.Value, object func(o *jsonpickle.Object, repr bool) (string, error)) (string, error) {
	p := pyPrinter{object: object}
	if s, ok := v.(string); ok {
		return s, nil
	}
	if d, ok := v.(jsonpickle.Datetime); ok {
		return pyDatetime(d), nil
	}
	switch v := v.(type) {
	case jsonpickle.ObjectID:
		return v.String(), nil
	case jsonpickle.UUID:
		return v.String(), nil
	case *jsonpickle.Object:
		return object(v, false)
	}
	if err := p.repr(v); err != nil {
		return "", err
	}
	return p.out.String(), nil
}

type pyPrinter struct {
	out    strings.Builder
	object func(o *jsonpickle.Object, repr bool) (string, error)
}

// maxPrinted bounds what is made of one nested argument; the kernel takes no more.
const maxPrinted = MaxArgument

func (p *pyPrinter) repr(v jsonpickle.Value) error {
	if p.out.Len() > maxPrinted {
		return fmt.Errorf("as text it has more than %d bytes", maxPrinted)
	}
	switch v := v.(type) {
	case nil:
		p.out.WriteString("None")
	case bool:
		if v {
			p.out.WriteString("True")
		} else {
			p.out.WriteString("False")
		}
	case int64:
		p.out.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		p.out.WriteString(v.String())
	case float64:
		p.out.WriteString(pyFloat(v))
	case string:
		p.out.WriteString(pyQuote(v))
	case jsonpickle.Bytes:
		p.out.WriteString(pyBytes(v))
	case jsonpickle.Type:
		p.out.WriteString("<class '" + string(v) + "'>")
	case jsonpickle.Datetime:
		p.out.WriteString(pyDatetimeRepr(v))
	case jsonpickle.ObjectID:
		p.out.WriteString("ObjectId('" + v.String() + "')")
	case jsonpickle.UUID:
		p.out.WriteString("UUID('" + v.String() + "')")
	case *jsonpickle.List:
		return p.items("[", v.Items, "]")
	case jsonpickle.Tuple:
		if len(v) == 1 {
			return p.items("(", v, ",)")
		}
		return p.items("(", v, ")")
	case jsonpickle.Set:
		if len(v) == 0 {
			p.out.WriteString("set()")
			return nil
		}
		return p.items("{", v, "}")
	case *jsonpickle.Dict:
		p.out.WriteByte('{')
		for i, m := range v.Members {
			if i > 0 {
				p.out.WriteString(", ")
			}
			p.out.WriteString(pyQuote(m.Key) + ": ")
			if err := p.repr(m.Value); err != nil {
				return err
			}
		}
		p.out.WriteByte('}')
	case *jsonpickle.Object:
		s, err := p.object(v, true)
		p.out.WriteString(pyQuote(s))
		return err
	default:
		return fmt.Errorf("a %T has no text", v)
	}
	return nil
}

func (p *pyPrinter) items(open string, items []jsonpickle.Value, end string) error {
	p.out.WriteString(open)
	for i, item := range items {
		if i > 0 {
			p.out.WriteString(", ")
		}
		if err := p.repr(item); err != nil {
			return err
		}
	}
	p.out.WriteString(end)
	return nil
}

// pyFloat is repr() of a float: the shortest digits that read back the same, with
// an exponent below 1e-4 and from 1e16 on.
func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyQuote is repr() of a str.
func pyQuote(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	out := []byte{quote}
	for _, r := range s {
		switch {
		case r == '\\' || r == rune(quote):
			out = append(out, '\\', byte(r))
		case r == '\n':
			out = append(out, `\n`...)
		case r == '\r':
			out = append(out, `\r`...)
		case r == '\t':
			out = append(out, `\t`...)
		case unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r < 0x100:
			out = fmt.Appendf(out, `\x%02x`, r)
		case r < 0x10000:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			out = fmt.Appendf(out, `\U%08x`, r)
		}
	}
	return string(append(out, quote))
}

// pyBytes is repr() of bytes.
func pyBytes(b []byte) string {
	quote := byte('\'')
	if strings.Contains(string(b), "'") && !strings.Contains(string(b), `"`) {
		quote = '"'
	}
	out := []byte{'b', quote}
	for _, c := range b {
		switch {
		case c == '\\' || c == quote:
			out = append(out, '\\', c)
		case c == '\n':
			out = append(out, `\n`...)
		case c == '\r':
			out = append(out, `\r`...)
		case c == '\t':
			out = append(out, `\t`...)
		case c >= ' ' && c < 0x7f:
			out = append(out, c)
		default:
			out = append(out, '\\', 'x')
			out = hex.AppendEncode(out, []byte{c})
		}
	}
	return string(append(out, quote))
}

// pyDatetime is str() of a datetime: isoformat with a space.
func pyDatetime(d jsonpickle.Datetime) string {
	layout := "2006-01-02 15:04:05"
	if d.Nanosecond() != 0 {
		layout += ".000000"
	}
	if !d.Naive {
		layout += "-07:00"
	}
	return d.Format(layout)
}

func pyDatetimeRepr(d jsonpickle.Datetime) string {
	s := fmt.Sprintf("datetime.datetime(%d, %d, %d, %d, %d", d.Year(), d.Month(), d.Day(), d.Hour(), d.Minute())
	micro := d.Nanosecond() / int(time.Microsecond)
	if d.Second() != 0 || micro != 0 {
		s += fmt.Sprintf(", %d", d.Second())
	}
	if micro != 0 {
		s += fmt.Sprintf(", %d", micro)
	}
	if !d.Naive {
		_, east := d.Zone()
		zone := "datetime.timezone.utc"
		if east != 0 {
			days := 0
			if east < 0 {
				days, east = -1, east+24*60*60
			}
			delta := fmt.Sprintf("seconds=%d", east)
			if days != 0 {
				delta = fmt.Sprintf("days=%d, %s", days, delta)
			}
			zone = "datetime.timezone(datetime.timedelta(" + delta + "))"
		}
		s += ", tzinfo=" + zone
	}
	return s + ")"
}
