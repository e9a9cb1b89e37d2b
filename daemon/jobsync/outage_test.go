package jobsync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"girderworker/queue"
	"girderworker/transforms/girder/girdertest"
)

// TestAway: Girder is away for a minute while jobs run and end.
func TestAway(t *testing.T) {
	for name, trouble := range map[string]func(http.ResponseWriter){
		"broken":  func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"503":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"500":     func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"garbage": func(w http.ResponseWriter) { fmt.Fprint(w, "<html>It works!") },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.clock.leaps = true
			back := r.clock.Now().Add(time.Minute)
			r.during(func(w http.ResponseWriter, req *http.Request, _ url.Values, next http.Handler) {
				if r.clock.Now().Before(back) {
					trouble(w)
					return
				}
				next.ServeHTTP(w, req)
			})
			r.begin()
			var jobs []*job
			for i := range 20 {
				jobs = append(jobs, r.submit(fmt.Sprint("j", i), celeryHandler))
			}
			r.claim(jobs...)
			for _, j := range jobs {
				j.start().write("first\n")
			}
			for _, j := range jobs {
				j.write("last\n").succeed()
			}
			r.told()
			for _, j := range jobs {
				if got := j.girderLog(); got != "first\nlast\n" || !strings.HasSuffix(j.statuses(), "2 3]") {
					t.Errorf("%s came to %s with %q", j.id, j.statuses(), got)
				}
			}
			if st := r.syncer.Stats(); st.Duplicates != 0 || st.GaveUp != 0 || st.Pending["girder"] != 0 {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// TestLostAnswers: calls are carried out, and their answers lost. Five hundred
// jobs at once; every line arrives once and in order.
func TestLostAnswers(t *testing.T) {
	r := newRig(t)
	r.clock.leaps = true
	n := 500
	if testing.Short() {
		n = 50
	}
	var calls atomic.Int64
	r.during(func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler) {
		switch k := calls.Add(1); {
		case k%7 == 0:
			next.ServeHTTP(discard{http.Header{}}, req)
			panic(http.ErrAbortHandler)
		case k%11 == 0:
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, req)
	})
	r.begin()
	var jobs []*job
	for i := range n {
		jobs = append(jobs, r.submit(fmt.Sprint("j", i), celeryHandler))
	}
	r.claim(jobs...)
	var lines strings.Builder
	for i := range 20 {
		fmt.Fprintf(&lines, "line %d\n", i/3) // some alike
	}
	var group sync.WaitGroup
	for part := range 4 {
		group.Go(func() {
			for i := part; i < n; i += 4 {
				jobs[i].start()
				for _, l := range strings.SplitAfter(lines.String(), "\n") {
					jobs[i].write(l)
				}
				jobs[i].succeed()
			}
		})
	}
	group.Wait()
	r.told()
	for _, j := range jobs {
		if got := j.girderLog(); got != lines.String() || !strings.HasSuffix(j.statuses(), "2 3]") {
			t.Fatalf("%s came to %s with %q", j.id, j.statuses(), got)
		}
	}
	if st := r.syncer.Stats(); st.Duplicates != 0 || st.LogBytes != uint64(n*lines.Len()) {
		t.Errorf("stats %+v", st)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// TestKilled ends the syncer at every call in turn, before the server has it and
// after, and begins anew from what is on disk.
func TestKilled(t *testing.T) {
	for kill := 0; ; kill++ {
		over := false
		for _, carried := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d carried out %t", kill, carried), func(t *testing.T) {
				r := newRig(t)
				r.clock.leaps = true
				j := r.submit("j", celeryHandler)
				r.claim(j)
				j.start().write("same\n")
				var calls int // one at a time: there is one job
				var once sync.Once
				var killed atomic.Bool
				r.during(func(w http.ResponseWriter, req *http.Request, _ url.Values, next http.Handler) {
					calls++
					if calls == kill+1 {
						if carried {
							next.ServeHTTP(discard{http.Header{}}, req)
						}
						once.Do(func() { r.stop(); killed.Store(true) })
						panic(http.ErrAbortHandler)
					}
					next.ServeHTTP(w, req)
				})
				r.begin()
				r.until("the first piece is sent, or it is killed", func() bool { return killed.Load() || j.girderLog() != "" })
				j.write("same\n")
				r.until("the second, too", func() bool { return killed.Load() || len(j.girder.Job(j.girderID).Log) > 1 })
				j.exit(queue.Result{Outcome: "exited", Code: 3})
				if !killed.Load() {
					r.until("it is over", func() bool {
						p, _ := r.store.Pending(0, 1)
						return killed.Load() || len(p) == 0
					})
				}
				over = !killed.Load()
				r.end()
				r.begin()
				r.told()
				if want := "same\nsame\nDockerException: Non-zero exit code from docker container (3).\n"; j.girderLog() != want || j.statuses() != "[2 4]" {
					t.Errorf("came to %s with %q", j.statuses(), r.girder.Job(j.girderID).Log)
				}
			})
		}
		if over {
			if kill < 5 {
				t.Errorf("only %d calls", kill)
			}
			return
		}
		if t.Failed() {
			return
		}
	}
}

// TestRefused: a token that is refused ends the reports of one job, after a while
// and not of the others, and says so.
func TestRefused(t *testing.T) {
	for name, refuse := range map[string]func(r *rig, j *job){
		"token": func(r *rig, j *job) { r.girder.RevokeToken(j.token) },
		"redirect": func(r *rig, j *job) {
			r.during(func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler) {
				if strings.HasSuffix(req.URL.Path, j.girderID) {
					http.Redirect(w, req, "http://127.0.0.2:1/steal", http.StatusTemporaryRedirect)
					return
				}
				next.ServeHTTP(w, req)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.clock.leaps = true
			bad := r.submit("bad", celeryHandler)
			refuse(r, bad)
			good := r.submit("good", celeryHandler)
			begun := r.clock.Now()
			r.begin()
			r.claim(bad, good)
			bad.start().write("nobody reads this\n")
			r.until("it is given up", func() bool { return bad.queued().Untold != "" })
			if waited := r.clock.Now().Sub(begun); waited < refusedFor {
				t.Errorf("given up after %s", waited)
			}
			bad.succeed()
			good.start().write("fine\n").succeed()
			r.told()
			if q := bad.queued(); q.State != queue.Succeeded || !strings.Contains(q.Untold, "Girder refused it") {
				t.Errorf("it is %s: %q", q.State, q.Untold)
			}
			if good.girderLog() != "fine\n" {
				t.Errorf("the other has %q", good.girderLog())
			}
			if st := r.syncer.Stats(); st.GaveUp != 1 || st.Refused == 0 {
				t.Errorf("stats %+v", st)
			}
			if strings.Contains(r.log.String(), bad.token) {
				t.Error("the token was logged")
			}
		})
	}
}

// TestHopeless: what can never be told is given up at once.
func TestHopeless(t *testing.T) {
	r := newRig(t)
	r.begin()
	for name, change := range map[string]func(*queue.Submission){
		"not-a-job":  func(s *queue.Submission) { s.Origin = []byte(`{"girder_job":{"url":"http://127.0.0.1:1/x"}}`) },
		"nothing":    func(s *queue.Submission) { s.Origin, s.Secrets = nil, nil },
		"no-token":   func(s *queue.Submission) { s.Secrets = nil },
		"bad-kwargs": func(s *queue.Submission) { s.Secrets = []byte(`{"girder_job":{"session":{"verify":7}}}`) },
	} {
		j := r.submit(name, celeryHandler, change)
		r.until("it is given up", func() bool { return j.queued().Untold != "" })
		r.claim(j)
		j.start().succeed()
	}
	gone := r.submit("gone", celeryHandler)
	r.during(func(w http.ResponseWriter, req *http.Request, _ url.Values, next http.Handler) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"message": "Invalid job id (%s).", "type": "rest"}`, gone.girderID)
	})
	r.claim(gone)
	r.until("it is given up", func() bool { return gone.queued().Untold != "" })
	gone.start().succeed()
	r.told()
	if st := r.syncer.Stats(); st.GaveUp != 5 {
		t.Errorf("stats %+v", st)
	}
}

// TestDeadHost: jobs of a server that is gone delay nobody, and are given up when
// they are old.
func TestDeadHost(t *testing.T) {
	r := newRig(t)
	dead := girdertest.New(t, girdertest.Config{})
	dead.Fail("", -1, girdertest.DropBefore())
	r.begin()
	var lost, jobs []*job
	for i := range 40 {
		lost = append(lost, r.submit(fmt.Sprint("lost", i), celeryHandler, func(s *queue.Submission) {
			id, _ := dead.AddJob(dead.AddUser(false), celeryHandler)
			target, err := TargetOf(s.Origin, s.Secrets)
			must(t, err)
			target.URL = dead.API() + "/job/" + id
			s.Origin, s.Secrets, err = target.Split(nil, nil)
			must(t, err)
		}))
		jobs = append(jobs, r.submit(fmt.Sprint("good", i), celeryHandler))
	}
	r.claim(append(lost, jobs...)...)
	for i := range jobs {
		lost[i].start().write("into the void\n").succeed()
		jobs[i].start().write("fine\n").succeed()
	}
	r.until("the good ones are told", func() bool {
		for _, j := range jobs {
			if !strings.HasSuffix(j.statuses(), "3]") || j.girderLog() != "fine\n" {
				return false
			}
		}
		return true
	})
	if st := r.syncer.Stats(); st.Pending["girder"] < len(lost) || st.Oldest.IsZero() {
		t.Errorf("stats %+v", st)
	}
	if n := len(dead.Calls("")); n > atOnce {
		t.Errorf("a dead server was called %d times in no time", n)
	}
	calls := len(dead.Calls(""))
	r.clock.setBy(20 * defaultAge)
	r.until("it is tried again", func() bool { r.clock.advance(time.Second); return len(dead.Calls("")) > calls+atOnce })
	if st := r.syncer.Stats(); st.GaveUp > 0 {
		t.Errorf("a clock that was set forward has %d jobs given up", st.GaveUp)
	}
	r.clock.setBy(-20 * defaultAge)
	r.clock.leap()
	r.clock.advance(defaultAge)
	r.told()
	for _, j := range lost {
		if q := j.queued(); !strings.Contains(q.Untold, "168h") {
			t.Fatalf("%s: %q", j.id, q.Untold)
		}
	}
}

// TestOverride: an address that is good only elsewhere is mended while reports wait.
func TestOverride(t *testing.T) {
	r := newRig(t)
	r.clock.leaps = true
	elsewhere := func(s *queue.Submission) {
		target, err := TargetOf(s.Origin, s.Secrets)
		must(t, err)
		target.URL = strings.Replace(target.URL, r.girder.API(), "http://127.0.0.1:1/api/v1", 1)
		s.Origin, s.Secrets, err = target.Split(nil, nil)
		must(t, err)
	}
	live, over := r.submit("live", celeryHandler, elsewhere), r.submit("over", celeryHandler, elsewhere)
	r.begin()
	r.claim(live, over)
	live.start().write("hello\n")
	over.start().succeed()
	r.until("nobody answers", func() bool { return strings.Contains(r.log.String(), "connection refused") })
	settings, err := ParseSettings("http://127.0.0.1:1="+strings.TrimSuffix(r.girder.API(), "/api/v1"), 0)
	must(t, err)
	r.syncer.Apply(settings)
	r.until("it is told", func() bool { return live.girderLog() == "hello\n" })
	r.until("the old address is nobody's", func() bool {
		all := r.syncer.Stats().Servers
		return len(all) == 1 && strings.HasPrefix(r.girder.API(), all[0].Address)
	})
	live.succeed()
	r.told()
	if !strings.HasSuffix(live.statuses(), "2 3]") || !strings.HasSuffix(over.statuses(), "2 3]") {
		t.Errorf("came to %s and %s", live.statuses(), over.statuses())
	}
}

// TestLogRefused: Girder fails on a job's log for good (it has grown too large
// there), and its status is told all the same.
func TestLogRefused(t *testing.T) {
	for _, code := range []int{500, 413} {
		r := newRig(t)
		r.clock.leaps = true
		r.during(func(w http.ResponseWriter, req *http.Request, form url.Values, next http.Handler) {
			if strings.Contains(form.Get("log"), "too much") {
				w.WriteHeader(code)
				return
			}
			next.ServeHTTP(w, req)
		})
		r.begin()
		j := r.submit("j", celeryHandler)
		r.claim(j)
		j.start().write("ok\n")
		r.until("the first line is told", func() bool { return j.girderLog() != "" })
		j.write("too much\n")
		j.succeed()
		r.told()
		if q := j.queued(); j.girderLog() != "ok\n" || !strings.HasSuffix(j.statuses(), "2 3]") || !strings.Contains(q.Untold, "the rest of its log") {
			t.Errorf("%d: came to %s with %q: %q", code, j.statuses(), j.girderLog(), q.Untold)
		}
	}
}

// publisher is the broker's side.
type publisher struct {
	mu    sync.Mutex
	fail  error
	calls []Result
	seen  func()
}

func (p *publisher) Publish(_ context.Context, r Result) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.seen()
	p.calls = append(p.calls, r)
	return p.fail
}

func (p *publisher) set(err error) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
	return len(p.calls)
}

// TestResults: Celery is told of the end alone, whatever Girder does, for as long
// as it takes.
func TestResults(t *testing.T) {
	r := newRig(t)
	p := &publisher{seen: r.changed, fail: errors.New("no connection")}
	r.config.Results = p
	r.during(func(http.ResponseWriter, *http.Request, url.Values, http.Handler) { panic(http.ErrAbortHandler) })
	r.begin()
	both := func(s *queue.Submission) { s.Report = queue.SinkGirder | queue.SinkCelery }
	good, bad := r.submit("good", celeryHandler, both), r.submit("bad", celeryHandler, both)
	r.claim(good, bad)
	good.start().succeed()
	bad.start().exit(queue.Result{Outcome: "exited", Code: 9})
	r.until("it is tried", func() bool { return p.set(errors.New("no connection")) > 0 })
	p.set(nil)
	r.until("both are told", func() bool {
		r.syncer.Retry()
		jobs, err := r.store.Pending(0, 0)
		must(r, err)
		return !slices.ContainsFunc(jobs, func(j queue.PendingJob) bool { return j.Left&queue.SinkCelery != 0 })
	})
	if secrets, _ := r.store.Secrets(context.Background(), "good"); secrets == nil {
		t.Error("the secrets are gone, and Girder is not told yet")
	}
	got := map[string]Result{}
	for _, c := range p.calls {
		got[c.Job.ID] = c
	}
	if g := got["good"]; g.State != queue.Succeeded || string(g.Value) != "null" || g.Failure != (Failure{}) || len(g.Job.Origin) == 0 || len(g.Secrets) == 0 {
		t.Errorf("good: %+v", g)
	}
	if b := got["bad"]; b.State != queue.Failed || string(b.Failure.Value()) !=
		`{"exc_message":["Non-zero exit code from docker container (9)."],"exc_module":"docker.errors","exc_type":"DockerException"}` {
		t.Errorf("bad: %+v", b)
	}
	r.during(nil)
	p.set(fmt.Errorf("%w: no such queue", ErrUnpublishable))
	hopeless := r.submit("hopeless", celeryHandler, func(s *queue.Submission) { s.Report = queue.SinkCelery })
	r.claim(hopeless)
	hopeless.start().succeed()
	r.until("it is given up", func() bool { return hopeless.queued().Untold != "" })
	r.clock.leap()
	r.clock.advance(time.Minute)
	r.told()
	if got := r.girder.Job(good.girderID).Status; got != 3 {
		t.Errorf("Girder has %d", got)
	}
}

// BenchmarkBacklog is the memory that a hundred thousand jobs take whose server
// is away.
func BenchmarkBacklog(b *testing.B) {
	store, err := queue.Open(queue.Options{Dir: b.TempDir()})
	must(b, err)
	defer store.Close()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	address := dead.Addr().String()
	dead.Close()
	const jobs = 100_000
	for n := 0; n < jobs; {
		var subs []queue.Submission
		for range 1000 {
			target := Target{URL: fmt.Sprintf("http://%s/api/v1/job/%024x", address, n), Headers: map[string]string{"Girder-Token": "t"}}
			sub := queue.Submission{Source: queue.SourceAMQP, Owner: "girder", Report: queue.SinkGirder, Fail: "unknown task x"}
			sub.Origin, sub.Secrets, err = target.Split(nil, nil)
			must(b, err)
			subs = append(subs, sub)
			n++
		}
		_, err := store.Submit(context.Background(), subs...)
		must(b, err)
	}
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		before := heap()
		s := New(Config{Queue: store, StateDir: "/nonexistent"})
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan struct{})
		begun := time.Now()
		go func() { defer close(done); s.Run(ctx) }()
		placed := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			if h := s.hosts["http://"+address]; h != nil {
				return len(h.queue)
			}
			return 0
		}
		for placed() < jobs-atOnce {
			time.Sleep(20 * time.Millisecond)
		}
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-take-in")
		b.ReportMetric(float64(heap()-before)/jobs, "B/job")
		stop()
		<-done
	}
}
