package celery

import (
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// dict is a Python dict of keys and values in turn, in this order.
func dict(pairs ...any) *jsonpickle.Dict {
	d := &jsonpickle.Dict{}
	for i := 0; i+1 < len(pairs); i += 2 {
		d.Members = append(d.Members, jsonpickle.Member{Key: pairs[i].(string), Value: valueOf(pairs[i+1])})
	}
	return d
}

// valueOf is a Go value as a Python one: the plain types of this package, and raw
// JSON. Keys of maps are sorted.
func valueOf(v any) jsonpickle.Value {
	switch v := v.(type) {
	case int:
		return int64(v)
	case int32:
		return int64(v)
	case uint64:
		return new(big.Int).SetUint64(v)
	case time.Time:
		if v.IsZero() {
			return nil
		}
		return isoformat(v.UTC())
	case json.RawMessage:
		if len(v) == 0 {
			return nil
		}
		value, err := jsonpickle.Decode(v, jsonpickle.Options{})
		if err != nil {
			return more // what is only shown, and does not read, is not shown
		}
		return value
	case []string:
		list := &jsonpickle.List{Items: []jsonpickle.Value{}}
		for _, s := range v {
			list.Items = append(list.Items, s)
		}
		return list
	case []any:
		list := &jsonpickle.List{Items: []jsonpickle.Value{}}
		for _, item := range v {
			list.Items = append(list.Items, valueOf(item))
		}
		return list
	case map[string]any:
		d := &jsonpickle.Dict{}
		for _, key := range slices.Sorted(maps.Keys(v)) {
			d.Members = append(d.Members, jsonpickle.Member{Key: key, Value: valueOf(v[key])})
		}
		return d
	}
	return v
}

// clean is v with text made UTF-8.
func clean(v jsonpickle.Value) jsonpickle.Value {
	switch v := v.(type) {
	case string:
		return strings.ToValidUTF8(v, "\uFFFD")
	case *jsonpickle.List:
		items := make([]jsonpickle.Value, len(v.Items))
		for i, item := range v.Items {
			items[i] = clean(item)
		}
		return &jsonpickle.List{Items: items}
	case jsonpickle.Tuple:
		items := make([]jsonpickle.Value, len(v))
		for i, item := range v {
			items[i] = clean(item)
		}
		return &jsonpickle.List{Items: items}
	case *jsonpickle.Dict:
		d := &jsonpickle.Dict{Members: make([]jsonpickle.Member, len(v.Members))}
		for i, m := range v.Members {
			d.Members[i] = jsonpickle.Member{Key: strings.ToValidUTF8(m.Key, "\uFFFD"), Value: clean(m.Value)}
		}
		return d
	}
	return v
}
