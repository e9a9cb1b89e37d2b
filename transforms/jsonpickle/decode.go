package jsonpickle

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// The tags that are understood.
const (
	tagID     = "py/id"
	tagObject = "py/object"
	tagReduce = "py/reduce"
	tagSet    = "py/set"
	tagState  = "py/state"
	tagTuple  = "py/tuple"
	tagType   = "py/type"
	tagB64    = "py/b64"

	tagPrefix = "py/"

	// Attributes that stand for what the instance is, not for what it has.
	attrDict   = "__dict__"
	attrReduce = "__reduce__"
)

// Classes that are data and nothing else.
const (
	classDatetime  = "datetime.datetime"
	classTimezone  = "datetime.timezone"
	classTimedelta = "datetime.timedelta"
	classObjectID  = "bson.objectid.ObjectId"
	classUUID      = "uuid.UUID"

	// A link of a chain, and its subclasses that stand for several tasks. It is a dict; what else its instance holds is Celery's
	// application, pickled as calls: that part is dropped.
	classSignature = "celery.canvas.Signature"

	// docker-py's arguments, such as docker.types.services.Mount, are dicts too, and
	// have nothing else.
	dockerTypes = "docker.types."
)

// A numbering says which values count for py/id besides lists and instances.
type numbering struct {
	dicts        bool // plain dicts, the one in a py/state included
	instanceDict bool // the __dict__ of an instance of a dict subclass
}

// The latest first, see the package comment.
var numberings = [...]numbering{
	{dicts: true, instanceDict: true},
	{dicts: true},
	{},
}

func decode(root any, o Options, limits Limits) (Value, error) {
	var first error
	for _, n := range numberings {
		d := &decoder{opts: o, limits: limits, numbering: n}
		v, _, err := d.value(root)
		if err == nil {
			return v, nil
		}
		if first == nil {
			first = &Error{d.path.String(), err}
		}
		if !errors.Is(err, ErrReference) {
			break
		}
	}
	return nil, first
}

// decoder makes values of a raw tree under one numbering.
type decoder struct {
	opts      Options
	limits    Limits
	numbering numbering

	path    path
	class   string   // of the instance whose attributes are read, see [Place]
	objects []object // by number
	depth   int
	nodes   int
	// unordered counts the maps around the current value that have no known order.
	unordered int
}

// object is what a number stands for.
type object struct {
	value   Value // noValue until it is complete, and for good when it is not data
	nodes   int   // values in it
	height  int   // how deep it is
	unknown bool  // which object has this number cannot be told
}

type noValue struct{}

// offset is the value of a datetime.timezone, in seconds east of Greenwich. It is
// an object on the wire, because all datetimes share one, but no [Value].
type offset int

// enter gives the next number away. Parents come before their children.
func (d *decoder) enter() int {
	d.objects = append(d.objects, object{value: noValue{}, unknown: d.unordered > 0})
	return len(d.objects) - 1
}

func (d *decoder) leave(number int, v Value, nodesBefore, height int) {
	o := &d.objects[number]
	o.value, o.nodes, o.height = v, d.nodes-nodesBefore, height
}

func (d *decoder) count(n int) error {
	if d.nodes += n; d.nodes > d.limits.Nodes {
		return fmt.Errorf("%w: more than %d values, references followed", ErrTooLarge, d.limits.Nodes)
	}
	return nil
}

// value decodes one raw value and says how deep the result is: 0 for a scalar.
func (d *decoder) value(raw any) (Value, int, error) {
	if err := d.count(1); err != nil {
		return nil, 0, err
	}
	switch raw := raw.(type) {
	case rawArray:
		number, before := d.enter(), d.nodes
		items, height, err := d.items(raw)
		if err != nil {
			return nil, 0, err
		}
		list := &List{Items: items}
		d.leave(number, list, before, height)
		return list, height, nil
	case *rawObject:
		return d.tagged(raw)
	}
	return raw, 0, nil
}

// items decodes the elements of a list, tuple or set; the height is that of the whole.
func (d *decoder) items(raw rawArray) ([]Value, int, error) {
	if err := d.down(); err != nil {
		return nil, 0, err
	}
	defer d.up()
	items, height := make([]Value, 0, len(raw)), 0
	for i, r := range raw {
		d.path.push(step{index: i})
		v, h, err := d.value(r)
		if err != nil {
			return nil, 0, err
		}
		d.path.pop()
		items, height = append(items, v), max(height, h)
	}
	return items, height + 1, nil
}

// members decodes keys or attributes; the height is that of the whole.
func (d *decoder) members(o *rawObject, skip func(key string) bool) ([]Member, int, error) {
	if err := d.down(); err != nil {
		return nil, 0, err
	}
	defer d.up()
	if o.unordered {
		d.unordered++
		defer func() { d.unordered-- }()
	}
	var members []Member
	height := 0
	for _, m := range o.members {
		d.path.push(step{key: m.Key, isKey: true})
		if skip != nil && skip(m.Key) {
			if err := d.skipAttribute(m); err != nil {
				return nil, 0, err
			}
		} else {
			v, h, err := d.value(m.Value)
			if err != nil {
				return nil, 0, err
			}
			members, height = append(members, Member{m.Key, v}), max(height, h)
		}
		d.path.pop()
	}
	return members, height + 1, nil
}

func (d *decoder) down() error {
	if d.depth++; d.depth > d.limits.Depth {
		return fmt.Errorf("%w: nested deeper than %d", ErrTooLarge, d.limits.Depth)
	}
	return nil
}

func (d *decoder) up() { d.depth-- }

// tagged decodes a JSON object: a dict, an instance, or a wrapper around a value.
func (d *decoder) tagged(o *rawObject) (Value, int, error) {
	if _, ok := o.get(tagObject); ok {
		return d.instance(o)
	}
	var tag Member
	for _, m := range o.members {
		if strings.HasPrefix(m.Key, tagPrefix) {
			tag = m
			break
		}
	}
	if tag.Key == "" {
		return d.dict(o)
	}
	if err := refuse(tag); err != nil {
		return nil, 0, err
	}
	if len(o.members) > 1 {
		return nil, 0, fmt.Errorf("%w: %s beside other keys", ErrMalformed, tag.Key)
	}
	wrong := fmt.Errorf("%w: the value of %s", ErrMalformed, tag.Key)
	switch tag.Key {
	case tagTuple, tagSet:
		array, ok := tag.Value.(rawArray)
		if !ok {
			return nil, 0, wrong
		}
		items, height, err := d.items(array)
		if err != nil {
			return nil, 0, err
		}
		if tag.Key == tagSet {
			return Set(items), height, nil
		}
		return Tuple(items), height, nil
	case tagID:
		id, ok := tag.Value.(int64)
		if !ok {
			return nil, 0, wrong
		}
		return d.reference(id)
	case tagType:
		name, ok := tag.Value.(string)
		if !ok || !isClassName(name) {
			return nil, 0, wrong
		}
		return Type(name), 0, nil
	case tagB64:
		text, ok := tag.Value.(string)
		if !ok {
			return nil, 0, wrong
		}
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, 0, wrong
		}
		return Bytes(b), 0, nil
	}
	return nil, 0, wrong // py/state without py/object
}

// refuse names the tags that mean running code, and those nobody here knows.
func refuse(tag Member) error {
	switch tag.Key {
	case tagTuple, tagSet, tagID, tagType, tagB64, tagState, tagObject:
		return nil
	}
	what := tag.Value
	if array, ok := what.(rawArray); ok && len(array) > 0 {
		what = array[0]
	}
	if o, ok := what.(*rawObject); ok && len(o.members) == 1 {
		what = o.members[0].Value // the {"py/type": name} that a py/reduce begins with
	}
	if name, ok := what.(string); ok {
		return fmt.Errorf("%w: %s of %s", ErrRefused, quote(tag.Key), quote(name))
	}
	return fmt.Errorf("%w: %s", ErrRefused, quote(tag.Key))
}

func (d *decoder) dict(o *rawObject) (Value, int, error) {
	before := d.nodes
	number := -1
	if d.numbering.dicts {
		number = d.enter()
	}
	class := d.class
	d.class = ""
	members, height, err := d.members(o, nil)
	if err != nil {
		return nil, 0, err
	}
	d.class = class
	dict := &Dict{Members: members}
	if number >= 0 {
		d.leave(number, dict, before, height)
	}
	return dict, height, nil
}

func (d *decoder) instance(o *rawObject) (Value, int, error) {
	raw, _ := o.get(tagObject)
	class, ok := raw.(string)
	if !ok || !isClassName(class) {
		return nil, 0, fmt.Errorf("%w: the class in %s", ErrMalformed, tagObject)
	}
	number, before := d.enter(), d.nodes
	around := d.class
	d.class = class
	v, height, err := d.contents(class, o)
	if err != nil {
		return nil, 0, err
	}
	d.class = around
	d.leave(number, v, before, height)
	return v, height, nil
}

func (d *decoder) contents(class string, o *rawObject) (Value, int, error) {
	rest := &rawObject{unordered: o.unordered}
	var state *Member
	for _, m := range o.members {
		switch {
		case m.Key == tagObject:
			continue
		case m.Key == tagState:
			state = &m
		case strings.HasPrefix(m.Key, tagPrefix):
			if err := refuse(m); err != nil {
				return nil, 0, err
			}
			return nil, 0, fmt.Errorf("%w: %s in an instance", ErrMalformed, m.Key)
		}
		rest.members = append(rest.members, m)
	}
	malformed := fmt.Errorf("%w: a %s", ErrMalformed, class)
	switch class {
	case classDatetime:
		v, err := d.datetime(rest)
		return v, 0, err
	case classObjectID:
		if state != nil && len(rest.members) == 1 {
			v, _, err := d.value(state.Value)
			if err != nil {
				return nil, 0, err
			}
			if b, ok := v.(Bytes); ok && len(b) == len(ObjectID{}) {
				return ObjectID(b), 0, nil
			}
		}
		return nil, 0, malformed
	case classUUID:
		text, _ := rest.get("hex")
		s, _ := text.(string)
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != len(UUID{}) || len(rest.members) != 1 {
			return nil, 0, malformed
		}
		return UUID(b), 0, nil
	case classSignature, "celery.canvas.group", "celery.canvas.chain", "celery.canvas._chain", "celery.canvas.chord",
		"celery.canvas._chord", "celery.canvas.xmap", "celery.canvas.xstarmap", "celery.canvas.chunks":
		attrs, height, err := d.members(rest, func(key string) bool { return key == attrDict || key == tagState })
		return &Object{Class: class, Attrs: attrs}, height, err
	}
	if strings.HasPrefix(class, dockerTypes) {
		if own, ok := rest.get(attrDict); ok {
			if o, isObject := own.(*rawObject); isObject && len(o.members) == 0 {
				attrs, height, err := d.members(rest, func(key string) bool { return key == attrDict })
				return &Object{Class: class, Attrs: attrs}, height, err
			}
		}
	}
	for _, name := range []string{attrDict, attrReduce} {
		if _, ok := rest.get(name); ok {
			return nil, 0, fmt.Errorf("%w: the %s of a %s", ErrRefused, name, class)
		}
	}
	if state == nil {
		attrs, height, err := d.members(rest, nil)
		return &Object{Class: class, Attrs: attrs}, height, err
	}
	if len(rest.members) > 1 {
		return nil, 0, malformed
	}
	return d.state(class, state.Value)
}

// state decodes an instance whose attributes are in a py/state: a dict, or null
// when it has none. The dict has a number of its own.
func (d *decoder) state(class string, raw any) (Value, int, error) {
	switch raw := raw.(type) {
	case nil:
		return &Object{Class: class}, 0, nil
	case *rawObject:
		for _, m := range raw.members {
			if strings.HasPrefix(m.Key, tagPrefix) {
				return nil, 0, fmt.Errorf("%w: a %s whose state is a %s", ErrRefused, class, quote(m.Key))
			}
		}
		if d.numbering.dicts {
			d.enter() // never the target of a reference: Python code does not hold it
		}
		d.path.push(step{key: tagState, isKey: true})
		attrs, height, err := d.members(raw, nil)
		if err != nil {
			return nil, 0, err
		}
		d.path.pop()
		return &Object{Class: class, Attrs: attrs}, height, nil
	}
	return nil, 0, fmt.Errorf("%w: a %s whose state is no dict", ErrRefused, class)
}

// isClassName reports whether s is identifiers with dots between them.
func isClassName(s string) bool {
	if len(s) > 256 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !isIdentifier(part) {
			return false
		}
	}
	return true
}

// lookup finds what a number stands for.
func (d *decoder) lookup(id int64) (object, error) {
	switch {
	case id < 0 || id >= int64(len(d.objects)):
		return object{}, fmt.Errorf("%w: %s %d, only %d objects come before it", ErrReference, tagID, id, len(d.objects))
	case d.objects[id].unknown:
		return object{value: Unresolved{int(id)}}, nil
	case d.objects[id].value == noValue{}:
		return object{}, fmt.Errorf("%w: %s %d is no data, or holds the reference itself", ErrReference, tagID, id)
	}
	return d.objects[id], nil
}

func (d *decoder) reference(id int64) (Value, int, error) {
	if d.unordered > 0 && id >= int64(len(d.objects)) && id <= int64(d.limits.Nodes) {
		return Unresolved{int(id)}, 0, nil // to something that stood before this in Python
	}
	o, err := d.lookup(id)
	if err != nil {
		return nil, 0, err
	}
	if _, ok := o.value.(Unresolved); ok {
		return o.value, 0, nil
	}
	at := Place{Class: d.class, Key: d.path.key(), Path: d.path.String()}
	_, private := o.value.(offset)
	if private || d.opts.Fits != nil && !d.opts.Fits(at, o.value) {
		return nil, 0, fmt.Errorf("%w: what %s %d stands for does not fit here", ErrReference, tagID, id)
	}
	if d.depth+o.height > d.limits.Depth {
		return nil, 0, fmt.Errorf("%w: nested deeper than %d, references followed", ErrTooLarge, d.limits.Depth)
	}
	return o.value, o.height, d.count(o.nodes)
}

// skipAttribute passes over an attribute that is no data.
func (d *decoder) skipAttribute(m Member) error {
	o, ok := m.Value.(*rawObject)
	if m.Key != attrDict || !ok {
		return d.skip(m.Value)
	}
	if d.numbering.instanceDict {
		d.enter()
	}
	return d.skipMembers(o)
}

// skip passes over a value of any kind and gives out the numbers in it.
func (d *decoder) skip(raw any) error {
	if err := d.count(1); err != nil {
		return err
	}
	switch raw := raw.(type) {
	case rawArray:
		d.enter()
		return d.skipItems(raw)
	case *rawObject:
		_, instance := raw.get(tagObject)
		_, reduce := raw.get(tagReduce)
		plain := true
		for _, m := range raw.members {
			plain = plain && !strings.HasPrefix(m.Key, tagPrefix)
		}
		if instance || reduce || plain && d.numbering.dicts {
			d.enter()
		}
		return d.skipMembers(raw)
	}
	return nil
}

func (d *decoder) skipItems(items rawArray) error {
	if err := d.down(); err != nil {
		return err
	}
	defer d.up()
	for _, item := range items {
		if err := d.skip(item); err != nil {
			return err
		}
	}
	return nil
}

func (d *decoder) skipMembers(o *rawObject) error {
	if err := d.down(); err != nil {
		return err
	}
	defer d.up()
	if o.unordered {
		d.unordered++
		defer func() { d.unordered-- }()
	}
	for _, m := range o.members {
		var err error
		// The list in a wrapper is part of the wrapper.
		if array, ok := m.Value.(rawArray); ok && strings.HasPrefix(m.Key, tagPrefix) && m.Key != tagState {
			err = d.skipItems(array)
		} else {
			err = d.skipAttribute(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
