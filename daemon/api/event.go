package api

import (
	"encoding/json"
	"net/http"

	"girderworker/daemon/apitype"
	"girderworker/queue"
)

// events sends every change of the caller's jobs, an admin's caller every
// change of all jobs, as lines of JSON until the client goes.
func (s *Server) events(w http.ResponseWriter, r *http.Request, c *call) error {
	for key := range r.URL.Query() {
		return failure(apitype.KindBadRequest, "unknown parameter %q", key)
	}
	ctx, end := s.lasting(w, r)
	defer end()
	notices := s.queue.Subscribe(ctx, "")
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, control := json.NewEncoder(w), http.NewResponseController(w)
	if err := control.Flush(); err != nil {
		return nil // the client is gone
	}
	for ctx.Err() == nil {
		if err := s.tellEvents(notices, enc, control, c); err != nil {
			return nil
		}
		if _, err := s.queue.List(queue.Filter{Limit: 1}); err != nil {
			return nil // closed, or broken: there will be no more
		}
		notices = s.queue.Subscribe(ctx, "")
		if ctx.Err() == nil && (enc.Encode(apitype.Event{Lagged: true}) != nil || control.Flush() != nil) {
			return nil
		}
	}
	return nil
}

// tellEvents returns nil when notices is closed: the client lags or ctx ended.
func (s *Server) tellEvents(notices <-chan queue.Notice, enc *json.Encoder, control *http.ResponseController, c *call) error {
	for n := range notices {
		job, err := s.queue.Job(n.Job)
		if isNotFound(err) || err == nil && !c.admin && job.Owner != c.peer.Owner() {
			continue
		}
		if err != nil {
			return err
		}
		event := apitype.Event{
			Job:             c.shown(job.ID),
			Owner:           job.Owner,
			Name:            job.Name,
			State:           string(n.State),
			Attempt:         job.Attempt,
			Version:         n.Version,
			CancelRequested: n.Canceled,
		}
		if job.Version == n.Version {
			event.Reason = c.shownText(job.Reason, &job)
		}
		if err := enc.Encode(&event); err != nil {
			return err
		}
		if len(notices) == 0 {
			if err := control.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}
