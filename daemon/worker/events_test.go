package worker

import (
	"log/slog"
	"strings"
	"testing"

	"girderworker/daemon/celery"
	"girderworker/queue"
)

// TestReceived: a task that was claimed before its arrival was looked at is told to
// have arrived all the same, and once.
func TestReceived(t *testing.T) {
	s := open(t)
	var said strings.Builder
	e := &Events{
		Source: &celery.EventSource{Node: "celery@lab", Clock: &celery.Clock{}}, Store: s,
		Send: func(m celery.Message) { said.Write(m.Body) }, Logger: slog.New(slog.DiscardHandler),
	}
	e.Switch(true)
	notices := s.Subscribe(t.Context(), "")
	take(t, s, message("a", plain, nil))
	jobs, err := s.Claim(t.Context(), queue.Capacity{Slots: 1, CPUs: 8, Memory: 64 << 30}, "boot", 1)
	if err != nil || len(jobs) != 1 {
		t.Fatalf("claimed %+v, %v", jobs, err)
	}
	if _, err := s.Interrupt(t.Context(), "a", 1, "the machine"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		e.notice(<-notices)
	}
	e.flush()
	if n := strings.Count(said.String(), "task-received"); n != 1 {
		t.Errorf("%d events that it has arrived: %s", n, &said)
	}
}
