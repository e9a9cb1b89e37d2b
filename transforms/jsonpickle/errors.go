package jsonpickle

import (
	"errors"
	"fmt"
)

// What a decoding can fail of; every error of this package is an [*Error] around one of these.
var (
	// ErrSyntax: not JSON, or not UTF-8.
	ErrSyntax = errors.New("not valid JSON")
	// ErrRefused: valid, but means something that would need code to run, or
	// that this decoder does not know.
	ErrRefused = errors.New("refused")
	// ErrMalformed: a known tag with the wrong contents.
	ErrMalformed = errors.New("malformed")
	// ErrReference: a py/id that no numbering of the objects gives a sense to.
	ErrReference = errors.New("reference cannot be followed")
	// ErrTooLarge: deeper, longer or with more values than the limits allow.
	ErrTooLarge = errors.New("too large")
)

// Error says where decoding ended and why.
type Error struct {
	Path string // "$[1].container_args[0]._volume"; "$" is the whole document
	Err  error
}

func (e *Error) Error() string {
	return fmt.Sprintf("cannot decode the value at %s: %v", e.Path, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
