package jobsync

import (
	"container/heap"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/url"
	"sync"
	"time"

	"girderworker/queue"
	"girderworker/transforms/girder"
)

// A task is the reports of one job to one sink. A hundred thousand of them may
// wait for a server that is away, so what it needs while it is worked on is in
// report, and gone when it only waits.
type task struct {
	taskKey
	host  *host
	due   time.Time
	index int // in host.queue; -1: waits for nothing but the queue

	running, again bool // a step is under way; another is due at once
	failures       int  // steps in a row that were the job's own fault
	// since is when the first of what was not told yet happened.
	since   time.Time
	report  *report
	waiters []chan<- checked
}

type taskKey struct {
	seq  uint64
	sink queue.Sinks
}

// A host is a server, with the tasks that talk to it and what is known of its
// health. One that fails is left alone for a while, and then asked by one task.
type host struct {
	key      string
	queue    taskQueue
	flying   int
	failures int
	problem  string    // the last failure
	until    time.Time // nothing is started before
}

const (
	// atOnce is how many steps talk to one server at a time.
	atOnce = 8
	// atAll bounds all servers together: each may keep a step for a call's time limit.
	atAll = 256

	firstPause = time.Second
	lastPause  = time.Minute

	// celeryHost and unknownHost are no addresses of a server.
	celeryHost  = "celery"
	unknownHost = ""
)

// outcome is what a step came to.
type outcome struct {
	// done: nothing is left, now and later.
	done bool
	// host: the task belongs to that server.
	host string
	// again is when to look again; zero: when the queue has something new.
	again time.Time
	// since: see task; keep: it is as it was.
	since time.Time
	keep  bool
	// err, with away set, is the server's trouble, and else the job's.
	err  error
	away bool
	// quiet: no call was made, so nothing is known of the server.
	quiet bool
}

// Run drains the outbox until ctx ends. It returns when every step has ended;
// calls that were cut off are looked into at the next start.
func (s *Syncer) Run(ctx context.Context) {
	var steps sync.WaitGroup
	defer steps.Wait()
	s.scan()
	for {
		next, idle := s.start(ctx, &steps)
		var timer <-chan time.Time
		stop := func() bool { return true }
		if !next.IsZero() {
			timer, stop = s.clock.Timer(max(0, next.Sub(s.clock.Now())), idle)
		}
		select {
		case <-ctx.Done():
			stop()
			return
		case <-s.store.Outbox():
			s.collect()
		case <-s.wake:
		case <-timer:
		}
		stop()
	}
}

// collect takes in what the outbox has new.
func (s *Syncer) collect() {
	jobs, all := s.store.Reportable()
	s.take(jobs)
	if all {
		s.scan()
	}
}

// scan takes in all that the outbox holds.
func (s *Syncer) scan() {
	for after := uint64(0); ; {
		jobs, err := s.store.Pending(after, 0)
		if err != nil {
			if !errors.Is(err, queue.ErrClosed) {
				s.log.Error("Cannot read the outbox", "error", err)
			}
			return
		}
		if len(jobs) == 0 {
			return
		}
		s.take(jobs)
		after = jobs[len(jobs)-1].Seq
	}
}

func (s *Syncer) take(jobs []queue.PendingJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, j := range jobs {
		for _, sink := range []queue.Sinks{queue.SinkGirder, queue.SinkCelery} {
			if j.Left&sink == 0 {
				continue
			}
			t := s.task(taskKey{j.Seq, sink})
			if t.since.IsZero() {
				t.since = j.Oldest
			}
			s.kick(t)
		}
	}
}

// task finds or makes a task. The lock is held.
func (s *Syncer) task(key taskKey) *task {
	t := s.tasks[key]
	if t == nil {
		name := unknownHost
		if key.sink == queue.SinkCelery {
			name = celeryHost
		}
		t = &task{taskKey: key, host: s.host(name), index: -1}
		s.tasks[key] = t
	}
	return t
}

func (s *Syncer) host(key string) *host {
	h := s.hosts[key]
	if h == nil {
		h = &host{key: key}
		s.hosts[key] = h
	}
	return h
}

// kick makes a task due. One that failed by itself keeps its pause. The lock is held.
func (s *Syncer) kick(t *task) {
	switch {
	case t.running:
		t.again = true
	case t.failures == 0 || len(t.waiters) > 0:
		s.queue(t, s.clock.Now())
	}
}

// queue puts a task in its place at its server.
func (s *Syncer) queue(t *task, due time.Time) {
	t.due = due
	if t.index < 0 {
		heap.Push(&t.host.queue, t)
	} else {
		heap.Fix(&t.host.queue, t.index)
	}
}

// start begins the steps that are due, and returns when the next one is.
func (s *Syncer) start(ctx context.Context, steps *sync.WaitGroup) (next time.Time, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	for key, h := range s.hosts {
		for len(h.queue) > 0 {
			due := h.queue[0].due
			if due.Before(h.until) {
				due = h.until
			}
			if due.After(now) {
				if next.IsZero() || due.Before(next) {
					next = due
				}
				break
			}
			if h.flying >= atOnce || h.failures > 0 && h.flying > 0 || s.flying >= atAll {
				break // its end wakes us
			}
			t := heap.Pop(&h.queue).(*task)
			t.running, t.again = true, false
			waiters := t.waiters
			t.waiters = nil
			h.flying++
			s.flying++
			steps.Go(func() {
				o := s.step(ctx, t, waiters)
				s.ended(t, o, waiters)
			})
		}
		if len(h.queue) == 0 && h.flying == 0 && h.failures == 0 && key != unknownHost && key != celeryHost {
			s.forgetIfUnused(h)
		}
	}
	return next, s.flying == 0
}

var errNotAsked = errors.New("the Girder server was not asked")

// forgetIfUnused drops a server that no task belongs to. Tasks that wait for the
// queue are in no heap, so it is kept while there are any at all.
func (s *Syncer) forgetIfUnused(h *host) {
	if len(s.tasks) == 0 {
		delete(s.hosts, h.key)
		for key, c := range s.clients {
			c.Close()
			delete(s.clients, key)
		}
	}
}

// forgetIfLeft drops a server whose tasks have all moved to other addresses, so that
// nobody is told of its outage any more.
func (s *Syncer) forgetIfLeft(h *host) {
	if h.key == unknownHost || h.key == celeryHost || len(h.queue) > 0 || h.flying > 0 {
		return
	}
	for _, t := range s.tasks {
		if t.host == h {
			return
		}
	}
	delete(s.hosts, h.key)
}

// ended takes in what a step came to.
func (s *Syncer) ended(t *task, o outcome, waiters []chan<- checked) {
	defer s.nudge()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	h := t.host
	h.flying--
	s.flying--
	t.running = false
	if !o.keep {
		t.since = o.since
	}
	if o.host != "" && o.host != h.key {
		t.waiters = append(t.waiters, waiters...) // it goes on there
		t.host = s.host(o.host)
		s.forgetIfLeft(h)
		s.queue(t, now)
		if t.host.failures > 0 {
			t.rest()
		}
		return
	}
	for _, w := range waiters {
		answer(w, checked{err: errors.Join(errNotAsked, o.err)})
	}
	switch {
	case o.away:
		h.failures++
		if o.err != nil {
			h.problem = o.err.Error()
		}
		h.until = now.Add(pause(h.failures))
		// Tasks of one server are asked in turn, so that none keeps the others from expiring.
		s.queue(t, h.until)
		t.rest()
		if h.failures == 1 { // those that come from now on rest at once
			for _, t := range h.queue {
				t.rest()
			}
		}
		return
	case o.err != nil:
		t.failures++
		o.again = now.Add(pause(t.failures))
	default:
		t.failures = 0
	}
	if !o.quiet {
		h.failures, h.problem, h.until = 0, "", time.Time{}
	}
	switch {
	case o.done && !t.again && len(t.waiters) == 0:
		delete(s.tasks, t.taskKey)
	case t.again && o.err == nil, len(t.waiters) > 0:
		s.queue(t, now)
	case !o.again.IsZero():
		s.queue(t, o.again)
	case o.done:
		s.queue(t, now)
	}
}

// rest prepares a task for a long wait: whoever waits for it is answered, and
// what was read for it is read again when the job has ended. The lock is held.
func (t *task) rest() {
	for _, w := range t.waiters {
		answer(w, checked{err: ErrAway})
	}
	t.waiters = nil
	if r := t.report; r != nil && !r.dirty && r.job.State.Final() {
		t.report = nil
	}
}

// pause is the wait after n failures in a row, less up to half of it by chance.
func pause(n int) time.Duration {
	d := lastPause
	if n < 7 {
		d = min(firstPause<<(n-1), lastPause)
	}
	return d - rand.N(d/2+1)
}

// hostOf is the key of the server that a job reports to; unknownHost when its
// origin does not tell.
func (s *Syncer) hostOf(origin []byte) string {
	t, err := TargetOf(origin, nil)
	if err != nil {
		return unknownHost
	}
	return s.hostKey(t)
}

func (s *Syncer) hostKey(t Target) string {
	api, _, err := girder.SplitJobURL(t.URL)
	if err != nil {
		return unknownHost
	}
	u, err := url.Parse(s.settings.Load().Override.Apply(api))
	if err != nil {
		return unknownHost
	}
	return u.Scheme + "://" + u.Host
}

// client makes a client for a target, over connections that all targets of one
// server and session share.
func (s *Syncer) client(t Target) (*girder.Client, error) {
	api, _, err := girder.SplitJobURL(t.URL)
	if err != nil {
		return nil, err
	}
	return s.clientOf(api, t)
}

// clientOf is client for the server of an API, whatever the target's address.
func (s *Syncer) clientOf(api string, t Target) (*girder.Client, error) {
	api = s.settings.Load().Override.Apply(api)
	token, headers := t.token()
	shape, err := json.Marshal([]any{api, t.Session, headers})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := s.clients[string(shape)]
	if shared == nil {
		if len(s.clients) >= maxClients {
			for key, c := range s.clients {
				c.Close() // those who have it keep it
				delete(s.clients, key)
			}
		}
		session, err := girder.ParseSession(t.Session)
		if err != nil {
			return nil, err
		}
		for name, v := range headers {
			if session.Headers == nil {
				session.Headers = map[string]string{}
			}
			session.Headers[name] = v
		}
		// Pauses are ours: a job that waits must not keep a place at its server.
		shared, err = girder.New(girder.Config{API: api, Session: session, Timeout: callTime, Retry: girder.Retry{Attempts: 1}})
		if err != nil {
			return nil, err
		}
		s.clients[string(shape)] = shared
	}
	return shared.WithToken(token), nil
}

const (
	// callTime limits one call.
	callTime = 30 * time.Second
	// maxClients bounds what messages may make us keep.
	maxClients = 64
)

// taskQueue is a heap by due.
type taskQueue []*task

func (q taskQueue) Len() int           { return len(q) }
func (q taskQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q taskQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *taskQueue) Push(x any) {
	t := x.(*task)
	t.index = len(*q)
	*q = append(*q, t)
}

func (q *taskQueue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	t.index = -1
	return t
}
