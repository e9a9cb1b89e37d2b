package jsonpickle

import (
	"encoding/hex"
	"fmt"
	"time"
)

// A Value is one decoded Python value, one of
//
//	nil, bool, string
//	int64, *big.Int          an int; *big.Int only beyond 64 bits
//	float64                  NaN and infinities included
//	Bytes, Tuple, Set, Type  see there
//	Datetime, ObjectID, UUID
//	*List, *Dict, *Object    by pointer: a second reference is the same pointer
//	Unresolved               only from [DecodeTable]
//
// No Value contains itself.
type Value any

// Bytes is a Python bytes object.
type Bytes []byte

// Tuple is a Python tuple. Python shares no tuples by reference on this wire.
type Tuple []Value

// Set is a Python set, in the order it was written.
type Set []Value

// Type names a Python class that was passed as a value: "module.Class". It is
// never looked up.
type Type string

// Datetime is a datetime.datetime. A naive one (which is what Girder 3 writes,
// and means UTC) is held as UTC with Naive set.
type Datetime struct {
	time.Time
	Naive bool
}

// ObjectID is a bson.objectid.ObjectId.
type ObjectID [12]byte

// String is the id as Girder writes it in URLs: 24 hexadecimal digits.
func (id ObjectID) String() string { return hex.EncodeToString(id[:]) }

// UUID is a uuid.UUID.
type UUID [16]byte

// String is the usual form, 8-4-4-4-12 hexadecimal digits.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// List is a Python list.
type List struct{ Items []Value }

// Dict is a Python dict. Keys are unique; keys that were not strings in Python
// have become strings before they got here ("1", "(1, 2)").
type Dict struct{ Members []Member }

// Get returns the value of a key and whether there is one.
func (d *Dict) Get(key string) (Value, bool) { return get(d.Members, key) }

// Member is one key of a dict or one attribute of an object.
type Member struct {
	Key   string
	Value Value
}

// Object is an instance of a Python class. Nothing was looked up or created:
// the class is a name, and what it may be is the caller's to say.
type Object struct {
	// Class is "module.Class", made of identifiers and dots.
	Class string
	// Attrs are the instance's attributes in the order they were written
	// (from [DecodeTable]: in the order of [Options.Order], then by name),
	// whichever of the two ways the sender's jsonpickle writes them.
	// For a celery.canvas.Signature they are the items of the dict that it is.
	Attrs []Member
}

// Get returns the value of an attribute and whether there is one.
func (o *Object) Get(name string) (Value, bool) { return get(o.Attrs, name) }

// Unresolved is a reference that the order of a table's keys would be needed to
// follow, see [DecodeTable]. Whoever needs the value must refuse it.
type Unresolved struct{ ID int }

func get(members []Member, key string) (Value, bool) {
	for _, m := range members {
		if m.Key == key {
			return m.Value, true
		}
	}
	return nil, false
}
