package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/queue"
)

// A follower looks for more output after firstLook, then less and less often.
// Looking is one read at the end of a file; a watch would cost a descriptor of
// the few that a user has.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 100 * time.Millisecond
)

// logRequest is what a request for a log asks for.
type logRequest struct {
	follow  bool   // go on until the job is final and everything is told
	status  bool   // tell state, stage and progress too, and the job at the end
	stream  string // only this stream, or all
	attempt int    // where to start
	offset  int64
}

func parseLogRequest(query url.Values) (logRequest, error) {
	q := logRequest{attempt: 1}
	for key, values := range query {
		value := values[len(values)-1]
		var err error
		switch key {
		case "follow":
			q.follow, err = strconv.ParseBool(value)
		case "status":
			q.status, err = strconv.ParseBool(value)
		case "stream":
			q.stream = value
			if value != apitype.StreamStdout && value != apitype.StreamStderr {
				err = fmt.Errorf("neither %s nor %s", apitype.StreamStdout, apitype.StreamStderr)
			}
		case "attempt":
			if q.attempt, err = strconv.Atoi(value); err == nil && q.attempt < 1 {
				err = errors.New("attempts count from 1")
			}
		case "offset":
			if q.offset, err = strconv.ParseInt(value, 10, 64); err == nil && q.offset < 0 {
				err = errors.New("less than 0")
			}
		default:
			return q, failure(apitype.KindBadRequest, "unknown parameter %q", key)
		}
		if err != nil {
			return q, failure(apitype.KindBadRequest, "%s: cannot use %.40q: %v", key, value, err)
		}
	}
	return q, nil
}

// jobLog sends the log of all attempts from the one asked for, as lines of JSON
// ([apitype.LogFrame]) where the client accepts application/x-ndjson, else as
// the bytes themselves.
func (s *Server) jobLog(w http.ResponseWriter, r *http.Request, c *call) error {
	q, err := parseLogRequest(r.URL.Query())
	if err != nil {
		return err
	}
	var sink logSink
	if strings.Contains(r.Header.Get("Accept"), "application/x-ndjson") {
		w.Header().Set("Content-Type", "application/x-ndjson")
		sink = &frameSink{enc: json.NewEncoder(w)}
	} else {
		w.Header().Set("Content-Type", "application/octet-stream")
		sink = &rawSink{w: w}
		q.status = false
	}
	ctx, end := s.lasting(w, r)
	defer end()
	t := &tail{server: s, call: c, id: c.job.ID, q: q, sink: sink, flush: http.NewResponseController(w).Flush}
	defer t.close()
	if err := t.run(ctx); err != nil && ctx.Err() == nil {
		if !t.sent {
			w.Header().Del("Content-Type")
			return err
		}
		s.logger.Error("Cannot go on with a log", "job", c.job.ID, "error", err)
		panic(http.ErrAbortHandler) // so that the client does not take this for the end
	}
	if ctx.Err() != nil && r.Context().Err() == nil {
		panic(http.ErrAbortHandler) // the server stops: the client asks again
	}
	return nil
}

// A logSink is how a log goes out.
type logSink interface {
	record(attempt int, next int64, rec *attempt.LogRecord) error
	status(status *apitype.JobStatus) error
	job(job *apitype.Job) error
}

type rawSink struct{ w io.Writer }

func (s *rawSink) record(_ int, _ int64, rec *attempt.LogRecord) error {
	_, err := s.w.Write(rec.Data)
	return err
}

func (*rawSink) status(*apitype.JobStatus) error { return nil }
func (*rawSink) job(*apitype.Job) error          { return nil }

type frameSink struct{ enc *json.Encoder }

func (s *frameSink) record(number int, next int64, rec *attempt.LogRecord) error {
	f := apitype.LogFrame{Attempt: number, Offset: next, Stream: streamName(rec.Stream), Time: rec.Time}
	if utf8.Valid(rec.Data) {
		f.Text = string(rec.Data)
	} else {
		f.Data = rec.Data
	}
	return s.enc.Encode(&f)
}

func (s *frameSink) status(status *apitype.JobStatus) error {
	return s.enc.Encode(&apitype.LogFrame{Status: status})
}

func (s *frameSink) job(job *apitype.Job) error {
	return s.enc.Encode(&apitype.LogFrame{Job: job})
}

func streamName(s attempt.LogStream) string {
	switch s {
	case attempt.LogStdout:
		return apitype.StreamStdout
	case attempt.LogStderr:
		return apitype.StreamStderr
	}
	return apitype.StreamMarker
}

// A tail sends the logs of a job's attempts, one after the other.
type tail struct {
	call   *call
	server *Server
	id     string
	q      logRequest
	sink   logSink
	flush  func() error
	sent   bool

	reader *attempt.LogReader // of attempt q.attempt, nil until there is one
	told   apitype.JobStatus
}

func (t *tail) close() {
	if t.reader != nil {
		_ = t.reader.Close() // was only read
		t.reader = nil
	}
}

func (t *tail) run(ctx context.Context) error {
	for {
		// Subscribed before the job is read, so that no change goes unseen.
		subscription, unsubscribe := context.WithCancel(ctx)
		var notices <-chan queue.Notice
		if t.q.follow {
			notices = t.server.queue.Subscribe(subscription, t.id)
		}
		done, err := t.follow(ctx, notices)
		unsubscribe()
		if done || err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// follow goes on until the log is done, or notices is closed because this
// follower was too slow for them.
func (t *tail) follow(ctx context.Context, notices <-chan queue.Notice) (done bool, err error) {
	look := time.NewTimer(firstLook)
	defer look.Stop()
	pause := firstLook
	job, err := t.server.queue.Job(t.id)
	for {
		if err != nil {
			return false, err
		}
		// The job was read before its log: once it is final, all of the log is there.
		wrote, err := t.catchUp(&job)
		if err != nil {
			return false, err
		}
		if !t.q.follow || job.State.Final() {
			return true, t.finish(&job)
		}
		if pause = min(2*pause, lastLook); wrote {
			pause = firstLook
		}
		look.Reset(pause)
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case _, open := <-notices:
			if !open {
				return false, nil
			}
			pause = firstLook
			job, err = t.server.queue.Job(t.id)
			if err != nil {
				return false, err
			}
		case <-look.C:
		}
	}
}

// catchUp sends what there is by now and tells whether there was something.
func (t *tail) catchUp(job *queue.Job) (wrote bool, err error) {
	if t.q.status {
		if wrote, err = t.tellStatus(job); err != nil {
			return wrote, err
		}
		t.sent = t.sent || wrote
	}
	for t.q.attempt <= job.Attempt {
		more, err := t.drain()
		wrote = wrote || more
		if err != nil {
			return wrote, err
		}
		if t.q.attempt == job.Attempt {
			break
		}
		t.close()
		t.q.attempt++
		t.q.offset = 0
	}
	if wrote || !t.sent {
		t.sent = true // the header at least, so that the client knows that it is heard
		err = t.flush()
	}
	return wrote, err
}

// drain sends the rest of the current attempt's log.
func (t *tail) drain() (wrote bool, err error) {
	if t.reader == nil {
		t.reader, err = t.server.openLog(t.id, t.q.attempt, t.q.offset)
		if err != nil {
			t.reader = nil
			return false, err
		}
	}
	for {
		rec, err := t.reader.Next()
		if err == io.EOF {
			return wrote, nil
		}
		if err != nil {
			return wrote, err
		}
		if t.q.stream != "" && streamName(rec.Stream) != t.q.stream {
			continue
		}
		wrote, t.sent = true, true
		if err := t.sink.record(t.q.attempt, t.reader.Offset(), &rec); err != nil {
			return wrote, err
		}
	}
}

// tellStatus sends what a follower shows beside the output, when it changed.
func (t *tail) tellStatus(job *queue.Job) (bool, error) {
	now := apitype.JobStatus{State: string(job.State), Attempt: job.Attempt, Reason: t.call.shownText(job.Reason, job)}
	if job.State.Active() {
		now.Stage, now.Progress = t.server.live.Live(job.ID, job.Attempt)
	}
	if reflect.DeepEqual(now, t.told) {
		return false, nil
	}
	t.told = now
	return true, t.sink.status(&now)
}

func (t *tail) finish(job *queue.Job) error {
	if t.q.status {
		v := t.server.fullView(t.call, job)
		if err := t.sink.job(&v); err != nil {
			return err
		}
	}
	return t.flush()
}

// openLog answers an offset that is none of the log's as a bad request.
func (s *Server) openLog(job string, number int, offset int64) (*attempt.LogReader, error) {
	dir, err := attempt.NewDir(s.stateDir, job, number)
	if err != nil {
		return nil, err
	}
	reader, err := dir.Log(offset)
	if errors.Is(err, attempt.ErrInvalid) {
		err = failure(apitype.KindBadRequest, "offset: %d is not one that this log gave", offset)
	}
	return reader, err
}
