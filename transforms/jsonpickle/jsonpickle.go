// Package jsonpickle reads what Python's jsonpickle wrote, as data: classes stay
// names, nothing is imported, called or created. It knows the tags that Girder's
// Celery messages carry and refuses every other one by name.
//
// # References
//
// An object that occurs a second time is written as {"py/id": n}, the n-th object
// met so far. What counts as an object depends on the version of jsonpickle that
// wrote the message, which the message does not tell:
//
//	before 2.0     lists and instances
//	2.0 to 3.0.1   lists, instances and plain dicts
//	from 3.0.2     also the __dict__ of an instance of a dict subclass
//
// Every decoding is therefore tried with each numbering, the latest first, and the
// first one is taken whose references all point backwards, not at an object that
// they are part of, and at a target that [Options.Fits].
package jsonpickle

import "fmt"

// Limits bound what a document may hold. A zero field means the default.
type Limits struct {
	// Bytes is the size of the document, in bytes; of a table, the sum of its
	// strings and keys. Default 16 MiB.
	Bytes int
	// String is the size of one string or key, in bytes. Default 4 MiB.
	String int
	// Depth is how deep values may be nested, references followed. Default 100.
	Depth int
	// Nodes is the number of values, where what a reference points at counts
	// again each time: the work of a caller that walks the result. Default 200000.
	Nodes int
}

func (l Limits) withDefaults() Limits {
	for _, f := range []struct {
		field *int
		value int
	}{{&l.Bytes, 16 << 20}, {&l.String, 4 << 20}, {&l.Depth, 100}, {&l.Nodes, 200_000}} {
		if *f.field <= 0 {
			*f.field = f.value
		}
	}
	return l
}

// Options tell a decoding what its caller knows.
type Options struct {
	Limits Limits
	// Fits reports whether target can stand at a place that holds a reference.
	// It decides between numberings, so it should say no to what cannot be
	// right (a _volume that is a list) and yes where it does not know.
	// nil: everything fits.
	Fits func(at Place, target Value) bool
	// Order gives the attributes of a class in the order in which Python writes
	// them; the entry "" is for plain dicts, all of them taken together. Only
	// [DecodeTable] needs it.
	Order map[string][]string
}

// A Place is where a reference stands.
type Place struct {
	// Class is the class of the innermost instance around it, and "" when a
	// plain dict is nearer.
	Class string
	// Key is the innermost attribute or dict key around it: "volumes" for an
	// entry of the list under that key. "" at the top.
	Key string
	// Path is the whole way, as in [Error].
	Path string
}

// Decode decodes a message body.
func Decode(body []byte, o Options) (Value, error) {
	limits := o.Limits.withDefaults()
	if len(body) > limits.Bytes {
		return nil, &Error{"$", fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(body), limits.Bytes)}
	}
	root, err := parse(body, limits)
	if err != nil {
		return nil, err
	}
	return decode(root, o, limits)
}

// DecodeTable decodes a value out of an AMQP header: maps with string keys,
// slices, strings, integers, floats, booleans and nil. Maps have no order, but
// the numbering of references follows the order in which Python wrote the keys:
// [Options.Order] restores it. Where the order of a map is not known and matters,
// what is in it has no number, and a reference to it becomes [Unresolved].
func DecodeTable(table any, o Options) (Value, error) {
	limits := o.Limits.withDefaults()
	root, err := fromTable(table, o.Order, limits)
	if err != nil {
		return nil, err
	}
	return decode(root, o, limits)
}
