package celery

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"time"
)

// original is a task message as JSON: what EncodeOriginal writes.
type original struct {
	Queue      string          `json:"queue"`
	Properties Properties      `json:"properties"`
	Headers    json.RawMessage `json:"headers"`
	Body       []byte          `json:"body"`
}

// EncodeOriginal keeps a task as it came, to be given back to its queue. What JSON
// does not tell apart of the headers (1 and 1.0, text and bytes, times) is a pair
// {"\u0000KIND": TEXT}: AMQP's table keys hold no NUL.
func EncodeOriginal(d Delivery) (json.RawMessage, error) {
	if d.Omitted > 0 {
		return nil, errors.New("its body was not read")
	}
	headers, err := kept(map[string]any(d.Headers))
	if err != nil {
		return nil, fmt.Errorf("cannot keep the headers: %w", err)
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return nil, fmt.Errorf("cannot keep the headers: %w", err)
	}
	return json.Marshal(original{d.Queue, d.Properties, text, d.Body})
}

// DecodeOriginal is the message to publish, to the queue that it came from.
func DecodeOriginal(text json.RawMessage) (Message, error) {
	var o original
	if err := json.Unmarshal(text, &o); err != nil {
		return Message{}, errors.New("cannot read the task as it came") // the cause may quote a secret
	}
	decoder := json.NewDecoder(bytes.NewReader(o.Headers))
	decoder.UseNumber()
	var headers any
	if err := decoder.Decode(&headers); err != nil {
		return Message{}, errors.New("cannot read the headers of the task as it came")
	}
	restored, err := restore(headers)
	table, ok := restored.(map[string]any)
	if err != nil || !ok {
		return Message{}, errors.New("cannot read the headers of the task as it came")
	}
	return Message{RoutingKey: o.Queue, Properties: o.Properties, Headers: table, Body: o.Body}, nil
}

const (
	keptBytes, keptFloat, keptTime = "\x00bytes", "\x00float", "\x00time"
)

// kept is a header's value as JSON can hold it.
func kept(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string:
		return v, nil
	case []byte:
		return map[string]any{keptBytes: base64.StdEncoding.EncodeToString(v)}, nil
	case time.Time:
		return map[string]any{keptTime: v.UTC().Format(time.RFC3339)}, nil // AMQP's have seconds
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return int64(r.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return map[string]any{keptFloat: fmt.Sprint(r.Float())}, nil
	case reflect.Slice:
		all := make([]any, r.Len())
		for i := range all {
			var err error
			if all[i], err = kept(r.Index(i).Interface()); err != nil {
				return nil, err
			}
		}
		return all, nil
	case reflect.Map:
		if r.Type().Key().Kind() != reflect.String {
			break
		}
		table := map[string]any{}
		for _, key := range r.MapKeys() {
			var err error
			if table[key.String()], err = kept(r.MapIndex(key).Interface()); err != nil {
				return nil, err
			}
		}
		return table, nil
	}
	return nil, fmt.Errorf("a value of type %T", v)
}

// restore undoes kept.
func restore(v any) (any, error) {
	switch v := v.(type) {
	case json.Number:
		return v.Int64()
	case []any:
		for i := range v {
			var err error
			if v[i], err = restore(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		if len(v) == 1 {
			for kind, text := range v {
				if text, ok := text.(string); ok {
					switch kind {
					case keptBytes:
						return base64.StdEncoding.DecodeString(text)
					case keptTime:
						return time.Parse(time.RFC3339, text)
					case keptFloat:
						var f float64
						_, err := fmt.Sscan(text, &f)
						return f, err
					}
				}
			}
		}
		for key, value := range maps.Clone(v) {
			var err error
			if v[key], err = restore(value); err != nil {
				return nil, err
			}
		}
	}
	return v, nil
}
