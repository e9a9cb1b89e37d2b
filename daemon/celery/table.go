package celery

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"girderworker/transforms/jsonpickle"
)

// Bounds of what one header may hold. AMQP itself holds all headers of a message
// to one frame, usually 128 KiB.
const (
	maxTableDepth  = 100
	maxTableValues = 100_000

	maxID   = 255
	maxName = 512
	maxRepr = 1024 // what Celery itself cuts argsrepr to
	maxURL  = 2048
)

// normal returns v with the library's named types gone: nil, bool, int64, float64,
// string, time.Time, []any, map[string]any.
func normal(v any) (any, error) {
	left := maxTableValues
	return normalValue(reflect.ValueOf(v), 0, &left)
}

func normalValue(v reflect.Value, depth int, left *int) (any, error) {
	for v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if depth > maxTableDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxTableDepth)
	}
	if *left--; *left < 0 {
		return nil, fmt.Errorf("more than %d values", maxTableValues)
	}
	switch v.Kind() {
	case reflect.Invalid:
		return nil, nil
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if v.Uint() > math.MaxInt64 {
			return nil, fmt.Errorf("the integer %d is too large", v.Uint())
		}
		return int64(v.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return v.Float(), nil
	case reflect.String:
		return normalText(v.String())
	}
	if t, ok := v.Interface().(time.Time); ok {
		return t, nil
	}
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		return normalText(string(v.Bytes()))
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Interface:
		items := make([]any, 0, v.Len())
		for i := range v.Len() {
			item, err := normalValue(v.Index(i), depth+1, left)
			if err != nil {
				return nil, fmt.Errorf("[%d]: %w", i, err)
			}
			items = append(items, item)
		}
		return items, nil
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		m := make(map[string]any, v.Len())
		for it := v.MapRange(); it.Next(); {
			key, err := normalText(it.Key().String())
			if err != nil {
				return nil, fmt.Errorf("a key: %w", err)
			}
			if m[key.(string)], err = normalValue(it.Value(), depth+1, left); err != nil {
				return nil, fmt.Errorf("%s: %w", quote(key.(string)), err)
			}
		}
		return m, nil
	}
	return nil, fmt.Errorf("a value of type %s, which means nothing here", v.Type())
}

func normalText(s string) (any, error) {
	if !utf8.ValidString(s) {
		return nil, errors.New("text that is not UTF-8")
	}
	return s, nil
}

// plainOf is a decoded value in the same few types. What has no such form stays
// as it is, and is a wrong type wherever it is looked at.
func plainOf(v jsonpickle.Value) any {
	switch v := v.(type) {
	case jsonpickle.Tuple:
		return plainItems(v)
	case *jsonpickle.List:
		return plainItems(v.Items)
	case *jsonpickle.Dict:
		m := make(map[string]any, len(v.Members))
		for _, member := range v.Members {
			m[member.Key] = plainOf(member.Value)
		}
		return m
	case jsonpickle.Datetime:
		return v.Time
	}
	return v
}

func plainItems(items []jsonpickle.Value) []any {
	out := make([]any, 0, len(items))
	for _, item := range items {
		out = append(out, plainOf(item))
	}
	return out
}

// fields reads named values of one table and collects what is wrong with them.
type fields struct {
	what string // "header", for errors
	get  func(name string) (any, error)
	errs []error
}

func headerFields(headers map[string]any) *fields {
	return &fields{what: "header", get: func(name string) (any, error) { return normal(headers[name]) }}
}

func mapFields(what string, m map[string]any) *fields {
	return &fields{what: what, get: func(name string) (any, error) { return m[name], nil }}
}

func (f *fields) err() error { return errors.Join(f.errs...) }

func (f *fields) wrong(name, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("%s %s: "+format, append([]any{f.what, name}, args...)...))
}

// value is a field's value; nil when it is absent, null or unreadable.
func (f *fields) value(name string) any {
	v, err := f.get(name)
	if err != nil {
		f.wrong(name, "%w", err)
		return nil
	}
	return v
}

func (f *fields) mismatch(name, want string, v any) {
	f.wrong(name, "%s, not %s", kindOf(v), want)
}

// text reads a string of at most limit bytes without control characters.
func (f *fields) text(name string, limit int) string {
	v := f.value(name)
	s, ok := v.(string)
	switch {
	case v == nil:
	case !ok:
		f.mismatch(name, "text", v)
	case len(s) > limit:
		f.wrong(name, "%d bytes, at most %d are allowed", len(s), limit)
	case strings.ContainsFunc(s, unicode.IsControl):
		f.wrong(name, "a control character in it")
	default:
		return s
	}
	return ""
}

// shown reads a string that is only for display: it is cut, not refused.
func (f *fields) shown(name string) string {
	v := f.value(name)
	s, ok := v.(string)
	if v != nil && !ok {
		f.mismatch(name, "text", v)
	}
	return cut(s, maxRepr)
}

func (f *fields) boolean(name string, otherwise bool) bool {
	v := f.value(name)
	b, ok := v.(bool)
	switch {
	case v == nil:
		return otherwise
	case !ok:
		f.mismatch(name, "true or false", v)
		return otherwise
	}
	return b
}

// integer reads a whole number within lo and hi; ok is false when there is none.
func (f *fields) integer(name string, lo, hi int64) (n int64, ok bool) {
	v := f.value(name)
	n, ok = v.(int64)
	switch {
	case v == nil:
		return 0, false
	case !ok:
		f.mismatch(name, "a whole number", v)
		return 0, false
	case n < lo || n > hi:
		f.wrong(name, "%d is not within %d and %d", n, lo, hi)
		return 0, false
	}
	return n, true
}

func (f *fields) list(name string) []any {
	v := f.value(name)
	list, ok := v.([]any)
	if v != nil && !ok {
		f.mismatch(name, "a list", v)
	}
	return list
}

func (f *fields) table(name string) map[string]any {
	v := f.value(name)
	m, ok := v.(map[string]any)
	if v != nil && !ok {
		f.mismatch(name, "a table", v)
	}
	return m
}

// Times that the queue can keep.
const minYear, maxYear = 1971, 2261

// when reads a time: ISO 8601, as Python's isoformat writes it. Without an offset it is UTC.
func (f *fields) when(name string) time.Time {
	var t time.Time
	switch v := f.value(name).(type) {
	case nil:
		return time.Time{}
	case time.Time:
		t = v
	case string:
		var ok bool
		if t, ok = parseTime(v); !ok {
			f.wrong(name, "%s is no ISO 8601 time", quote(v))
			return time.Time{}
		}
	default:
		f.mismatch(name, "an ISO 8601 time", v)
		return time.Time{}
	}
	if y := t.UTC().Year(); y < minYear || y > maxYear {
		f.wrong(name, "the year %d is not within %d and %d", y, minYear, maxYear)
		return time.Time{}
	}
	return t.UTC()
}

var timeLayouts = [...]string{
	"2006-01-02T15:04:05.999999999Z07:00",
	"2006-01-02T15:04:05.999999999",
	"2006-01-02T15:04Z07:00",
	"2006-01-02T15:04",
	"2006-01-02",
}

func parseTime(s string) (time.Time, bool) {
	if len(s) > 10 && s[10] == ' ' {
		s = s[:10] + "T" + s[11:]
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// maxLimit is beyond any time limit that means one: ten years.
const maxLimit = 10 * 366 * 24 * time.Hour

// timelimit reads [hard, soft] in seconds; null and 0 are none.
func (f *fields) timelimit(name string) (hard, soft time.Duration) {
	list := f.list(name)
	if len(list) == 0 {
		return 0, 0
	}
	if len(list) != 2 {
		f.wrong(name, "%d values, not the hard and the soft limit", len(list))
		return 0, 0
	}
	var limits [2]time.Duration
	for i, v := range list {
		var s float64
		switch v := v.(type) {
		case nil:
			continue
		case int64:
			s = float64(v)
		case float64:
			s = v
		default:
			f.wrong(name, "[%d]: %s, not seconds", i, kindOf(v))
			continue
		}
		if !(s >= 0 && s <= maxLimit.Seconds()) {
			f.wrong(name, "[%d]: %v seconds make no sense", i, s)
			continue
		}
		limits[i] = time.Duration(s * float64(time.Second))
	}
	return limits[0], limits[1]
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case int64:
		return "the number " + strconv.FormatInt(v, 10)
	case float64:
		return fmt.Sprintf("the number %v", v)
	case string:
		return "text"
	case time.Time:
		return "a time"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return fmt.Sprintf("a %T", v)
}

// quote is for foreign text in an error.
func quote(s string) string { return strconv.Quote(cut(s, 80)) }

// cut is s in at most limit bytes, cut between characters.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	limit -= len("…")
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "…"
}

// tableJSON writes a normal value as JSON; keys are sorted.
func tableJSON(v any) (json.RawMessage, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("a value that JSON has no form for: %w", err)
	}
	return data, nil
}
