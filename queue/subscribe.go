package queue

import (
	"context"
	"sync"
)

// Notice is a change that was committed.
type Notice struct {
	Job      string
	Seq      uint64
	State    State
	Version  uint64
	Canceled bool // CancelRequested
}

// How many notices a subscriber may lag behind.
const (
	lagOne = 64
	lagAll = 4096
)

// hub hands notices to subscribers without ever waiting for one.
type hub struct {
	mu     sync.Mutex
	closed bool
	byJob  map[string]map[*subscriber]struct{} // "" is all jobs
}

type subscriber struct {
	job  string
	c    chan Notice
	stop func() bool
}

// Subscribe delivers notices of id ("" for all) until ctx ends. A subscriber
// that lags is closed early: it reads the job again and subscribes anew.
func (s *Store) Subscribe(ctx context.Context, id string) <-chan Notice {
	lag := lagOne
	if id == "" {
		lag = lagAll
	}
	sub := &subscriber{job: id, c: make(chan Notice, lag)}
	h := &s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(sub.c)
		return sub.c
	}
	if h.byJob == nil {
		h.byJob = make(map[string]map[*subscriber]struct{})
	}
	if h.byJob[id] == nil {
		h.byJob[id] = make(map[*subscriber]struct{})
	}
	h.byJob[id][sub] = struct{}{}
	sub.stop = context.AfterFunc(ctx, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(sub)
	})
	return sub.c
}

// drop ends sub, once. The lock is held.
func (h *hub) drop(sub *subscriber) {
	subs := h.byJob[sub.job]
	if _, ok := subs[sub]; !ok {
		return
	}
	delete(subs, sub)
	if len(subs) == 0 {
		delete(h.byJob, sub.job)
	}
	sub.stop()
	close(sub.c)
}

func (h *hub) publish(notices []Notice) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.byJob) == 0 {
		return
	}
	for _, n := range notices {
		for _, job := range [...]string{n.Job, ""} {
			for sub := range h.byJob[job] {
				select {
				case sub.c <- n:
				default:
					h.drop(sub)
				}
			}
		}
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, subs := range h.byJob {
		for sub := range subs {
			h.drop(sub)
		}
	}
}
