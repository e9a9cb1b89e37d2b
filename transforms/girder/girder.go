// Package girder talks to a Girder server: files in and out, job reports, session
// tokens. Every call has a time limit and ends with its context; what can be asked
// again is, with growing pauses; what a server says is bounded and checked before
// it is used.
//
// # Calls that may have been applied
//
// When a connection breaks, the server may have carried the call out. Calls that
// change nothing when repeated are repeated. The others fail with an error that
// wraps [ErrUncertain], except where the client can find out by itself: an upload
// asks for its offset, and looks for its file.
//
// # Tokens
//
// The token goes to the server's own scheme, host and port and nowhere else,
// whatever redirects say, and is in no error.
package girder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// Config is what a [Client] needs. Only API is required.
type Config struct {
	// API is the root of the REST API, "https://host/api/v1", with or without a
	// slash at the end.
	API string
	// Token is sent with every call. APIKey, when Token is empty, is changed
	// into tokens as they are needed. Without both Tokens is asked for one, and
	// for another when the server refused it: an error of it is tried again where
	// it wraps [ErrTemporary]. None of them: calls are anonymous.
	Token  string
	APIKey string
	Tokens func(ctx context.Context, refused string) (string, error)

	Session Session

	// Timeout limits one try of a call that moves no contents; Stall limits how
	// long a transfer of contents may move nothing. Default one minute each.
	Timeout time.Duration
	Stall   time.Duration

	Retry Retry

	// ChunkSize is the size of the pieces of an upload, in bytes. Default and
	// most: 64 MiB, what Girder's own client sends. A server refuses pieces
	// below its core.upload_minimum_chunk_size, except the last of a file.
	ChunkSize int64

	// UserAgent defaults to "girder-worker".
	UserAgent string

	// Waiting, which may be nil, is told of each pause before a call is tried again.
	Waiting func(err error, pause time.Duration)

	// Sleep waits between tries, Now is the time. Default: the real ones. Tests
	// replace them.
	Sleep func(ctx context.Context, d time.Duration) error
	Now   func() time.Time
}

// MaxChunkSize is the largest piece of an upload, in bytes.
const MaxChunkSize = 64 << 20

// An answer that is not a file is at most this long. The longest is a job with its
// log, which Girder keeps at about 4 MiB.
const maxAnswer = 32 << 20

// Client calls one server. It may be used by several goroutines at once.
type Client struct {
	api   *url.URL // without a slash at the end
	http  *http.Client
	token *tokenSource

	timeout, stall time.Duration
	retry          Retry
	chunkSize      int64
	userAgent      string
	sleep          func(context.Context, time.Duration) error
	now            func() time.Time
	waiting        func(error, time.Duration)
}

// New checks a configuration and makes a client of it. It calls nobody.
func New(c Config) (*Client, error) {
	api, err := parseAPI(c.API)
	if err != nil {
		return nil, err
	}
	transport, err := c.Session.transport(api)
	if err != nil {
		return nil, err
	}
	if c.ChunkSize < 0 || c.ChunkSize > MaxChunkSize {
		return nil, fmt.Errorf("cannot upload in chunks of %d bytes: want 1 to %d", c.ChunkSize, MaxChunkSize)
	}
	client := &Client{
		api:       api,
		http:      &http.Client{Transport: transport, CheckRedirect: checkRedirect(api)},
		timeout:   c.Timeout,
		stall:     c.Stall,
		retry:     c.Retry.withDefaults(),
		chunkSize: c.ChunkSize,
		userAgent: c.UserAgent,
		sleep:     c.Sleep,
		now:       c.Now,
		waiting:   func(error, time.Duration) {},
	}
	if client.timeout <= 0 {
		client.timeout = time.Minute
	}
	if client.stall <= 0 {
		client.stall = time.Minute
	}
	if client.chunkSize == 0 {
		client.chunkSize = MaxChunkSize
	}
	if client.userAgent == "" {
		client.userAgent = "girder-worker"
	}
	if client.sleep == nil {
		client.sleep = sleep
	}
	if c.Waiting != nil {
		client.waiting = c.Waiting
	}
	if client.now == nil {
		client.now = time.Now
	}
	client.token = newTokenSource(c.Token, c.APIKey, c.Tokens)
	return client, nil
}

// WithToken returns a client of the same server, over the same connections, that
// sends another token.
func (c *Client) WithToken(token string) *Client {
	other := *c
	other.token = newTokenSource(token, "", nil)
	return &other
}

// Close drops the connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// API returns the root of the API, without a slash at the end.
func (c *Client) API() string { return c.api.String() }

func parseAPI(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("cannot use %.200q as a Girder API: want http://HOST/api/v1", s)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("cannot use the Girder API at %.200q: want no user, query or fragment in it", u.Host)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	return u, nil
}

var (
	objectID = regexp.MustCompile(`^[0-9a-f]{24}$`)
	jobPath  = regexp.MustCompile(`^(.*)/job/([0-9a-f]{24})/?$`)
)

// SplitJobURL takes the url of a jobInfoSpec apart: the root of the API for
// [Config], and the job's id.
func SplitJobURL(jobURL string) (api, id string, err error) {
	u, err := url.Parse(jobURL)
	if err == nil {
		if m := jobPath.FindStringSubmatch(u.Path); m != nil && u.RawQuery == "" {
			u.Path, u.RawPath = m[1], ""
			return u.String(), m[2], nil
		}
	}
	return "", "", fmt.Errorf("cannot use %.200q as the address of a Girder job: want http://HOST/api/v1/job/ID", jobURL)
}

// checkID keeps what is no id out of paths.
func checkID(kind, id string) error {
	if !objectID.MatchString(id) {
		return fmt.Errorf("cannot use %.100q as the id of a Girder %s: want 24 hexadecimal digits", id, kind)
	}
	return nil
}

// call is one request, which may be tried several times.
type call struct {
	method string
	path   string // below the API, elements already checked
	query  url.Values
	form   url.Values // sent as the body
	// content, when there is one, is sent as the body: length bytes from the
	// reader that it returns, a new one each time.
	content func() io.Reader
	length  int64
	header  http.Header
	// repeatable: trying again does no harm when the server had already
	// carried the call out.
	repeatable bool
	anonymous  bool // without token
}

// do makes a call, again where that is right, and decodes the answer into out
// (which may be nil).
func (c *Client) do(ctx context.Context, r call, out any) error {
	return c.again(ctx, r.repeatable, func() error { return c.once(ctx, r, out) })
}

// once makes a call and, when a session token turns out to have ended, once more.
func (c *Client) once(ctx context.Context, r call, out any) error {
	var token string
	if !r.anonymous {
		var err error
		if token, err = c.token.get(ctx, c); err != nil {
			return err
		}
	}
	err := c.try(ctx, r, token, out)
	if status := (*StatusError)(nil); !r.anonymous && errors.As(err, &status) && status.Status == http.StatusUnauthorized && c.token.drop(token) {
		if token, err = c.token.get(ctx, c); err != nil {
			return err
		}
		err = c.try(ctx, r, token, out)
	}
	return err
}

func (c *Client) try(ctx context.Context, r call, token string, out any) error {
	response, timer, err := c.send(ctx, r, token)
	if err != nil {
		return err
	}
	defer timer.end()
	defer response.Body.Close()
	if response.StatusCode < 200 || response.StatusCode > 299 {
		return statusError(r, response)
	}
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return &answerError{r, fmt.Errorf("cannot read the answer: %w", cause(ctx, response.Request.Context(), err))}
	case len(answer) > maxAnswer:
		return &answerError{r, fmt.Errorf("%w: %w: longer than %d bytes", ErrAnswer, ErrTooLong, maxAnswer)}
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return &answerError{r, fmt.Errorf("%w: %.200q", ErrAnswer, answer)}
	}
	if d, ok := out.(interface{ setServerTime(time.Time) }); ok {
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			d.setServerTime(date)
		}
	}
	return nil
}

// send sends a request and returns the answer with its body still to be read.
// The caller closes the body and then ends the timer.
func (c *Client) send(ctx context.Context, r call, token string) (_ *http.Response, _ *timer, err error) {
	limit := c.timeout
	if r.content != nil {
		limit = c.stall
	}
	limited, timer := withTimer(ctx, limit)
	defer func() {
		if err != nil {
			timer.end()
		}
	}()

	u := *c.api
	u.Path += "/" + r.path
	u.RawQuery = r.query.Encode()
	request, err := http.NewRequestWithContext(limited, r.method, u.String(), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a request to Girder: %w", err)
	}
	for name, values := range r.header {
		request.Header[name] = values
	}
	request.Header.Set("User-Agent", c.userAgent)
	if token != "" {
		request.Header.Set(tokenHeader, token)
	}
	switch {
	case r.form != nil:
		form := r.form.Encode()
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		setBody(request, int64(len(form)), func() io.Reader { return strings.NewReader(form) })
	case r.content != nil:
		request.Header.Set("Content-Type", "application/octet-stream")
		setBody(request, r.length, func() io.Reader { return &timedReader{r.content(), timer} })
	case r.method != http.MethodGet:
		setBody(request, 0, func() io.Reader { return bytes.NewReader(nil) })
	}

	var sent atomic.Bool
	trace := &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}
	response, err := c.http.Do(request.WithContext(httptrace.WithClientTrace(limited, trace)))
	if err != nil {
		return nil, nil, &transportError{call: r, sent: sent.Load(), err: cause(ctx, limited, err)}
	}
	if r.content != nil { // the contents are over; what is left is an answer
		timer.reset(c.timeout)
	}
	return response, timer, nil
}

// setBody gives a request a body that can be sent again, with a Content-Length
// even when it is empty: Girder answers 411 without one.
func setBody(request *http.Request, length int64, open func() io.Reader) {
	request.ContentLength = length
	request.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(open()), nil }
	request.Body, _ = request.GetBody()
	if length == 0 {
		request.Body = http.NoBody
		request.GetBody = func() (io.ReadCloser, error) { return http.NoBody, nil }
	}
}
