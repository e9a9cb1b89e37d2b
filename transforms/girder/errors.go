package girder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What a call can fail of besides the network, for errors.Is.
var (
	// ErrUncertain: the call failed, but the server may have carried it out.
	ErrUncertain = errors.New("the server may have carried the call out")
	// ErrTemporary: a later try may do better.
	ErrTemporary = errors.New("no token now")
	// ErrTimeout: no answer, or no byte of contents, within the limit.
	ErrTimeout = errors.New("no answer from Girder in time")
	// ErrAnswer: the answer is not what Girder answers to that call.
	ErrAnswer = errors.New("not an answer of Girder")
	// ErrTooLong: the answer is longer than any that is read.
	ErrTooLong = errors.New("too long")
	// ErrRedirect: the server sent the call to where it is not followed.
	ErrRedirect = errors.New("redirect not followed")
	// ErrAddress: the server's name leads to an address that no server has, or to
	// where the job may not reach.
	ErrAddress = errors.New("not connected")

	// ErrTransition: Girder refused a job's new status, usually because the job
	// was canceled. Read the job and obey.
	ErrTransition = errors.New("job status refused")
	// ErrDenied: the token has ended or does not allow this.
	ErrDenied = errors.New("access denied")
	// ErrNoSuch: the id belongs to nothing.
	ErrNoSuch = errors.New("no such resource")
	// ErrOffset: a chunk did not begin where the server's part ends.
	ErrOffset = errors.New("wrong offset")

	// ErrContents: a file's contents have another size or hash than announced,
	// or changed while they were read.
	ErrContents = errors.New("contents are not as announced")
)

// StatusError is an answer other than 2xx.
type StatusError struct {
	Method string
	Path   string // below the API, without the query
	Status int
	// Type, Field and Message are Girder's own, where the answer was Girder's:
	// Type is "rest", "validation", "access" or "girder", Field the parameter
	// that was wrong.
	Type, Field, Message string
	// RetryAfter is how long the server asked to wait; 0: it did not.
	RetryAfter time.Duration
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("Girder answered %d to %s %s", e.Status, e.Method, e.Path)
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.takenForNobody() {
		s += " (it was asked as nobody: the token is missing, has expired, or is of another server)"
	}
	return s
}

// takenForNobody tells whether that is why Girder refused: it says no other word
// to a token that it does not know.
func (e *StatusError) takenForNobody() bool {
	return e.Status == http.StatusUnauthorized &&
		(strings.Contains(e.Message, "(user None)") || strings.HasPrefix(e.Message, "You must be logged in"))
}

// Is makes errors.Is work with the sentinels that stand for one kind of answer.
func (e *StatusError) Is(target error) bool {
	switch target {
	case ErrTransition:
		return e.Status == http.StatusBadRequest && e.Field == "status"
	case ErrDenied:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case ErrNoSuch:
		return e.Status == http.StatusNotFound || e.Status == http.StatusBadRequest &&
			(strings.HasPrefix(e.Message, "Invalid ") && strings.Contains(e.Message, " id ("))
	case ErrOffset:
		return e.Status == http.StatusBadRequest && strings.HasPrefix(e.Message, "Server has received ")
	}
	return false
}

const maxErrorBody, maxErrorMessage = 64 << 10, 500

func statusError(r call, response *http.Response) error {
	e := &StatusError{Method: r.method, Path: r.path, Status: response.StatusCode}
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody)) // half a message is better than none
	var doc struct{ Type, Field, Message string }
	if json.Unmarshal(body, &doc) == nil {
		e.Type, e.Field, e.Message = printable(doc.Type), printable(doc.Field), printable(doc.Message)
	} else {
		e.Message = http.StatusText(response.StatusCode) // a page of a proxy, or CherryPy's
	}
	if 300 <= e.Status && e.Status < 400 {
		return fmt.Errorf("%w: %w", ErrRedirect, e)
	}
	if s := response.Header.Get("Retry-After"); s != "" {
		if n, err := strconv.Atoi(s); err == nil {
			e.RetryAfter = time.Duration(n) * time.Second
		} else if at, err := http.ParseTime(s); err == nil {
			e.RetryAfter = time.Until(at)
		}
		e.RetryAfter = max(0, e.RetryAfter)
	}
	return e
}

// printable makes a server's text fit for a log line.
func printable(s string) string {
	if len(s) > maxErrorMessage {
		s = strings.ToValidUTF8(s[:maxErrorMessage], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// transportError is a request that got no answer.
type transportError struct {
	call call
	sent bool // the server has seen at least its header
	err  error
}

func (e *transportError) Error() string {
	return fmt.Sprintf("cannot reach Girder for %s %s: %v", e.call.method, e.call.path, e.err)
}

func (e *transportError) Unwrap() error { return e.err }

// answerError is a success whose body is of no use.
type answerError struct {
	call call
	err  error
}

func (e *answerError) Error() string {
	return fmt.Sprintf("bad answer to %s %s: %v", e.call.method, e.call.path, e.err)
}

func (e *answerError) Unwrap() error { return e.err }
