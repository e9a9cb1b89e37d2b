package queue

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Options configure [Open]. Zero fields get defaults.
type Options struct {
	// Dir holds the database files; it is made 0700 when missing.
	Dir    string
	Logger *slog.Logger
	// Now is the clock, for tests.
	Now func() time.Time
	// Elapsed is the time since any moment, whatever is done to the clock, for
	// tests; with Now alone nothing is done to it.
	Elapsed func() time.Duration
	// Jitter returns numbers in [0,1) that spread retries, for tests.
	Jitter func() float64
	// MaxJobs is how many jobs may wait; more are refused with ErrFull. 0: 2,000,000.
	MaxJobs int
	// Retention ends the history: final jobs older than Age, or beyond Count, are removed. Zero: kept.
	Retention Retention
	// Observer may be zero.
	Observer Observer
}

// Retention bounds the history of finished jobs.
type Retention struct {
	Age   time.Duration
	Count int
}

// Store is the queue on disk. All methods are safe for concurrent use; every
// method that changes something returns only after the change is durable.
type Store struct {
	dir       string
	log       *slog.Logger
	now       func() time.Time
	jitter    func() float64
	maxJobs   atomic.Int64
	retention atomic.Pointer[Retention]

	observer Observer

	clock *timepiece
	// The committer's, see settleSetBack: how many backs of the clock it has looked
	// after, and when the delays that it found are over, by elapsed.
	looked  int
	setBack map[uint64]time.Duration

	lock    *os.File
	active  *file // written by the committer only
	history *file // written under moveMu only

	ops     chan *op      // unbuffered: what was taken is answered
	company time.Duration // companyTime, but for tests
	closing chan struct{}
	closed  sync.Once
	workers sync.WaitGroup

	standMu  sync.Mutex // held for as long as a commit takes
	standing *Standing

	wake     chan struct{}
	finished chan struct{}
	hub      hub

	outbox     chan struct{}
	reportable reportable

	confirmMu sync.Mutex
	confirmed map[string]int // not yet durable, see Confirm: by id, which call it was
	confirms  int

	// moveMu is held by whoever takes jobs from one file to the other or out
	// of the history. It is never taken by the committer.
	moveMu sync.Mutex

	countMu sync.Mutex
	counts  [len(states) + 1]int // by code; both files, a job in both once
}

// Open locks dir, opens or makes the database, and migrates it.
func Open(o Options) (*Store, error) {
	s := &Store{
		dir: o.Dir, log: o.Logger, now: o.Now, jitter: o.Jitter, observer: o.Observer,
		ops: make(chan *op), company: companyTime, closing: make(chan struct{}),
		wake: make(chan struct{}, 1), finished: make(chan struct{}, 1), outbox: make(chan struct{}, 1),
		confirmed: map[string]int{}, setBack: map[uint64]time.Duration{},
	}
	s.SetMaxJobs(o.MaxJobs)
	s.SetRetention(o.Retention)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	elapsed := o.Elapsed
	switch {
	case s.now == nil:
		s.now, elapsed = time.Now, sinceBoot
	case elapsed == nil:
		begun := s.now()
		elapsed = func() time.Duration { return s.now().Sub(begun) }
	}
	if s.jitter == nil {
		s.jitter = rand.Float64
	}
	if err := s.openFiles(); err != nil {
		s.closeFiles()
		return nil, err
	}
	if err := s.loadCounts(); err != nil {
		s.closeFiles()
		return nil, err
	}
	if err := s.openClock(elapsed); err != nil {
		s.closeFiles()
		return nil, err
	}
	signal(s.wake)
	signal(s.finished)
	s.reportable.all = true
	signal(s.outbox)
	s.workers.Go(s.commitLoop)
	s.workers.Go(s.moveLoop)
	return s, nil
}

// SetMaxJobs changes how many jobs may wait from now on; 0 is the default.
func (s *Store) SetMaxJobs(n int) {
	if n == 0 {
		n = 2_000_000
	}
	s.maxJobs.Store(int64(n))
}

// SetRetention changes what the next [Store.Sweep] removes.
func (s *Store) SetRetention(r Retention) { s.retention.Store(&r) }

// Close ends the committer, then the files. Calls under way end with ErrClosed.
func (s *Store) Close() error {
	err := error(nil)
	s.closed.Do(func() {
		close(s.closing)
		s.workers.Wait()
		s.hub.close()
		// Whoever moves or removes jobs by hand is done with the history.
		s.moveMu.Lock()
		defer s.moveMu.Unlock()
		err = s.closeFiles()
	})
	return err
}

// Counts is how many jobs are in each state, the history included.
func (s *Store) Counts() map[State]int {
	s.countMu.Lock()
	defer s.countMu.Unlock()
	m := make(map[State]int, len(states))
	for _, st := range states {
		m[st] = s.counts[st.code()]
	}
	return m
}

// waiting is how many jobs have not started and not ended. The committer adds
// what its open transaction changes.
func (t *txn) waiting() int {
	t.countMu.Lock()
	defer t.countMu.Unlock()
	n := 0
	for _, st := range []State{Queued, Delayed, Held} {
		n += t.counts[st.code()] + t.delta[st.code()]
	}
	return n
}

// loadCounts reads the counts that both files keep. A crash between the two
// halves of a move leaves jobs in both: they count once.
func (s *Store) loadCounts() error {
	for _, f := range []*file{s.active, s.history} {
		err := f.view(func(tx *bolt.Tx) error {
			for _, st := range states {
				s.counts[st.code()] += int(readCount(tx, st))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.active.view(func(tx *bolt.Tx) error {
		return s.history.view(func(htx *bolt.Tx) error {
			return eachFinal(tx, func(seq uint64, st State) error {
				if htx.Bucket(bucketJobs).Get(seqKey(seq)) != nil {
					s.counts[st.code()]--
				}
				return nil
			})
		})
	})
}

// Wake is signalled (never blocking, capacity 1) when Claim or Look may find something
// new: not for what the claim that stands has taken care of.
func (s *Store) Wake() <-chan struct{} { return s.wake }

// Probe commits a change and reads it back: the self-check behind the watchdog.
func (s *Store) Probe(ctx context.Context) error {
	var stamp []byte
	err := s.do(ctx, func(t *txn) error {
		stamp = timeKey(t.at.sure) // see openClock
		return t.put(bucketMeta, keyProbe, stamp)
	})
	if err != nil {
		return err
	}
	if err := s.history.working(); err != nil {
		return err
	}
	return s.active.view(func(tx *bolt.Tx) error {
		// Another probe may have come later.
		if got := tx.Bucket(bucketMeta).Get(keyProbe); bytes.Compare(got, stamp) < 0 {
			return fmt.Errorf("%w: it does not give back what was written", ErrBroken)
		}
		return nil
	})
}
