//go:build !(linux && cgo && seccomp)

package runc

import (
	"context"
	"errors"

	"girderworker/sandbox"
)

// Runner stands for the real one in builds that cannot have it.
type Runner struct{}

var _ sandbox.Runner = (*Runner)(nil)

var errUnsupported = errors.New("cannot run containers: this program was built without cgo or without the tag seccomp")

// OwnMounts fails in this build.
func OwnMounts() error { return errUnsupported }

// New fails in this build.
func New(Options) (*Runner, error) { return nil, errUnsupported }

// Ready does nothing in this build.
func Ready() {}

// Warm fails in this build.
func (*Runner) Warm([]string) error { return errUnsupported }

// Start fails in this build.
func (*Runner) Start(context.Context, *sandbox.Spec) (sandbox.Container, error) {
	return nil, errUnsupported
}
