package girdertest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"
)

// Fault is what goes wrong with one call.
type Fault struct {
	kind     faultKind
	status   int
	bytes    int64
	wait     time.Duration
	location string
}

type faultKind int

const (
	faultStatus faultKind = iota
	faultDropBefore
	faultDropAfter
	faultTruncate
	faultStall
	faultHang
	faultTooMuch
	faultTooLittle
	faultGarbage
	faultRedirect
	faultNoRange
)

// Status answers with a status and no more, and does not carry the call out.
func Status(code int) Fault { return Fault{kind: faultStatus, status: code} }

// Busy is Status with a Retry-After.
func Busy(code int, wait time.Duration) Fault {
	return Fault{kind: faultStatus, status: code, wait: wait}
}

// DropBefore breaks the connection and does not carry the call out.
func DropBefore() Fault { return Fault{kind: faultDropBefore} }

// DropAfter carries the call out, then breaks the connection without an answer.
func DropAfter() Fault { return Fault{kind: faultDropAfter} }

// DropBody lets the route have n bytes of the request's body, then breaks the
// connection: what happens when the network fails in the middle of a chunk.
func DropBody(n int64) Fault { return Fault{kind: faultDropBefore, bytes: n} }

// Truncate breaks the connection after n bytes of the answer.
func Truncate(n int64) Fault { return Fault{kind: faultTruncate, bytes: n} }

// Stall sends n bytes of the answer and then nothing, until the client goes.
func Stall(n int64) Fault { return Fault{kind: faultStall, bytes: n} }

// Hang answers nothing and does nothing, until the client goes.
func Hang() Fault { return Fault{kind: faultHang} }

// TooMuch sends n bytes more than there are, without a Content-Length.
func TooMuch(n int64) Fault { return Fault{kind: faultTooMuch, bytes: n} }

// TooLittle sends the first n bytes of the answer, as if they were all of it.
func TooLittle(n int64) Fault { return Fault{kind: faultTooLittle, bytes: n} }

// Garbage carries the call out and answers 200 with a page that is not JSON.
func Garbage() Fault { return Fault{kind: faultGarbage} }

// Redirect answers with a redirect and does not carry the call out.
func Redirect(code int, location string) Fault {
	return Fault{kind: faultRedirect, status: code, location: location}
}

// NoRange answers a download as a server that does not know ranges.
func NoRange() Fault { return Fault{kind: faultNoRange} }

type armed struct {
	route string
	left  int
	skip  int
	fault Fault
}

// Fail makes the next n calls to a route go wrong; n < 0: all of them. Faults of one
// route that were ordered first happen first. A route is written as the server's
// table has it, "GET /file/{id}/download"; "" is any.
func (s *Server) Fail(route string, n int, f Fault) { s.FailAfter(route, 0, n, f) }

// FailAfter is Fail after the next skip calls have gone well.
func (s *Server) FailAfter(route string, skip, n int, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &armed{route: route, left: n, skip: skip, fault: f})
}

// Mend takes all faults back.
func (s *Server) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// fault finds what is to go wrong with a call; the caller holds the lock.
func (s *Server) fault(route string) *Fault {
	for _, a := range s.faults {
		switch {
		case a.route != "" && a.route != route, a.left == 0:
		case a.skip > 0:
			a.skip--
			return nil
		default:
			a.left--
			return &a.fault
		}
	}
	return nil
}

func (f *Fault) apply(s *Server, w http.ResponseWriter, r *http.Request, answer func(http.ResponseWriter)) {
	switch f.kind {
	case faultStatus:
		io.Copy(io.Discard, r.Body)
		if f.wait > 0 {
			w.Header().Set("Retry-After", fmt.Sprint(int(f.wait.Seconds())))
		}
		http.Error(w, http.StatusText(f.status), f.status)
	case faultDropBefore:
		if f.bytes > 0 {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(r.Body, f.bytes), brokenReader{}), r.Body}
			answer(httptest.NewRecorder())
		}
		panic(http.ErrAbortHandler)
	case faultDropAfter:
		answer(httptest.NewRecorder())
		panic(http.ErrAbortHandler)
	case faultTruncate:
		answer(&cutWriter{ResponseWriter: w, left: f.bytes})
		panic(http.ErrAbortHandler)
	case faultStall:
		answer(&cutWriter{ResponseWriter: w, left: f.bytes})
		http.NewResponseController(w).Flush()
		s.untilGone(r)
		panic(http.ErrAbortHandler)
	case faultHang:
		io.Copy(io.Discard, r.Body) // only then the server notices that the client goes
		s.untilGone(r)
		panic(http.ErrAbortHandler)
	case faultTooMuch:
		answer(&noLengthWriter{ResponseWriter: w})
		w.Write(bytes.Repeat([]byte("x"), int(f.bytes)))
	case faultTooLittle:
		whole := httptest.NewRecorder()
		answer(whole)
		w.Write(whole.Body.Bytes()[:min(f.bytes, int64(whole.Body.Len()))])
	case faultGarbage:
		answer(httptest.NewRecorder())
		fmt.Fprint(w, "<html>it works!</html>")
	case faultRedirect:
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", f.location)
		w.WriteHeader(f.status)
	case faultNoRange:
		r.Header.Del("Range")
		answer(w)
	}
}

func (s *Server) untilGone(r *http.Request) {
	select {
	case <-r.Context().Done():
	case <-s.closing:
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// cutWriter passes the first bytes of a body on and swallows the rest.
type cutWriter struct {
	http.ResponseWriter
	left int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	n := min(int64(len(p)), w.left)
	w.left -= n
	if n > 0 {
		if _, err := w.ResponseWriter.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	if w.left == 0 {
		http.NewResponseController(w.ResponseWriter).Flush()
	}
	return len(p), nil
}

// noLengthWriter keeps an answer's length open.
type noLengthWriter struct{ http.ResponseWriter }

func (w *noLengthWriter) WriteHeader(status int) {
	w.Header().Del("Content-Length")
	w.ResponseWriter.WriteHeader(status)
}
