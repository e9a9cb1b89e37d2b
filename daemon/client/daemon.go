package client

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"girderworker/daemon/apitype"
)

// Version returns the daemon's version.
func (c *Client) Version(ctx context.Context) (apitype.Version, error) {
	var v apitype.Version
	err := c.call(ctx, http.MethodGet, "/v1/version", nil, nil, &v)
	return v, err
}

// Status returns the daemon's state.
func (c *Client) Status(ctx context.Context) (apitype.Status, error) {
	var s apitype.Status
	err := c.call(ctx, http.MethodGet, "/v1/status", nil, nil, &s)
	return s, err
}

// Pause stops the start of jobs until Resume.
func (c *Client) Pause(ctx context.Context) (apitype.Pause, error) { return c.pause(ctx, "/v1/pause") }

// Drain is Pause before a shutdown: what runs may end.
func (c *Client) Drain(ctx context.Context) (apitype.Pause, error) { return c.pause(ctx, "/v1/drain") }

// Resume ends Pause and Drain.
func (c *Client) Resume(ctx context.Context) (apitype.Pause, error) {
	return c.pause(ctx, "/v1/resume")
}

func (c *Client) pause(ctx context.Context, path string) (apitype.Pause, error) {
	var p apitype.Pause
	err := c.call(ctx, http.MethodPost, path, nil, nil, &p)
	return p, err
}

// Backup writes a consistent copy of the queue to w. After an error what w got
// is not whole.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	answer, err := c.send(ctx, request{method: http.MethodGet, path: "/v1/backup"})
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	n, err := io.Copy(w, source{answer.Body, func(err error) error { return c.unreachable(ctx, err) }})
	if err != nil {
		return n, fmt.Errorf("cannot copy the backup: %w", err)
	}
	return n, nil
}

// source explains the errors of reading, which io.Copy mixes with those of writing.
type source struct {
	r       io.Reader
	explain func(error) error
}

func (s source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		err = s.explain(err)
	}
	return n, err
}
