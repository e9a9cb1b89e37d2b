package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	bolt "go.etcd.io/bbolt"
)

// A job in doubt may be another machine's: its message is here, on disk, and
// whether the broker knows that it is ours is not known. It is not claimed until
// that is settled, by Confirm or by Forget. The doubt outlives a restart.

// Confirm settles that a job in doubt is this machine's. It does not wait for the
// disk: the next claim makes it durable with what else it writes, which spares a
// commit for each job. Before that a crash brings the doubt back.
func (s *Store) Confirm(id string) {
	s.confirmMu.Lock()
	s.confirms++
	s.confirmed[id] = s.confirms
	s.confirmMu.Unlock()
	signal(s.wake)
}

// settleConfirmed ends the doubts that were settled. done is called when that is durable.
func (t *txn) settleConfirmed() (done func(), err error) {
	t.confirmMu.Lock()
	ids := maps.Clone(t.confirmed)
	t.confirmMu.Unlock()
	for id := range ids {
		j, err := t.load(id)
		if errors.Is(err, ErrNotFound) || err == nil && !j.Doubtful {
			continue
		} else if err != nil {
			return nil, err
		}
		err = t.edit(&j, func(j *Job) {
			j.Doubtful, j.HandedBack = false, false
			if j.startable() {
				j.Queued = t.now
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return func() {
		t.confirmMu.Lock()
		defer t.confirmMu.Unlock()
		for id, call := range ids {
			if t.confirmed[id] == call {
				delete(t.confirmed, id)
			}
		}
	}, nil
}

// Doubt makes a job doubtful that has not been started, because its message is about
// to be published again for somebody else: from here on it is marked as handed back.
func (s *Store) Doubt(ctx context.Context, id string) error {
	return s.do(ctx, func(t *txn) error {
		j, err := t.load(id)
		switch {
		case err != nil:
			return err
		case j.State != Queued && j.State != Delayed || j.Attempt > 0:
			return fmt.Errorf("cannot give job %s away: %w", id, ErrStarted)
		case t.waitedFor(id):
			return fmt.Errorf("cannot give job %s away: %w", id, ErrWaitedFor)
		}
		t.unconfirm(id)
		return t.edit(&j, func(j *Job) { j.Doubtful, j.HandedBack = true, true })
	})
}

// unconfirm forgets what was settled of an id, for a new doubt.
func (t *txn) unconfirm(id string) {
	t.confirmMu.Lock()
	defer t.confirmMu.Unlock()
	delete(t.confirmed, id)
}

// Doubtful are the jobs in doubt, without their bodies.
func (s *Store) Doubtful() (jobs []Job, err error) {
	err = s.active.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketDoubtful).ForEach(func(k, _ []byte) error {
			j, err := loadSeq(tx, seqOf(k))
			if err == nil {
				j.Origin = loadOrigin(tx, j.Seq)
				jobs = append(jobs, j)
			}
			return err
		})
	})
	return jobs, err
}

// Forget removes a job in doubt without a trace: it is somebody else's. Nobody is
// told. One that is in doubt no more is not removed, and one that another job waits
// for neither.
func (s *Store) Forget(ctx context.Context, id string) error {
	return s.do(ctx, func(t *txn) error {
		s.confirmMu.Lock()
		_, confirmed := s.confirmed[id]
		s.confirmMu.Unlock()
		j, err := t.load(id)
		switch {
		case err != nil:
			return err
		case !j.Doubtful || confirmed:
			return fmt.Errorf("cannot forget job %s: %w", id, ErrStarted)
		case t.waitedFor(id):
			return fmt.Errorf("cannot forget job %s: %w", id, ErrWaitedFor)
		}
		if err := t.forgetDependencies(&j); err != nil {
			return err
		}
		var events [][]byte
		c := t.tx.Bucket(bucketOutbox).Cursor()
		for k, _ := c.Seek(seqKey(j.Seq)); bytes.HasPrefix(k, seqKey(j.Seq)); k, _ = c.Next() {
			events = append(events, bytes.Clone(k))
		}
		for _, k := range events {
			if err := t.delete(bucketOutbox, k); err != nil {
				return err
			}
		}
		if err := t.forgetSecrets(j.Seq); err != nil {
			return err
		}
		if err := t.drop(&j); err != nil {
			return err
		}
		t.delta[j.State.code()]--
		t.wake = true
		return nil
	})
}

// waitedFor tells whether another job waits for the end of id.
func (t *txn) waitedFor(id string) bool {
	prefix := append([]byte(id), 0)
	k, _ := t.tx.Bucket(bucketDependents).Cursor().Seek(prefix)
	return bytes.HasPrefix(k, prefix)
}
