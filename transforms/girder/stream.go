package girder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// PostStream sends what body gives, as it gives it, to a URL with
// Transfer-Encoding: chunked, and returns when the server has taken all of it. The
// URL and the headers are the job's; they need not be Girder's. It is one call
// without repetition, and redirects and any answer from 300 up are errors. It waits
// for body for as long as it takes, but for the server no longer than a minute at a
// time: to take what there is, and to answer at the end.
//
// Body is closed in any case, and that must end a Read which waits: it is how the
// context ends the call.
func PostStream(ctx context.Context, s Session, rawURL string, header map[string]string, body io.ReadCloser) error {
	return postStream(ctx, s, rawURL, header, body, streamStall)
}

const streamStall = time.Minute

func postStream(ctx context.Context, s Session, rawURL string, header map[string]string, body io.ReadCloser, stall time.Duration) error {
	stream := &streamBody{ReadCloser: body}
	defer stream.Close()
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("cannot post a stream to %.200q: want an http or https URL", rawURL)
	}
	shown := (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String() // queries may hold tokens
	transport, err := s.transport(u)
	if err != nil {
		return err
	}
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()

	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(context.Canceled)
	stream.stall, stream.timer = stall, time.AfterFunc(stall, func() { cancel(ErrTimeout) })
	defer stream.timer.Stop()
	// net/http does not return from Do while it waits for the body.
	defer context.AfterFunc(limited, func() { stream.Close() })()
	request, err := http.NewRequestWithContext(limited, http.MethodPost, rawURL, stream)
	if err != nil {
		return fmt.Errorf("cannot post a stream to %s: not a URL", shown)
	}
	request.ContentLength = -1
	for name, value := range header {
		switch http.CanonicalHeaderKey(name) {
		case "Content-Length", "Transfer-Encoding", "Host", "Connection":
			continue // follow from the body and the URL
		}
		request.Header.Set(name, value)
	}

	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("cannot post a stream to %s: %w", shown, cause(ctx, limited, err))
	}
	defer response.Body.Close()
	io.Copy(io.Discard, io.LimitReader(response.Body, maxErrorBody)) // lets the server finish
	if response.StatusCode >= 300 {
		return fmt.Errorf("cannot post a stream to %s: the server answered %d %s", shown, response.StatusCode, http.StatusText(response.StatusCode))
	}
	if !stream.ended.Load() {
		return fmt.Errorf("cannot post a stream to %s: the server answered %d before the end", shown, response.StatusCode)
	}
	return nil
}

// streamBody lets time run only while the server is at turn: not while the body is
// waited for.
type streamBody struct {
	io.ReadCloser
	timer *time.Timer
	stall time.Duration
	ended atomic.Bool
	close sync.Once
}

func (b *streamBody) Read(p []byte) (int, error) {
	b.timer.Stop()
	n, err := b.ReadCloser.Read(p)
	b.timer.Reset(b.stall)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

func (b *streamBody) Close() (err error) {
	b.close.Do(func() { err = b.ReadCloser.Close() })
	return err
}
