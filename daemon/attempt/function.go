package attempt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// FunctionEnd is what a function said of its end, in exit.json or result.json.
type FunctionEnd struct {
	State FunctionState `json:"state"`
	// Result is what it returned, with FunctionSuccess.
	Result json.RawMessage `json:"result"`
	// Error is set with FunctionFailure and FunctionIgnored, and with FunctionRetry
	// where there was one.
	Error *FunctionError `json:"error"`
	// Countdown is in how many seconds it wants to be called again.
	Countdown float64 `json:"countdown"`
}

// FunctionState is how a function ended.
type FunctionState string

// The ends, in Celery's words.
const (
	FunctionSuccess FunctionState = "SUCCESS"
	FunctionFailure FunctionState = "FAILURE"
	FunctionRetry   FunctionState = "RETRY"
	// FunctionIgnored: it raised Ignore or Reject.
	FunctionIgnored FunctionState = "IGNORED"
)

// FunctionError is a Python exception.
type FunctionError struct {
	Type    string `json:"type"`
	Module  string `json:"module"`
	Message string `json:"message"`
	// Args are those of the exception, a JSON list.
	Args      json.RawMessage `json:"args,omitempty"`
	Traceback string          `json:"traceback,omitempty"`
}

// String is the last line that Python prints of it.
func (e *FunctionError) String() string { return e.Type + ": " + e.Message }

// maxCountdown bounds how far off a retry may be.
const maxCountdown = 366 * 24 * time.Hour

// ParseFunctionEnd reads what anybody may have written.
func ParseFunctionEnd(data []byte) (*FunctionEnd, error) {
	end := new(FunctionEnd)
	if err := json.Unmarshal(data, end); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, resultName, err)
	}
	if e := end.Error; e != nil {
		valid := func(s string, n int) string { return clip(strings.ToValidUTF8(s, "�"), n) }
		e.Type, e.Module, e.Message = valid(e.Type, 200), valid(e.Module, 200), valid(e.Message, 16<<10)
		e.Traceback = valid(e.Traceback, 32<<10)
		var args []json.RawMessage
		if json.Unmarshal(e.Args, &args) != nil || len(e.Args) > 32<<10 {
			e.Args = nil
		}
	}
	switch {
	case end.State == FunctionSuccess && len(end.Result) > 0:
	case (end.State == FunctionFailure || end.State == FunctionIgnored) && end.Error != nil:
	case end.State == FunctionRetry && end.Countdown >= 0 && end.Countdown <= maxCountdown.Seconds():
	default:
		return nil, fmt.Errorf("%w: %s", ErrInvalid, resultName)
	}
	return end, nil
}

// ReadFunctionEnd reads what a function said of its end; nil where it said nothing.
func (d Dir) ReadFunctionEnd() (*FunctionEnd, error) {
	exit, err := d.ReadExit()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return d.FunctionEnd(&exit)
}

// FunctionEnd is ReadFunctionEnd for whoever has read exit.json.
func (d Dir) FunctionEnd(exit *Exit) (*FunctionEnd, error) {
	data, err := d.resultOf(exit)
	if err != nil || data == nil {
		return nil, err
	}
	return ParseFunctionEnd(data)
}

// ExceptionOf is the exception that the record of an attempt's end has, which the
// front keeps with the job; nil where there is none.
func ExceptionOf(detail json.RawMessage) *FunctionError {
	var d struct {
		Exception *FunctionError `json:"exception"`
	}
	if json.Unmarshal(detail, &d) != nil {
		return nil
	}
	return d.Exception
}
