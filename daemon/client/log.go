package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"girderworker/daemon/apitype"
)

// maxLine bounds a line of JSON: a record of a log is at most 64 KiB, which
// escapes can make six times as long.
const maxLine = 4 << 20

// LogOptions choose what [Client.Log] gets.
type LogOptions struct {
	Follow bool   // go on until the job has ended
	Status bool   // frames for changes of state and progress, and the job at the end
	Stream string // apitype.StreamStdout or StreamStderr; empty is all
	// Patience outlasts restarts of the daemon: the log goes on where it was.
	Patience Patience
}

// Log calls frame with every frame of a job's log, oldest first, all attempts
// one after the other. A frame's memory is good until frame returns; its error
// ends the log and is returned.
func (c *Client) Log(ctx context.Context, id string, o LogOptions, frame func(*apitype.LogFrame) error) error {
	if err := checkID(id); err != nil {
		return err
	}
	query := url.Values{}
	if o.Follow {
		query.Set("follow", "1")
	}
	if o.Status {
		query.Set("status", "1")
	}
	if o.Stream != "" {
		query.Set("stream", o.Stream)
	}
	p := o.Patience
	for {
		err := c.logOnce(ctx, id, query, p.heard, func(f *apitype.LogFrame) error {
			p.reset()
			if f.Attempt > 0 && f.Stream != "" {
				query.Set("attempt", strconv.Itoa(f.Attempt))
				query.Set("offset", strconv.FormatInt(f.Offset, 10))
			}
			return frame(f)
		})
		if err == nil || !p.retry(ctx, err) {
			return err
		}
	}
}

func (c *Client) logOnce(ctx context.Context, id string, query url.Values, heard func(), frame func(*apitype.LogFrame) error) error {
	answer, err := c.send(ctx, request{
		method: http.MethodGet, path: jobPath(id, "log"), query: query, accept: "application/x-ndjson",
	})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	heard()
	return c.lines(ctx, answer.Body, func(line []byte) error {
		var f apitype.LogFrame
		if err := json.Unmarshal(line, &f); err != nil {
			return fmt.Errorf("cannot read the daemon's answer: %w", err)
		}
		return frame(&f)
	})
}

// Events calls event with every change of the caller's jobs until ctx ends, an
// admin's with those of all jobs.
func (c *Client) Events(ctx context.Context, event func(apitype.Event) error) error {
	answer, err := c.send(ctx, request{method: http.MethodGet, path: "/v1/events", accept: "application/x-ndjson"})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return c.lines(ctx, answer.Body, func(line []byte) error {
		var e apitype.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("cannot read the daemon's answer: %w", err)
		}
		return event(e)
	})
}

// lines calls line with each line; nil means that the daemon ended the stream
// in good order.
func (c *Client) lines(ctx context.Context, r io.Reader, line func([]byte) error) error {
	b := bufio.NewReaderSize(r, 128<<10)
	var long []byte // what did not fit into b
	for {
		part, err := b.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) && len(long) < maxLine {
			long = append(long, part...)
			continue
		}
		switch {
		case errors.Is(err, io.EOF) && len(part)+len(long) == 0:
			return nil
		case err != nil:
			return c.unreachable(ctx, err)
		}
		if len(long) > 0 {
			part = append(long, part...)
			long = long[:0]
		}
		if err := line(part); err != nil {
			return err
		}
	}
}
