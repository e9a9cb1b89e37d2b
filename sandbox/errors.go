package sandbox

import "errors"

// What a [Runner] can blame on the job rather than on the machine.
var (
	// ErrNotFound: the command does not exist in the image (exit code 127).
	ErrNotFound = errors.New("command not found in the image")
	// ErrNotExecutable: the command exists and cannot be run (exit code 126).
	ErrNotExecutable = errors.New("command cannot be executed")
	// ErrUnsafeImage: the image's root file system must not be used, for
	// example because its /dev, /proc or /sys is a link.
	ErrUnsafeImage = errors.New("image is not safe to run")
	// ErrInvalidSpec: a Spec that contradicts itself or exceeds the machine.
	ErrInvalidSpec = errors.New("invalid container")
)
