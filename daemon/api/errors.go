package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"

	"golang.org/x/sys/unix"

	"girderworker/daemon/apitype"
	"girderworker/daemon/plugin"
	"girderworker/daemon/policy"
	"girderworker/queue"
	"girderworker/transforms"
)

// What an implementation of [Images] can tell apart.
var (
	// ErrNoImage: no image of that name for that user.
	ErrNoImage = errors.New("no such image")
	// ErrBadImage: the archive is not one, or breaks a rule or a limit.
	ErrBadImage = errors.New("bad image")
	// ErrPinned: the image is to stay as it is.
	ErrPinned = errors.New("the image is pinned")
	// ErrPull: the registry did not give the image.
	ErrPull = errors.New("cannot pull the image")
	// ErrRegistry: nothing may be pulled from that registry.
	ErrRegistry = errors.New("the registry is not allowed")
)

// A refusal is an error that is already worded for the caller.
type refusal struct{ told apitype.Error }

func (e *refusal) Error() string { return e.told.Message }

func failure(kind, format string, args ...any) error {
	return &refusal{apitype.Error{Kind: kind, Message: fmt.Sprintf(format, args...)}}
}

// status is the HTTP form of a kind.
func status(kind string) int {
	switch kind {
	case apitype.KindBadRequest:
		return http.StatusBadRequest
	case apitype.KindUnauthorized:
		return http.StatusUnauthorized
	case apitype.KindForbidden:
		return http.StatusForbidden
	case apitype.KindNotFound, apitype.KindNoImage:
		return http.StatusNotFound
	case apitype.KindConflict, apitype.KindState:
		return http.StatusConflict
	case apitype.KindTooLarge:
		return http.StatusRequestEntityTooLarge
	case apitype.KindFull, apitype.KindUnavailable:
		return http.StatusServiceUnavailable
	case apitype.KindNoSpace:
		return http.StatusInsufficientStorage
	}
	return http.StatusInternalServerError
}

// explain turns an error into what the caller is told.
func explain(err error) apitype.Error {
	var (
		refused    *refusal
		document   *transforms.DocumentError
		transition *queue.TransitionError
		tooLarge   *http.MaxBytesError
		denied     *policy.Denied
		arguments  *plugin.ArgumentError
		kind       string
	)
	switch {
	case errors.As(err, &refused):
		return refused.told
	case errors.As(err, &document):
		kind = apitype.KindBadRequest
		if document.TooLarge {
			kind = apitype.KindTooLarge
		}
		return apitype.Error{Kind: kind, Message: document.Error(), Field: document.Field}
	case errors.As(err, &arguments):
		return apitype.Error{Kind: apitype.KindBadRequest, Message: arguments.Error(), Field: "kwargs." + arguments.Problems[0].Name}
	case errors.As(err, &denied):
		return apitype.Error{Kind: apitype.KindForbidden, Message: denied.Error(), Field: denied.Refusals[0].Field}
	case errors.As(err, &transition):
		return apitype.Error{Kind: apitype.KindState,
			Message: refusedChange(transition)}
	case errors.As(err, &tooLarge):
		return apitype.Error{Kind: apitype.KindTooLarge, Message: fmt.Sprintf("the request is larger than %s", transforms.FormatBytes(tooLarge.Limit))}
	case errors.Is(err, queue.ErrNotFound):
		kind = apitype.KindNotFound
	case errors.Is(err, queue.ErrConflict):
		kind = apitype.KindConflict
	case errors.Is(err, queue.ErrDependency), errors.Is(err, queue.ErrInvalid):
		kind = apitype.KindBadRequest
	case errors.Is(err, queue.ErrNotHoldable), errors.Is(err, queue.ErrUntold):
		kind = apitype.KindState
	case errors.Is(err, queue.ErrFull):
		kind = apitype.KindFull
	case errors.Is(err, queue.ErrNoSpace), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		kind = apitype.KindNoSpace
	case errors.Is(err, queue.ErrClosed):
		return apitype.Error{Kind: apitype.KindUnavailable, Message: "the daemon is stopping; try again in a moment"}
	case errors.Is(err, queue.ErrBroken):
		kind = apitype.KindUnavailable
	case errors.Is(err, ErrNoImage):
		kind = apitype.KindNoImage
	case errors.Is(err, ErrBadImage):
		kind = apitype.KindBadRequest
	case errors.Is(err, ErrPinned):
		kind = apitype.KindConflict
	case errors.Is(err, ErrRegistry):
		kind = apitype.KindForbidden
	case errors.Is(err, ErrPull):
		kind = apitype.KindUnavailable
	case errors.Is(err, fs.ErrNotExist):
		kind = apitype.KindNotFound
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded):
		return apitype.Error{Kind: apitype.KindBadRequest, Message: "the request's body did not arrive whole"}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return apitype.Error{Kind: apitype.KindUnavailable, Message: "the request was given up before it was done"}
	default:
		return apitype.Error{Kind: apitype.KindInternal, Message: "internal error: " + err.Error()}
	}
	return apitype.Error{Kind: kind, Message: err.Error()}
}

// refusedChange says why a person cannot have this change of a job.
func refusedChange(t *queue.TransitionError) string {
	switch t.To {
	case queue.Held:
		return fmt.Sprintf("job %s is %s, and only a job that waits can be held", t.ID, t.From)
	case queue.Queued:
		return fmt.Sprintf("job %s is %s, and only a held job can be released", t.ID, t.From)
	}
	return fmt.Sprintf("job %s is %s and cannot become %s", t.ID, t.From, t.To)
}

// fail answers with the error, and logs what is the daemon's own fault. The queue
// names the job in its own way.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, c *call, err error) {
	told := explain(err)
	if c.job.ID != "" {
		told.Message = c.shownText(told.Message, &c.job)
	}
	if told.Kind == apitype.KindInternal {
		s.logger.LogAttrs(r.Context(), slog.LevelError, "Cannot answer request",
			slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	if told.Kind == apitype.KindUnauthorized || told.Kind == apitype.KindUnavailable {
		w.Header().Set("Connection", "close")
	}
	s.answer(w, status(told.Kind), apitype.Failure{Error: told})
}
