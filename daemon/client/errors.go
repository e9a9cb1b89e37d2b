package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"
)

// The kinds of [Error] that say why the daemon could not be reached; all others
// are the daemon's own, see apitype.
const (
	// KindNotRunning: no socket, or nobody behind it.
	KindNotRunning = "not-running"
	// KindNoPermission: the socket is there and this user may not use it.
	KindNoPermission = "no-permission"
	// KindLost: the connection broke before the answer was complete. Whether
	// the request was carried out is not known.
	KindLost = "connection-lost"
)

// An Error is a request that failed.
type Error struct {
	// Status is HTTP's, 0 when no answer came.
	Status int
	// Kind is one of the Kind constants here or in apitype.
	Kind string
	// Text is one line for a person.
	Text string
	// Field is the part of the job document to blame, where one is.
	Field string
	cause error
}

// Error is the line for a person.
func (e *Error) Error() string { return e.Text }

// Unwrap is the error of the connection, where one is the cause.
func (e *Error) Unwrap() error { return e.cause }

// Kind is the kind of an error of this package, or empty.
func Kind(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// IsLost tells whether the daemon went away or is not there now: it may be
// restarting, and asking again may help.
func IsLost(err error) bool {
	kind := Kind(err)
	return kind == KindLost || kind == KindNotRunning
}

// unreachable explains an error of the connection.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if isCanceled(ctx, err) {
		return ctx.Err()
	}
	e := &Error{Kind: KindLost, cause: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = KindNotRunning
		e.Text = fmt.Sprintf("the daemon is not running: no socket %s; start it with `systemctl start girder-worker`, or name its socket with --socket", c.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Kind = KindNotRunning
		e.Text = fmt.Sprintf("the daemon is not running: nobody listens on %s; start it with `systemctl start girder-worker`", c.socket)
	case errors.Is(err, fs.ErrPermission):
		e.Kind = KindNoPermission
		e.Text = fmt.Sprintf("no permission to use %s; ask the machine's admin to add you to the group girder-worker, then log in again", c.socket)
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL) && len(c.socket) > 107:
		e.Kind = KindNotRunning
		e.Text = fmt.Sprintf("the path of the socket is too long: %d bytes, and the kernel takes 107", len(c.socket))
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.ENOTSOCK):
		e.Kind = KindNotRunning
		e.Text = fmt.Sprintf("%s is not the daemon's socket; look into %s, or name another with --socket", c.socket, filepath.Dir(c.socket))
	default:
		e.Text = fmt.Sprintf("the connection to the daemon was lost: %v", err)
	}
	return e
}
