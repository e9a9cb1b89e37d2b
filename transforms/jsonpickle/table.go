package jsonpickle

import (
	"cmp"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// tableReader turns an AMQP field value into a raw tree.
type tableReader struct {
	order  map[string][]string
	limits Limits
	path   path
	depth  int
	nodes  int
	bytes  int
}

func fromTable(table any, order map[string][]string, limits Limits) (any, error) {
	r := &tableReader{order: order, limits: limits}
	v, _, err := r.value(reflect.ValueOf(table), "")
	if err != nil {
		return nil, &Error{r.path.String(), err}
	}
	return v, nil
}

// value returns the raw form of v and how many objects are in it that a reference
// may be numbered by. class is whose attributes v holds when it is a py/state.
// The AMQP library has named types for maps, hence reflection.
func (r *tableReader) value(v reflect.Value, class string) (any, int, error) {
	for v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if r.nodes++; r.nodes > r.limits.Nodes {
		return nil, 0, fmt.Errorf("%w: more than %d values", ErrTooLarge, r.limits.Nodes)
	}
	switch v.Kind() {
	case reflect.Invalid:
		return nil, 0, nil
	case reflect.Bool:
		return v.Bool(), 0, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), 0, nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if u := v.Uint(); u > 1<<63-1 {
			return new(big.Int).SetUint64(u), 0, nil
		}
		return int64(v.Uint()), 0, nil
	case reflect.Float32, reflect.Float64:
		return v.Float(), 0, nil
	case reflect.String:
		return v.String(), 0, r.text(v.String())
	case reflect.Slice, reflect.Map:
	default:
		return nil, 0, fmt.Errorf("%w: a %s", ErrRefused, v.Type())
	}

	if r.depth++; r.depth > r.limits.Depth {
		return nil, 0, fmt.Errorf("%w: nested deeper than %d", ErrTooLarge, r.limits.Depth)
	}
	defer func() { r.depth-- }()
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Interface:
		return r.slice(v)
	case v.Kind() == reflect.Map && v.Type().Key().Kind() == reflect.String:
		return r.mapping(v, class)
	}
	return nil, 0, fmt.Errorf("%w: a %s", ErrRefused, v.Type())
}

func (r *tableReader) text(s string) error {
	r.bytes += len(s)
	switch {
	case len(s) > r.limits.String:
		return fmt.Errorf("%w: a string of %d bytes, the limit is %d", ErrTooLarge, len(s), r.limits.String)
	case r.bytes > r.limits.Bytes:
		return fmt.Errorf("%w: more than %d bytes of text", ErrTooLarge, r.limits.Bytes)
	case !utf8.ValidString(s):
		return fmt.Errorf("%w: a string that is not UTF-8", ErrSyntax)
	}
	return nil
}

func (r *tableReader) slice(v reflect.Value) (any, int, error) {
	items, objects := make(rawArray, 0, v.Len()), 1
	for i := range v.Len() {
		r.path.push(step{index: i})
		item, n, err := r.value(v.Index(i), "")
		if err != nil {
			return nil, 0, err
		}
		r.path.pop()
		items, objects = append(items, item), objects+n
	}
	return items, objects, nil
}

func (r *tableReader) mapping(v reflect.Value, stateOf string) (any, int, error) {
	class := stateOf
	if c := v.MapIndex(reflect.ValueOf(tagObject).Convert(v.Type().Key())); c.IsValid() {
		class, _ = c.Interface().(string)
	}
	known := r.order[class]
	rank := func(key string) int {
		if i := slices.Index(known, key); i >= 0 {
			return i
		}
		return len(known)
	}
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int {
		return cmp.Or(rank(a.String())-rank(b.String()), strings.Compare(a.String(), b.String()))
	})

	o, objects := &rawObject{}, 1
	holders, unknown := 0, false // the members that hold objects
	for _, k := range keys {
		key := k.String()
		r.path.push(step{key: key, isKey: true})
		if err := r.text(key); err != nil {
			return nil, 0, err
		}
		of := ""
		if key == tagState {
			of = class
		}
		value, n, err := r.value(v.MapIndex(k), of)
		if err != nil {
			return nil, 0, err
		}
		r.path.pop()
		if n > 0 {
			holders++
			unknown = unknown || rank(key) == len(known)
		}
		o.members, objects = append(o.members, Member{key, value}), objects+n
	}
	o.unordered = unknown && holders > 1
	return o, objects, nil
}

// quote is for a name out of a message that goes into an error.
func quote(s string) string {
	if len(s) > maxPathKey {
		s = strings.ToValidUTF8(s[:maxPathKey], "") + "…"
	}
	return strconv.Quote(s)
}
