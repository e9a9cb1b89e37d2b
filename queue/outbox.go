package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Sinks are those who are told of a job's changes of state, a bit for each. An
// event stays in the outbox until all that want it have it, however long that
// takes, and what one of them has is independent of the others.
type Sinks uint8

// The sinks. Their bits are on disk.
const (
	// SinkGirder is the Girder job's status: every change.
	SinkGirder Sinks = 1 << iota
	// SinkCelery is Celery's result and what follows from it: the end.
	SinkCelery
)

const allSinks = SinkGirder | SinkCelery

// want is which of s are told that a job came to st.
func (s Sinks) want(st State) Sinks {
	if !st.Final() {
		return s &^ SinkCelery
	}
	return s
}

// Event is a row of the outbox.
type Event struct {
	// Seq is larger than that of every earlier event of the job.
	Seq     uint64    `json:"seq"`
	Job     string    `json:"job"`
	JobSeq  uint64    `json:"job_seq"`
	Attempt int       `json:"attempt"`
	State   State     `json:"state"`
	Time    time.Time `json:"time"`
	Result  *Result   `json:"result,omitempty"`
	// Left is who wants the event and does not have it yet.
	Left Sinks `json:"left"`
}

// report puts the state that j is in now into the outbox, for those who want
// it. A job that has ended and of which nobody is told needs no secrets.
func (t *txn) report(j *Job) error {
	left := j.Report.want(j.State)
	if left == 0 {
		if j.State.Final() && !hasEvents(t.tx, j.Seq) {
			return t.forgetSecrets(j.Seq)
		}
		return nil
	}
	seq, err := t.bucket(bucketOutbox).NextSequence()
	if err != nil {
		return err
	}
	e := Event{Job: j.ID, Attempt: j.Attempt, State: j.State, Time: t.now, Left: left}
	if j.State == Finishing || j.State.Final() {
		e.Result = j.Result
	}
	t.reports = append(t.reports, PendingJob{Seq: j.Seq, Oldest: t.now, Left: left})
	return t.put(bucketOutbox, eventKey(j.Seq, seq), encodeEvent(&e))
}

// forgetSecrets removes what was kept of job seq for the sake of its reports.
func (t *txn) forgetSecrets(seq uint64) error {
	for _, bucket := range [][]byte{bucketSecrets, bucketReports} {
		if t.tx.Bucket(bucket).Get(seqKey(seq)) == nil {
			continue
		}
		if err := t.delete(bucket, seqKey(seq)); err != nil {
			return err
		}
	}
	return nil
}

func hasEvents(tx *bolt.Tx, seq uint64) bool {
	k, _ := tx.Bucket(bucketOutbox).Cursor().Seek(seqKey(seq))
	return bytes.HasPrefix(k, seqKey(seq))
}

// maxReportable bounds what is remembered for somebody who does not ask.
const maxReportable = 100_000

// reportable is the jobs that have had events since somebody asked.
type reportable struct {
	mu   sync.Mutex
	jobs map[uint64]PendingJob
	all  bool // too many to remember, or from before the start
}

func (r *reportable) add(jobs []PendingJob) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all {
		return
	}
	if r.jobs == nil {
		r.jobs = make(map[uint64]PendingJob)
	}
	for _, j := range jobs {
		if old, ok := r.jobs[j.Seq]; ok {
			j.Oldest = old.Oldest
			j.Left |= old.Left
		}
		r.jobs[j.Seq] = j
	}
	if len(r.jobs) > maxReportable {
		r.jobs, r.all = nil, true
	}
}

// Outbox is signalled (never blocking, capacity 1) when [Store.Reportable] has
// something new, and once after the start.
func (s *Store) Outbox() <-chan struct{} { return s.outbox }

// Reportable returns the jobs that have had events since the last call, in no
// order, with those events alone. all: they are not known, and [Store.Pending]
// tells. It is for one caller.
func (s *Store) Reportable() (jobs []PendingJob, all bool) {
	r := &s.reportable
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, j := range r.jobs {
		jobs = append(jobs, j)
	}
	all = r.all
	r.jobs, r.all = nil, false
	return jobs, all
}

// PendingJob is a job that has events in the outbox.
type PendingJob struct {
	Seq    uint64
	Oldest time.Time // of its events
	Left   Sinks     // who wants some of them
}

// Pending returns jobs with a sequence larger than after that have events in the
// outbox, in order. A limit below 1 is 1000.
func (s *Store) Pending(after uint64, limit int) (jobs []PendingJob, err error) {
	if limit < 1 {
		limit = defaultLimit
	}
	err = s.active.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		k, v := c.Seek(seqKey(after + 1))
		for k != nil && len(jobs) < limit {
			e, err := decodeEvent(k, v)
			if err != nil {
				return err
			}
			p := PendingJob{Seq: e.JobSeq, Oldest: e.Time}
			for ; k != nil && binary.BigEndian.Uint64(k) == p.Seq; k, v = c.Next() {
				if e, err = decodeEvent(k, v); err != nil {
					return err
				}
				p.Left |= e.Left
			}
			jobs = append(jobs, p)
		}
		return nil
	})
	return jobs, err
}

// Events returns the events of job seq that are in the outbox, oldest first.
func (s *Store) Events(seq uint64) (events []Event, err error) {
	err = s.active.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(seqKey(seq)); bytes.HasPrefix(k, seqKey(seq)); k, v = c.Next() {
			e, err := decodeEvent(k, v)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return events, err
}

// Delivered notes that sinks have, or do not want any more, the events of job
// seq up to the one numbered last. Events that nobody waits for are removed;
// with the last of a job that has ended, so are its secrets and its report.
func (s *Store) Delivered(ctx context.Context, seq, last uint64, sinks Sinks) error {
	return s.submit(ctx, &op{lazy: true, apply: func(t *txn) error {
		type row struct {
			key   []byte
			event Event
		}
		var rows []row
		c := t.tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(seqKey(seq)); bytes.HasPrefix(k, seqKey(seq)) && seqOf(k) <= last; k, v = c.Next() {
			e, err := decodeEvent(k, v)
			if err != nil {
				return err
			}
			rows = append(rows, row{bytes.Clone(k), e})
		}
		final := false
		for _, r := range rows {
			left := r.event.Left &^ sinks
			final = final || r.event.State.Final()
			var err error
			switch {
			case left == 0:
				err = t.delete(bucketOutbox, r.key)
			case left != r.event.Left:
				r.event.Left = left
				err = t.put(bucketOutbox, r.key, encodeEvent(&r.event))
			}
			if err != nil {
				return err
			}
		}
		if final && !hasEvents(t.tx, seq) {
			return t.forgetSecrets(seq)
		}
		return nil
	}})
}

// Reporting is what whoever drains the outbox needs of one job.
type Reporting struct {
	// Job is the job as it stands now, with its origin and without its body.
	Job     Job
	Secrets []byte
	// Report is what [Store.SetReport] kept.
	Report []byte
	Events []Event
}

// Reporting reads job seq with all that its reports need.
func (s *Store) Reporting(seq uint64) (r Reporting, err error) {
	read := func(tx *bolt.Tx) error {
		if r.Job, err = loadSeq(tx, seq); err == nil {
			r.Job.Origin = loadOrigin(tx, seq)
		}
		return err
	}
	// The events first: the job is then at least as far as they say.
	if r.Events, err = s.Events(seq); err != nil {
		return r, err
	}
	err = s.active.view(func(tx *bolt.Tx) error {
		r.Secrets = bytes.Clone(tx.Bucket(bucketSecrets).Get(seqKey(seq)))
		r.Report = bytes.Clone(tx.Bucket(bucketReports).Get(seqKey(seq)))
		return read(tx)
	})
	if errors.Is(err, ErrNotFound) {
		err = s.history.view(read)
	}
	return r, err
}

// Secrets returns the secrets of a job; nil when it has none, or none any more.
func (s *Store) Secrets(_ context.Context, id string) (secrets []byte, err error) {
	j, err := s.Job(id)
	if err != nil {
		return nil, err
	}
	err = s.active.view(func(tx *bolt.Tx) error {
		secrets = bytes.Clone(tx.Bucket(bucketSecrets).Get(seqKey(j.Seq)))
		return nil
	})
	return secrets, err
}

// SetReport keeps how far somebody was told of job seq, until nobody has to be.
func (s *Store) SetReport(ctx context.Context, seq uint64, report []byte) error {
	return s.submit(ctx, &op{size: len(report), apply: func(t *txn) error {
		if !hasEvents(t.tx, seq) {
			if j, err := loadSeq(t.tx, seq); errors.Is(err, ErrNotFound) || err == nil && j.State.Final() {
				return nil
			} else if err != nil {
				return err
			}
		}
		return t.put(bucketReports, seqKey(seq), report)
	}})
}

// SetUntold notes in job seq, for a person, why the rest of what was to be
// reported of it was given up.
func (s *Store) SetUntold(ctx context.Context, seq uint64, reason string) error {
	if len(reason) > maxText {
		reason = reason[:maxText]
	}
	s.moveMu.Lock() // it stays in the file where it is
	defer s.moveMu.Unlock()
	missing := 0 // a crash may have left it in both files
	err := s.do(ctx, func(t *txn) error {
		j, err := loadSeq(t.tx, seq)
		if err != nil {
			return err
		}
		return t.edit(&j, func(j *Job) { j.Untold = reason })
	})
	if errors.Is(err, ErrNotFound) {
		missing++
		err = nil
	}
	if err != nil {
		return err
	}
	err = s.history.update(func(tx *bolt.Tx) error {
		j, err := loadSeq(tx, seq)
		if err != nil {
			return err
		}
		j.Untold = reason
		j.Version++
		return tx.Bucket(bucketJobs).Put(seqKey(seq), encodeJob(&j))
	})
	if errors.Is(err, ErrNotFound) {
		if missing++; missing < 2 {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot note what was not reported of job %d: %w", seq, err)
	}
	return nil
}

// untold tells whether somebody has still to be told of job seq.
func (s *Store) untold(seq uint64) (yes bool, err error) {
	err = s.active.view(func(tx *bolt.Tx) error {
		yes = hasEvents(tx, seq)
		return nil
	})
	return yes, err
}

func (s *Store) refuseUntold(id string) error {
	j, err := s.Job(id)
	if err != nil || !j.State.Final() {
		return nil // whoever asks is told by what follows
	}
	untold, err := s.untold(j.Seq)
	if err == nil && untold {
		err = fmt.Errorf("cannot remove job %s: %w", id, ErrUntold)
	}
	return err
}
