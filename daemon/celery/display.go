package celery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"girderworker/transforms/jsonpickle"
)

// Bounds of what is shown of a task's arguments. Replies and events go to every
// monitor that asks, so they are for a glance.
const (
	shownDepth  = 8
	shownItems  = 64
	shownText   = 512
	shownValues = 512

	mask = "********"
)

// Secrets are the tokens that the task carries, wherever they stand in it. What
// is shown, logged or counted must not hold them.
func (t *Task) Secrets() []string {
	found := map[string]bool{t.ClientToken: true}
	if t.Job != nil {
		for _, value := range t.Job.Headers {
			found[value] = true
		}
	}
	var walk func(key string, v any)
	walk = func(key string, v any) {
		switch v := v.(type) {
		case string:
			if isSecretKey(key) {
				found[v] = true
			}
		case jsonpickle.Tuple:
			for _, item := range v {
				walk(key, item)
			}
		case jsonpickle.Set:
			for _, item := range v {
				walk(key, item)
			}
		case *jsonpickle.List:
			for _, item := range v.Items {
				walk(key, item)
			}
		case *jsonpickle.Dict:
			for _, m := range v.Members {
				walk(m.Key, m.Value)
			}
		case *jsonpickle.Object:
			for _, m := range v.Attrs {
				walk(m.Key, m.Value)
			}
		case []any:
			for _, item := range v {
				walk(key, item)
			}
		case map[string]any:
			for k, item := range v {
				walk(k, item)
			}
		}
	}
	walk("", t.Positional)
	if t.Keyword != nil {
		walk("", t.Keyword)
	}
	for _, hook := range t.HookTables {
		walk("", hook)
	}
	for _, all := range [][]Signature{t.Callbacks, t.Errbacks, t.Chain} {
		for _, s := range all {
			walk("", s.value())
		}
	}
	delete(found, "")
	return slices.Sorted(maps.Keys(found))
}

// isSecretKey tells whether what a name stands for is never shown.
func isSecretKey(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"token", "password", "passwd", "secret", "apikey", "api_key", "authorization", "credential"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// masker takes secrets out of text.
type masker struct{ replace *strings.Replacer }

func newMasker(secrets ...string) *masker {
	var pairs []string
	for _, s := range secrets {
		if len(s) >= 8 { // shorter ones would mask half the text
			pairs = append(pairs, s, mask)
		}
	}
	return &masker{strings.NewReplacer(pairs...)}
}

// Girder's tokens are 64 letters and digits.
const tokenLen = 64

// text masks the known secrets in s, and what looks like a token of Girder. A
// SHA-256, which is as long and has no capitals, is none.
func (m *masker) text(s string) string {
	s = m.replace.Replace(s)
	if len(s) < tokenLen {
		return s
	}
	var out strings.Builder
	start := 0
	flush := func(end int) {
		if run := s[start:end]; len(run) == tokenLen && strings.ToLower(run) != run {
			out.WriteString(mask)
		} else {
			out.WriteString(run)
		}
	}
	for i := range len(s) {
		if c := s[i]; !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z') {
			flush(i)
			out.WriteByte(c)
			start = i + 1
		}
	}
	flush(len(s))
	return out.String()
}

// plainJSON is a value as bounded JSON that every monitor can read.
func plainJSON(v jsonpickle.Value, m *masker) json.RawMessage {
	s := &shower{mask: m, left: shownValues}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s.show("", v, 0)); err != nil {
		return json.RawMessage(`null`) // not to be had: show returns nothing else than plain values
	}
	return bytes.TrimSpace(out.Bytes())
}

type shower struct {
	mask *masker
	left int
}

const more = "..."

func (s *shower) show(key string, v jsonpickle.Value, depth int) any {
	if s.left--; s.left < 0 || depth > shownDepth {
		return more
	}
	switch v := v.(type) {
	case nil, bool, int64, *big.Int:
		return v
	case string:
		if isSecretKey(key) && v != "" {
			return mask
		}
		return cut(s.mask.text(v), shownText)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return pyFloat(v)
		}
		return v
	case jsonpickle.Tuple:
		return s.items(key, v, depth)
	case jsonpickle.Set:
		return s.items(key, v, depth)
	case *jsonpickle.List:
		return s.items(key, v.Items, depth)
	case *jsonpickle.Dict:
		out := map[string]any{}
		for i, m := range v.Members {
			if i == shownItems || s.left <= 0 {
				out[more] = len(v.Members) - i
				break
			}
			out[cut(s.mask.text(m.Key), shownText)] = s.show(m.Key, m.Value, depth+1)
		}
		return out
	}
	return cut(s.mask.text(Repr(v)), shownText)
}

func (s *shower) items(key string, items []jsonpickle.Value, depth int) []any {
	out := []any{}
	for i, item := range items {
		if i == shownItems || s.left <= 0 {
			return append(out, more)
		}
		out = append(out, s.show(key, item, depth+1))
	}
	return out
}

// Repr is a value as Python shows it, for people; cut where it gets long. An
// object is its class: its attributes may be secret.
func Repr(v jsonpickle.Value) string {
	r := &repr{}
	r.value(v, 0)
	return cut(r.String(), 4*maxRepr)
}

type repr struct{ strings.Builder }

func (r *repr) value(v jsonpickle.Value, depth int) {
	if r.Len() > 4*maxRepr {
		return
	}
	if depth > shownDepth {
		r.WriteString(more)
		return
	}
	switch v := v.(type) {
	case nil:
		r.WriteString("None")
	case bool:
		r.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64:
		r.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		r.WriteString(v.String())
	case float64:
		r.WriteString(pyFloat(v))
	case string:
		r.text(v)
	case jsonpickle.Bytes:
		r.WriteString(fmt.Sprintf("<%d bytes>", len(v)))
	case jsonpickle.Tuple:
		r.items("(", ")", v, depth)
	case jsonpickle.Set:
		r.items("{", "}", v, depth)
	case *jsonpickle.List:
		r.items("[", "]", v.Items, depth)
	case *jsonpickle.Dict:
		r.WriteString("{")
		for i, m := range v.Members {
			if i > 0 {
				r.WriteString(", ")
			}
			r.text(m.Key)
			r.WriteString(": ")
			if s, ok := m.Value.(string); ok && s != "" && isSecretKey(m.Key) {
				r.text(mask)
				continue
			}
			r.value(m.Value, depth+1)
		}
		r.WriteString("}")
	case *jsonpickle.Object:
		r.WriteString("<" + v.Class + ">")
	case jsonpickle.Type:
		r.WriteString("<class '" + string(v) + "'>")
	case jsonpickle.Datetime:
		r.WriteString(isoformat(v.Time))
	case jsonpickle.ObjectID:
		r.WriteString("ObjectId('" + v.String() + "')")
	case jsonpickle.UUID:
		r.WriteString("UUID('" + v.String() + "')")
	default:
		r.WriteString(more)
	}
}

func (r *repr) items(open, end string, items []jsonpickle.Value, depth int) {
	r.WriteString(open)
	for i, item := range items {
		if i > 0 {
			r.WriteString(", ")
		}
		r.value(item, depth+1)
	}
	if open == "(" && len(items) == 1 {
		r.WriteString(",")
	}
	r.WriteString(end)
}

// text writes a string in single quotes, as Python does unless there is one in it.
func (r *repr) text(s string) {
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		r.WriteString(strconv.Quote(s))
		return
	}
	inner := strconv.Quote(s)
	inner = strings.ReplaceAll(inner[1:len(inner)-1], `\"`, `"`)
	r.WriteString("'" + strings.ReplaceAll(inner, "'", `\'`) + "'")
}

func pyFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	text, err := jsonpickle.EncodePlain(f)
	if err != nil {
		return more // not to be had: a float has a form
	}
	return string(text)
}
