package girder

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// sink reads what is posted to it, and tells every piece.
func sink(t *testing.T, status int) (url string, pieces chan string) {
	pieces = make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TransferEncoding == nil || r.Header.Get("X-Lab") != "yes" || r.Method != http.MethodPost || r.URL.Query().Get("name") != "chunked" {
			t.Errorf("got %s %s with %v, %v", r.Method, r.URL, r.Header, r.TransferEncoding)
		}
		b := make([]byte, 1<<16)
		for {
			n, err := r.Body.Read(b)
			if n > 0 {
				pieces <- string(b[:n])
			}
			if err != nil {
				break
			}
		}
		close(pieces)
		if status >= 300 && status < 400 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	return server.URL + "/sink?name=chunked", pieces
}

var lab = map[string]string{"X-Lab": "yes", "Content-Length": "5", "Transfer-Encoding": "identity"}

func TestPostStream(t *testing.T) {
	url, pieces := sink(t, 200)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- PostStream(t.Context(), Session{}, url, lab, r) }()
	// Every piece arrives before the next one is written: nothing waits for more.
	for _, piece := range []string{"first", "second", strings.Repeat("x", 5000)} {
		if _, err := io.WriteString(w, piece); err != nil {
			t.Fatal(err)
		}
		got := ""
		for len(got) < len(piece) {
			got += <-pieces
		}
		if got != piece {
			t.Errorf("got %q", got)
		}
	}
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPostStreamOfNothing(t *testing.T) {
	url, pieces := sink(t, 204)
	if err := PostStream(t.Context(), Session{}, url, lab, io.NopCloser(strings.NewReader(""))); err != nil {
		t.Error(err)
	}
	if got, ok := <-pieces; ok {
		t.Errorf("got %q", got)
	}
}

func TestPostStreamIsRefused(t *testing.T) {
	for _, status := range []int{301, 302, 307, 400, 401, 500} {
		url, _ := sink(t, status)
		if err := PostStream(t.Context(), Session{}, url, lab, io.NopCloser(strings.NewReader("x"))); err == nil || strings.Contains(err.Error(), "chunked") {
			t.Errorf("%d: got %v", status, err)
		}
	}
	for _, bad := range []string{"", "file:///etc/passwd", "http://", "://", "http://127.0.0.1:1/?token=secret"} {
		if err := PostStream(t.Context(), Session{}, bad, nil, io.NopCloser(strings.NewReader("x"))); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestPostStreamEnds(t *testing.T) {
	broken := errors.New("the pipe is broken")
	url, _ := sink(t, 200)
	if err := PostStream(t.Context(), Session{}, url, lab, io.NopCloser(io.MultiReader(strings.NewReader("x"), errReader{broken}))); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}

	gone := errors.New("the job was canceled")
	url, pieces := sink(t, 200)
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- PostStream(ctx, Session{}, url, lab, r) }()
	io.WriteString(w, "x")
	<-pieces
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	// The body is closed then, so that its writer does not wait for ever.
	if _, err := io.WriteString(w, "y"); err == nil {
		t.Error("somebody still reads")
	}
}

// A server that takes nothing more, or does not answer, is given up; a container
// that writes nothing is not.
func TestPostStreamStalls(t *testing.T) {
	closing := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/answer" {
			io.Copy(io.Discard, r.Body)
		}
		<-closing
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(closing) })
	const limit = time.Second
	for path, body := range map[string]io.Reader{"/take": endless{}, "/answer": strings.NewReader("x")} {
		if err := postStream(t.Context(), Session{}, server.URL+path, nil, io.NopCloser(body), limit); !errors.Is(err, ErrTimeout) {
			t.Errorf("%s: got %v", path, err)
		}
	}
	url, pieces := sink(t, 200)
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- postStream(t.Context(), Session{}, url, lab, r, limit) }()
	io.WriteString(w, "x")
	<-pieces
	select {
	case err := <-done:
		t.Fatalf("the silence of the body was taken for the server's: %v", err)
	case <-time.After(2 * limit):
	}
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// An answer before the end says nothing about the rest.
func TestPostStreamIsAnsweredEarly(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack() // net/http would read the body first
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		io.Copy(io.Discard, conn)
	}))
	defer server.Close()
	r, w := io.Pipe()
	defer w.Close()
	if err := PostStream(t.Context(), Session{}, server.URL, nil, r); err == nil || !strings.Contains(err.Error(), "before the end") {
		t.Errorf("got %v", err)
	}
}
