package celery

import (
	"encoding/json"
	"fmt"
	"time"

	"girderworker/transforms/jsonpickle"
)

// Signature is a task to be published later, as a callback, an errback or a link
// of a chain. It is data: the classes that Celery pickles with it are not looked at.
type Signature struct {
	Task string
	// Subtask is "" for a task, else "chain", "group", "chord" and the like.
	Subtask string
	Args    jsonpickle.Tuple
	Kwargs  *jsonpickle.Dict
	// Options are those of apply_async, as they came: task_id, reply_to, queue, link ...
	Options *jsonpickle.Dict
	// Immutable: the result before it is not prepended to Args.
	Immutable bool
}

// maxSignatures bounds the links of one task.
const maxSignatures = 1000

const (
	subtaskGroup = "group"
	subtaskChain = "chain"
	subtaskChord = "chord"
)

// signatureOf reads a plain dict or a pickled celery.canvas.Signature, which is one.
func signatureOf(v jsonpickle.Value) (Signature, error) {
	var get func(string) (jsonpickle.Value, bool)
	switch v := v.(type) {
	case *jsonpickle.Dict:
		get = v.Get
	case *jsonpickle.Object:
		if !isSignatureClass(v.Class) {
			return Signature{}, fmt.Errorf("%w: a %s", ErrSignature, v.Class)
		}
		get = v.Get
	default:
		return Signature{}, fmt.Errorf("%w: %s", ErrSignature, kindOf(plainOf(v)))
	}
	at := func(key string) jsonpickle.Value { v, _ := get(key); return v }
	wrong := func(key string) (Signature, error) {
		return Signature{}, fmt.Errorf("%w: its %s is %s", ErrSignature, key, kindOf(plainOf(at(key))))
	}

	s := Signature{Kwargs: &jsonpickle.Dict{}, Options: &jsonpickle.Dict{}}
	var ok bool
	if s.Task, ok = at("task").(string); !ok || s.Task == "" || len(s.Task) > maxName {
		return wrong("task")
	}
	switch args := at("args").(type) {
	case nil:
	case jsonpickle.Tuple:
		s.Args = args
	case *jsonpickle.List:
		s.Args = args.Items
	default:
		return wrong("args")
	}
	for key, into := range map[string]**jsonpickle.Dict{"kwargs": &s.Kwargs, "options": &s.Options} {
		switch d := at(key).(type) {
		case nil:
		case *jsonpickle.Dict:
			*into = d
		default:
			return wrong(key)
		}
	}
	if v := at("immutable"); v != nil {
		if s.Immutable, ok = v.(bool); !ok {
			return wrong("immutable")
		}
	}
	if v := at("subtask_type"); v != nil {
		if s.Subtask, ok = v.(string); !ok {
			return wrong("subtask_type")
		}
	}
	_, err := s.options(time.Unix(0, 0))
	return s, err
}

// isSignatureClass tells the classes of celery.canvas that are dicts of a task.
func isSignatureClass(class string) bool {
	switch class {
	case "celery.canvas.Signature", "celery.canvas.group", "celery.canvas.chain", "celery.canvas._chain",
		"celery.canvas.chord", "celery.canvas._chord", "celery.canvas.xmap", "celery.canvas.xstarmap", "celery.canvas.chunks":
		return true
	}
	return false
}

// signaturesOf reads a list of signatures; a single one counts as a list of it.
func signaturesOf(v jsonpickle.Value) ([]Signature, error) {
	var items []jsonpickle.Value
	switch v := v.(type) {
	case nil:
		return nil, nil
	case *jsonpickle.List:
		items = v.Items
	case jsonpickle.Tuple:
		items = v
	default:
		items = []jsonpickle.Value{v}
	}
	if len(items) > maxSignatures {
		return nil, fmt.Errorf("%d signatures, at most %d are allowed", len(items), maxSignatures)
	}
	var out []Signature
	for i, item := range items {
		s, err := signatureOf(item)
		if err != nil {
			return nil, fmt.Errorf("[%d]: %w", i, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// links reads embed.
func links(embed *jsonpickle.Dict) (Links, *Error) {
	var l Links
	if embed == nil {
		return l, nil
	}
	for _, f := range []struct {
		key  string
		into *[]Signature
	}{{"callbacks", &l.Callbacks}, {"errbacks", &l.Errbacks}, {"chain", &l.Chain}} {
		v, _ := embed.Get(f.key)
		var err error
		if *f.into, err = signaturesOf(v); err != nil {
			return Links{}, failed(ReasonSignature, "%s: %w", f.key, err)
		}
	}
	if v, _ := embed.Get("chord"); v != nil {
		s, err := signatureOf(v)
		if err != nil {
			return Links{}, failed(ReasonSignature, "chord: %w", err)
		}
		l.Chord = &s
	}
	return l, nil
}

// value is the signature as the plain dict that Celery accepts in its place.
func (s Signature) value() *jsonpickle.Dict {
	var subtask jsonpickle.Value
	if s.Subtask != "" {
		subtask = s.Subtask
	}
	orEmpty := func(d *jsonpickle.Dict) *jsonpickle.Dict {
		if d == nil {
			return &jsonpickle.Dict{}
		}
		return d
	}
	return &jsonpickle.Dict{Members: []jsonpickle.Member{
		{Key: "task", Value: s.Task},
		{Key: "args", Value: s.Args},
		{Key: "kwargs", Value: plainSignatures(orEmpty(s.Kwargs))},
		{Key: "options", Value: plainSignatures(orEmpty(s.Options))},
		{Key: "subtask_type", Value: subtask},
		{Key: "immutable", Value: s.Immutable},
	}}
}

// plainSignatures is v with the signatures in it as plain dicts: pickled again
// without what was not looked at, their class would be half an object. What has
// none in it stays the very same value, so that references to it still hold.
func plainSignatures(v jsonpickle.Value) jsonpickle.Value {
	switch v := v.(type) {
	case *jsonpickle.Object:
		if isSignatureClass(v.Class) {
			return plainSignatures(&jsonpickle.Dict{Members: v.Attrs})
		}
	case *jsonpickle.List:
		if items, changed := plainEach(v.Items); changed {
			return &jsonpickle.List{Items: items}
		}
	case jsonpickle.Tuple:
		if items, changed := plainEach(v); changed {
			return jsonpickle.Tuple(items)
		}
	case *jsonpickle.Dict:
		var members []jsonpickle.Member
		changed := false
		for _, m := range v.Members {
			plain := plainSignatures(m.Value)
			changed = changed || !same(plain, m.Value)
			members = append(members, jsonpickle.Member{Key: m.Key, Value: plain})
		}
		if changed {
			return &jsonpickle.Dict{Members: members}
		}
	}
	return v
}

func plainEach(items []jsonpickle.Value) (out []jsonpickle.Value, changed bool) {
	for _, item := range items {
		plain := plainSignatures(item)
		changed = changed || !same(plain, item)
		out = append(out, plain)
	}
	return out, changed
}

// same tells whether plainSignatures left a value alone. Tuples cannot be
// compared, and are copied for nothing now and then.
func same(a, b jsonpickle.Value) bool {
	switch a.(type) {
	case *jsonpickle.List, *jsonpickle.Dict, *jsonpickle.Object:
		return a == b
	case jsonpickle.Tuple:
		return false
	}
	return true
}

func signatureValues(all []Signature) jsonpickle.Value {
	if len(all) == 0 {
		return nil
	}
	list := &jsonpickle.List{}
	for _, s := range all {
		list.Items = append(list.Items, s.value())
	}
	return list
}

// MarshalJSON writes the signature in jsonpickle's form, in a string, because that
// form may hold NaN, which JSON has not.
func (s Signature) MarshalJSON() ([]byte, error) {
	text, err := jsonpickle.Encode(s.value())
	if err != nil {
		return nil, err
	}
	return json.Marshal(string(text))
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *Signature) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	v, err := jsonpickle.Decode([]byte(text), jsonpickle.Options{})
	if err != nil {
		return err
	}
	*s, err = signatureOf(v)
	return err
}
