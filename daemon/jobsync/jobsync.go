package jobsync

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"girderworker/queue"
	"girderworker/transforms/girder"
)

// Config is what a [Syncer] needs. Only Queue and StateDir are required.
type Config struct {
	Queue *queue.Store
	// StateDir is where the attempts' directories are.
	StateDir string
	Logger   *slog.Logger
	// Cancel asks for the end of a job that was canceled in Girder.
	Cancel func(ctx context.Context, id, reason string) error
	// Results takes the ends of jobs that Celery waits for; nil: none is told.
	Results  Publisher
	Settings Settings
	// Clock is the time, for tests.
	Clock Clock
}

// Settings may change while the daemon runs, see [Syncer.Apply].
type Settings struct {
	// Override says where a Girder is reached from here.
	Override girder.Override
	// Age is how long after a job's end it is tried to report it. 0: a week.
	Age time.Duration
}

const defaultAge = 7 * 24 * time.Hour

// A Publisher publishes results of Celery tasks and what follows from them.
type Publisher interface {
	// Publish returns nil when the result is with the broker, or nobody waits for
	// it any more. ErrUnpublishable: it never can be. Any other error is tried
	// again, later and for long. It is not called for one job twice at a time.
	Publish(ctx context.Context, r Result) error
}

// ErrUnpublishable: a result that no repetition helps.
var ErrUnpublishable = errors.New("cannot be published")

// Result is the end of a job that came from Celery.
type Result struct {
	// Job has its origin and not its body.
	Job *queue.Job
	// Secrets are the job's, as they were submitted.
	Secrets []byte
	// State is Succeeded, Failed or Canceled; Time when the job came to it.
	State queue.State
	Time  time.Time
	// Value is what the task returned: null for a container.
	Value json.RawMessage
	// Failure is set with Failed.
	Failure Failure
}

// Clock is the time and a way to wait for it.
type Clock interface {
	Now() time.Time
	// Timer returns a channel that gets the time after d, and what stops it. idle
	// tells that nothing but that channel and the queue is waited for.
	Timer(d time.Duration, idle bool) (<-chan time.Time, func() bool)
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) Timer(d time.Duration, _ bool) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}

// Syncer drains the outbox. Run does the work; the other methods may be called
// from anywhere, at any time.
type Syncer struct {
	store    *queue.Store
	stateDir string
	log      *slog.Logger
	cancel   func(context.Context, string, string) error
	results  Publisher
	clock    Clock
	settings atomic.Pointer[Settings]

	wake chan struct{} // capacity 1: there is something to start

	mu      sync.Mutex
	tasks   map[taskKey]*task
	hosts   map[string]*host
	flying  int // steps under way
	clients map[string]*girder.Client

	count counters
}

// New makes a Syncer that does nothing until Run.
func New(c Config) *Syncer {
	s := &Syncer{
		store: c.Queue, stateDir: c.StateDir, log: c.Logger, cancel: c.Cancel, results: c.Results, clock: c.Clock,
		wake: make(chan struct{}, 1), tasks: map[taskKey]*task{}, hosts: map[string]*host{}, clients: map[string]*girder.Client{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cancel == nil {
		s.cancel = func(ctx context.Context, id, reason string) error {
			_, err := s.store.Cancel(ctx, id, reason)
			return err
		}
	}
	if s.clock == nil {
		s.clock = realClock{}
	}
	s.Apply(c.Settings)
	return s
}

// Apply changes the settings, also for jobs whose reports wait.
func (s *Syncer) Apply(settings Settings) {
	if settings.Age <= 0 {
		settings.Age = defaultAge
	}
	s.settings.Store(&settings)
}

// Verdict is what Girder says of a job that is about to start.
type Verdict struct {
	// Stop: it was canceled, or has ended, in Girder, and is not to be run.
	Stop   bool
	Status girder.JobStatus
}

// Check tells Girder that the attempt of a claimed job begins, and what Girder
// says to that: a job that was canceled before it began is not to be run. Jobs
// that do not report to Girder are to be run. An error says that Girder could not
// be asked, or not before ctx ended; a server that is known to be away is not
// waited for. What is done then is the caller's choice: the job itself is not
// at fault.
func (s *Syncer) Check(ctx context.Context, job *queue.Job) (Verdict, error) {
	if job.Report&queue.SinkGirder == 0 {
		return Verdict{}, nil
	}
	answer := make(chan checked, 1)
	s.mu.Lock()
	if h := s.hosts[s.hostOf(job.Origin)]; h != nil && h.failures > 0 {
		s.mu.Unlock()
		return Verdict{}, ErrAway
	}
	t := s.task(taskKey{job.Seq, queue.SinkGirder})
	t.waiters = append(t.waiters, answer)
	s.kick(t)
	s.mu.Unlock()
	s.nudge()
	select {
	case a := <-answer:
		return a.verdict, a.err
	case <-ctx.Done():
		return Verdict{}, context.Cause(ctx)
	}
}

// Look asks Girder how the job stands that a job here reports to, and tells it
// nothing. 0: the job reports to none.
func (s *Syncer) Look(ctx context.Context, job *queue.Job) (girder.JobStatus, error) {
	if job.Report&queue.SinkGirder == 0 {
		return 0, nil
	}
	secrets, err := s.store.Secrets(ctx, job.ID)
	if err != nil {
		return 0, err
	}
	r := &report{job: *job}
	if err := s.aim(r, secrets); err != nil {
		return 0, err
	}
	// The token may be good for nothing but an update: one of nothing.
	now, err := r.client.UpdateJob(ctx, r.id, girder.JobReport{})
	return now.Status, err
}

// CreateJob makes a Girder job on the server whose API is at api, with a token that
// may do that.
func (s *Syncer) CreateJob(ctx context.Context, api, token string, j girder.NewJob) (spec map[string]any, err error) {
	c, err := s.clientOf(api, Target{Headers: map[string]string{tokenHeader: token}})
	if err != nil {
		return nil, err
	}
	return c.CreateJob(ctx, j)
}

// ErrAway: the server does not answer at present.
var ErrAway = errors.New("the Girder server does not answer at present")

type checked struct {
	verdict Verdict
	err     error
}

// Retry has results tried again at once: the broker is back.
func (s *Syncer) Retry() {
	s.mu.Lock()
	if h := s.hosts[celeryHost]; h != nil {
		h.until = time.Time{}
		for _, t := range h.queue {
			t.due = time.Time{}
		}
	}
	s.mu.Unlock()
	s.nudge()
}

func (s *Syncer) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Stats is how the reports stand.
type Stats struct {
	// Pending is how many jobs have something that was not told yet, and Oldest
	// since when the first of it waits; zero when there is none.
	Pending map[string]int // "girder", "celery"
	Oldest  time.Time
	// What follows is counted since the start. Delivered is changes of state and
	// results; LogBytes log text.
	Delivered, LogBytes uint64
	// Duplicates is pieces of a log that were sent again because nothing could
	// tell whether they had arrived.
	Duplicates uint64
	// Refused is reports that Girder answered with a refusal and that were not
	// repeated; GaveUp is jobs of which the rest was never told.
	Refused, GaveUp uint64

	// Calls is what became of requests to Girder; LastAnswer is when one was answered.
	Calls      Calls
	LastAnswer time.Time
	// Servers are those that jobs report to now.
	Servers []Server
}

// Calls counts requests: answered as wanted, with a refusal, with a failure of
// the server, and not at all.
type Calls struct {
	OK, Refused, Failed, Unreachable uint64
}

// Server is a Girder and how it is.
type Server struct {
	Address string
	// Problem is why the last exchange failed; empty: it did not.
	Problem string
	// Next is when it is asked again.
	Next time.Time
}

type counters struct {
	delivered, logBytes, duplicates, refused, gaveUp atomic.Uint64

	ok, denied, failed, unreachable atomic.Uint64
	lastAnswer                      atomic.Int64 // in nanoseconds since 1970
}

// Stats counts.
func (s *Syncer) Stats() Stats {
	st := Stats{
		Pending:   map[string]int{"girder": 0, "celery": 0},
		Delivered: s.count.delivered.Load(), LogBytes: s.count.logBytes.Load(), Duplicates: s.count.duplicates.Load(),
		Refused: s.count.refused.Load(), GaveUp: s.count.gaveUp.Load(),
	}
	st.Calls = Calls{OK: s.count.ok.Load(), Refused: s.count.denied.Load(), Failed: s.count.failed.Load(), Unreachable: s.count.unreachable.Load()}
	if at := s.count.lastAnswer.Load(); at != 0 {
		st.LastAnswer = time.Unix(0, at)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, h := range s.hosts {
		if key != unknownHost && key != celeryHost {
			st.Servers = append(st.Servers, Server{key, h.problem, h.until})
		}
	}
	slices.SortFunc(st.Servers, func(a, b Server) int { return strings.Compare(a.Address, b.Address) })
	for key, t := range s.tasks {
		if t.since.IsZero() {
			continue
		}
		sink := "girder"
		if key.sink == queue.SinkCelery {
			sink = "celery"
		}
		st.Pending[sink]++
		if st.Oldest.IsZero() || t.since.Before(st.Oldest) {
			st.Oldest = t.since
		}
	}
	return st
}

// tally counts a request to Girder by its error, which it returns.
func (s *Syncer) tally(ctx context.Context, err error) error {
	var status *girder.StatusError
	switch {
	case err == nil:
		s.count.ok.Add(1)
	case errors.As(err, &status) && status.Status < 500:
		s.count.denied.Add(1)
	case status != nil:
		s.count.failed.Add(1)
	case ctx.Err() != nil:
		return err
	default:
		s.count.unreachable.Add(1)
		return err
	}
	s.count.lastAnswer.Store(s.clock.Now().UnixNano())
	return err
}

// Reach is where the API is reached from here that a message names.
func (s Settings) Reach(api string) string { return s.Override.Apply(api) }

// ParseSettings reads settings as a configuration has them.
func ParseSettings(override string, age time.Duration) (Settings, error) {
	o, err := girder.ParseOverride(override)
	return Settings{Override: o, Age: age}, err
}
