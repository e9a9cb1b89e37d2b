// Package client talks to the daemon over its Unix socket, one file per noun of
// the API. Errors are [*Error] with a Kind a program can act on, whether the
// daemon refused or could not be reached; their text is one line that says what
// to do. A Client is safe for concurrent use.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"girderworker/daemon/apitype"
)

// DefaultSocket is where an installed daemon listens.
const DefaultSocket = "/run/girder-worker/girder-worker.sock"

// maxAnswer bounds what is read of an answer that is not a stream.
const maxAnswer = 256 << 20

// A Client sends requests to one socket.
type Client struct {
	socket string
	http   http.Client
}

// New makes a client of the daemon behind socket; empty is [DefaultSocket].
// Nothing is connected yet. conns is how many connections stay open between
// requests; 0 is 2.
func New(socket string, conns int) *Client {
	if socket == "" {
		socket = DefaultSocket
	}
	if conns == 0 {
		conns = 2
	}
	c := &Client{socket: socket}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.socket)
		},
		MaxIdleConnsPerHost: conns,
		IdleConnTimeout:     time.Minute,
		DisableCompression:  true,
	}
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

// Socket is the path of the daemon's socket.
func (c *Client) Socket() string { return c.socket }

// Close closes the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one call: everything but method and path may be empty.
type request struct {
	method string
	path   string
	query  url.Values
	accept string
	body   io.Reader
	kind   string // of the body
}

// send returns the answer when it is 2xx; the caller closes its body.
func (c *Client) send(ctx context.Context, q request) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "girder-worker", Path: q.path, RawQuery: q.query.Encode()}
	r, err := http.NewRequestWithContext(ctx, q.method, u.String(), q.body)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	if q.accept != "" {
		r.Header.Set("Accept", q.accept)
	}
	if q.kind != "" {
		r.Header.Set("Content-Type", q.kind)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if answer.StatusCode/100 == 2 {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, refused(answer)
}

// call sends v (nil: nothing) as JSON and reads the answer into out (nil: none).
func (c *Client) call(ctx context.Context, method, path string, query url.Values, v, out any) error {
	q := request{method: method, path: path, query: query}
	if v != nil {
		body, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("cannot encode the request: %w", err)
		}
		q.body, q.kind = bytes.NewReader(body), "application/json"
	}
	return c.exchange(ctx, q, out)
}

// callRaw posts a document as it is: what is wrong with it is the daemon's to say.
func (c *Client) callRaw(ctx context.Context, path string, document []byte, out any) error {
	return c.exchange(ctx, request{
		method: http.MethodPost, path: path, body: bytes.NewReader(document), kind: "application/json",
	}, out)
}

func (c *Client) exchange(ctx context.Context, q request, out any) error {
	answer, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return c.read(ctx, answer, out)
}

func (c *Client) read(ctx context.Context, answer *http.Response, out any) error {
	body := io.LimitReader(answer.Body, maxAnswer)
	if out == nil {
		_, err := io.Copy(io.Discard, body)
		return err
	}
	if err := json.NewDecoder(body).Decode(out); err != nil {
		return c.unreachable(ctx, fmt.Errorf("cannot read the daemon's answer: %w", err))
	}
	_, _ = io.Copy(io.Discard, body) // so that the connection can be used again
	return nil
}

// refused reads the envelope of an answer that is not 2xx.
func refused(answer *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	var f apitype.Failure
	if err == nil {
		err = json.Unmarshal(body, &f)
	}
	if err != nil || f.Error.Kind == "" {
		return &Error{
			Status: answer.StatusCode,
			Kind:   apitype.KindInternal,
			Text:   fmt.Sprintf("the daemon answered %s without saying why", answer.Status),
		}
	}
	return &Error{Status: answer.StatusCode, Kind: f.Error.Kind, Text: f.Error.Message, Field: f.Error.Field}
}

// callJob calls a route of one job. An id that cannot be one is not sent: it
// may be anything that a person typed, another route's path even.
func (c *Client) callJob(ctx context.Context, method, id, verb string, query url.Values, v, out any) error {
	if err := checkID(id); err != nil {
		return err
	}
	return c.call(ctx, method, jobPath(id, verb), query, v, out)
}

func checkID(id string) error {
	odd := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	if id == "" || id[0] == '.' || strings.ContainsFunc(id, odd) {
		return &Error{Status: http.StatusNotFound, Kind: apitype.KindNotFound, Text: fmt.Sprintf("no such job: %q cannot be an id", id)}
	}
	return nil
}

func jobPath(id, verb string) string {
	p := "/v1/jobs/" + id
	if verb != "" {
		p += "/" + verb
	}
	return p
}

// isCanceled tells the end of the caller's context from a lost connection.
func isCanceled(ctx context.Context, err error) bool {
	return ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded))
}
