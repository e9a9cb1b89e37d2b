package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// What a person, or a revoke from afar, asks of a job. The jobs that these
// return come without their bodies.

// Cancel asks for the end of a job: a job without attempt is canceled at once,
// one with an attempt gets CancelRequested. A final job is answered as it is.
func (s *Store) Cancel(ctx context.Context, id, reason string) (j Job, err error) {
	if len(reason) > maxText {
		reason = reason[:maxText]
	}
	err = s.do(ctx, func(t *txn) error {
		if j, err = t.find(id); err != nil {
			return err
		}
		return t.cancel(&j, firstOf(reason, "canceled"))
	})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

func (t *txn) cancel(j *Job, reason string) error {
	ask := func(j *Job) {
		if !j.CancelRequested {
			j.CancelRequested, j.CancelReason = true, reason
		}
	}
	switch {
	case j.State.Final() || j.State.Active() && j.CancelRequested:
		return nil
	case j.State.Active():
		return t.edit(j, ask)
	}
	return t.move(j, Canceled, func(j *Job) {
		ask(j)
		j.Reason = j.CancelReason
	})
}

// Hold makes a queued or delayed job wait for a person. Only jobs from the
// socket can be held.
func (s *Store) Hold(ctx context.Context, id, reason string) (j Job, err error) {
	if len(reason) > maxText {
		reason = reason[:maxText]
	}
	err = s.do(ctx, func(t *txn) error {
		if j, err = t.find(id); err != nil {
			return err
		}
		if j.Source != SourceSocket {
			return fmt.Errorf("cannot hold job %s: %w", id, ErrNotHoldable)
		}
		return t.move(&j, Held, func(j *Job) { j.Reason = firstOf(reason, "held") })
	})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// Release lets a held job queue again, or wait for its time when that is still to come.
func (s *Store) Release(ctx context.Context, id string) (j Job, err error) {
	err = s.do(ctx, func(t *txn) error {
		if j, err = t.find(id); err != nil {
			return err
		}
		to := Queued
		if j.NotBefore.After(t.now) {
			to = Delayed
		}
		if j.State != Held {
			return &TransitionError{ID: id, From: j.State, To: to}
		}
		return t.move(&j, to, func(j *Job) { j.Reason = "" })
	})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// Retry queues a copy of a final job under a new id and returns the copy. The
// copy waits for no time and no other job: somebody wants it now. It has no
// secrets, and nobody else is told of it: who asked for the first job has been
// told of its end.
func (s *Store) Retry(ctx context.Context, id string) (j Job, err error) {
	err = s.submit(ctx, &op{grows: true, apply: func(t *txn) error {
		old, err := t.find(id)
		if err != nil {
			return err
		}
		if !old.State.Final() {
			return &TransitionError{ID: id, From: old.State, To: Queued}
		}
		if most := t.maxJobs.Load(); int64(t.waiting()) >= most {
			return fmt.Errorf("%w: at most %d jobs may wait", ErrFull, most)
		}
		if err := t.complete(&old); err != nil {
			return err
		}
		j, err = t.create(&Submission{
			Source: old.Source, Owner: old.Owner, Identity: old.Identity, Name: old.Name, Task: old.Task,
			Image: old.Image, Priority: old.Priority, Needs: old.Needs, Limits: old.Limits, Retry: old.Retry,
			Body: old.Body, BodyHash: old.BodyHash, Origin: old.Origin,
		})
		return err
	}})
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// dueRevocation is the kind of a key in due that ends a revocation; the id
// stands where others have their sequence.
const dueRevocation byte = 3

// maxRevoked bounds the revocations of jobs that have not come: they arrive from
// the network and name what they like.
const maxRevoked = 100_000

// Revoke remembers, across restarts and until the time given, that a job from
// AMQP of this id is not to be run though it has not come yet; it cancels one
// that has. Jobs from the socket are not a message's to cancel.
func (s *Store) Revoke(ctx context.Context, id string, until time.Time) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if y := until.Year(); y < 1971 || y > 2261 {
		return fmt.Errorf("%w: a revocation until the year %d", ErrInvalid, y)
	}
	return s.submit(ctx, &op{grows: true, apply: func(t *txn) error {
		j, err := t.find(id)
		switch {
		case err == nil && j.Source == SourceAMQP:
			return t.cancel(&j, "revoked")
		case err != nil && !errors.Is(err, ErrNotFound):
			return err
		}
		if !until.After(t.now) {
			return nil
		}
		revoked := t.tx.Bucket(bucketRevoked)
		old := bytes.Clone(revoked.Get([]byte(id)))
		if old == nil && revoked.Sequence() >= maxRevoked {
			return fmt.Errorf("cannot remember that job %s is revoked: %w", id, ErrFull)
		}
		if old != nil && !until.After(timeOf(old)) {
			return nil
		}
		if old != nil {
			if err := t.delete(bucketDue, revocationKey(old, id)); err != nil {
				return err
			}
		} else if err := revoked.SetSequence(revoked.Sequence() + 1); err != nil {
			return err
		}
		if err := t.put(bucketDue, revocationKey(timeKey(until), id), nil); err != nil {
			return err
		}
		return t.put(bucketRevoked, []byte(id), timeKey(until))
	}})
}

func revocationKey(until []byte, id string) []byte {
	return append(append(bytes.Clone(until), dueRevocation), id...)
}

func (t *txn) isRevoked(id string) bool {
	until := t.tx.Bucket(bucketRevoked).Get([]byte(id))
	return until != nil && timeOf(until).After(t.at.sure)
}

// forgetRevocation removes the one whose key in due is k. The sequence of the
// bucket is how many there are.
func (t *txn) forgetRevocation(k []byte) error {
	if err := t.delete(bucketDue, k); err != nil {
		return err
	}
	if err := t.delete(bucketRevoked, k[9:]); err != nil {
		return err
	}
	b := t.bucket(bucketRevoked)
	return b.SetSequence(b.Sequence() - 1)
}

// Remove deletes a final job from the history. One of which somebody has still to
// be told is [ErrUntold].
func (s *Store) Remove(ctx context.Context, id string) error {
	s.moveMu.Lock()
	defer s.moveMu.Unlock()
	if err := s.refuseUntold(id); err != nil {
		return err
	}
	var removed Job
	err := s.do(ctx, func(t *txn) error {
		j, err := t.load(id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if !j.State.Final() {
			return &TransitionError{ID: id, From: j.State, To: "removed"}
		}
		removed = j
		return t.drop(&j)
	})
	if err != nil {
		return err
	}
	err = s.history.update(func(tx *bolt.Tx) error {
		j, err := loadJob(tx, id)
		if errors.Is(err, ErrNotFound) {
			return errNothing
		}
		if err != nil {
			return err
		}
		removed = j
		return dropHistory(tx, &j)
	})
	if err != nil {
		return fmt.Errorf("cannot remove job %s: %w", id, err)
	}
	if removed.ID == "" {
		return ErrNotFound
	}
	s.countMu.Lock()
	s.counts[removed.State.code()]--
	s.countMu.Unlock()
	return nil
}
