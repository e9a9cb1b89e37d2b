package api

import (
	"log/slog"
	"net/http"

	"girderworker/daemon/apitype"
)

func (s *Server) getVersion(w http.ResponseWriter, _ *http.Request, _ *call) error {
	s.answer(w, http.StatusOK, s.version)
	return nil
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request, _ *call) error {
	st, err := s.control.Status(r.Context())
	if err != nil {
		return err
	}
	s.answer(w, http.StatusOK, st)
	return nil
}

func (s *Server) pause(w http.ResponseWriter, r *http.Request, _ *call) error {
	return s.paused(w, s.control.Pause(r.Context(), false))
}

func (s *Server) drain(w http.ResponseWriter, r *http.Request, _ *call) error {
	return s.paused(w, s.control.Pause(r.Context(), true))
}

func (s *Server) resume(w http.ResponseWriter, r *http.Request, _ *call) error {
	return s.paused(w, s.control.Resume(r.Context()))
}

func (s *Server) paused(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	var p apitype.Pause
	p.Paused, p.Draining = s.control.Paused()
	s.answer(w, http.StatusOK, p)
	return nil
}

// backup sends a consistent copy of the queue's database.
func (s *Server) backup(w http.ResponseWriter, r *http.Request, _ *call) error {
	ctx, end := s.lasting(w, r)
	defer end()
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &countingWriter{w: w}
	err := s.queue.Backup(ctx, out)
	if err != nil && out.n > 0 {
		s.logger.Error("Cannot finish a backup", slog.Any("error", err))
		panic(http.ErrAbortHandler) // so that the client sees that the copy is not whole
	}
	return err
}

type countingWriter struct {
	w http.ResponseWriter
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
