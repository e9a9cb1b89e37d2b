package queue

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// settleDue does what time has brought: delayed jobs become startable, jobs
// past their expiry fail, old revocations go. It tells whether more is due.
func (t *txn) settleDue() (more bool, err error) {
	var keys [][]byte
	c := t.tx.Bucket(bucketDue).Cursor()
	for k, _ := c.First(); k != nil && !timeOf(k).After(t.now); k, _ = c.Next() {
		if k[8] != dueStart && timeOf(k).After(t.at.sure) {
			continue
		}
		if len(keys) == settleAtOnce {
			more = true
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if k[8] == dueRevocation {
			if err := t.forgetRevocation(k); err != nil {
				return false, err
			}
			continue
		}
		j, err := loadSeq(t.tx, seqOf(k))
		if err != nil {
			return false, err
		}
		switch {
		case k[8] == dueStart && j.State == Delayed:
			err = t.move(&j, Queued, func(j *Job) { j.Reason = "" })
		case k[8] == dueExpiry && j.expires():
			err = t.move(&j, Failed, func(j *Job) {
				j.Reason = fmt.Sprintf("expired: it had not started by %s", j.Expires.Format(timeLayout))
			})
		}
		if err != nil {
			return false, err
		}
	}
	return more, nil
}

// timeLayout is how reasons show times to a person.
const timeLayout = "2006-01-02 15:04:05 MST"

// markEnded notes that the dependents of j, if any, can be settled.
func (t *txn) markEnded(j *Job) error {
	prefix := append([]byte(j.ID), 0)
	k, _ := t.tx.Bucket(bucketDependents).Cursor().Seek(prefix)
	if !bytes.HasPrefix(k, prefix) {
		return nil
	}
	return t.put(bucketEnded, []byte(j.ID), []byte{j.State.code()})
}

// settleEnded tells dependents of jobs that have ended, at most settleAtOnce of
// them; t.more says whether some are left. A dependent that fails because of it
// has its own dependents told by the same loop.
func (t *txn) settleEnded() error {
	for budget := settleAtOnce; ; {
		k, v := t.tx.Bucket(bucketEnded).Cursor().First()
		if k == nil {
			return nil
		}
		id, end := string(k), stateOf(v[0])
		prefix := append([]byte(id), 0)
		var seqs []uint64
		c := t.tx.Bucket(bucketDependents).Cursor()
		for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix) && len(seqs) < budget; k, _ = c.Next() {
			seqs = append(seqs, seqOf(k))
		}
		for _, seq := range seqs {
			if err := t.settleDependent(id, end, seq); err != nil {
				return err
			}
		}
		if budget -= len(seqs); budget == 0 {
			t.more = true
			return nil
		}
		if err := t.delete(bucketEnded, []byte(id)); err != nil {
			return err
		}
	}
}

// settleDependent tells job seq that id, which it waited for, came to end.
func (t *txn) settleDependent(id string, end State, seq uint64) error {
	if err := t.delete(bucketDependents, dependentKey(id, seq)); err != nil {
		return err
	}
	j, err := loadSeq(t.tx, seq)
	if err != nil {
		return err
	}
	if end != Succeeded && slices.Contains(j.After, id) {
		return t.move(&j, Failed, func(j *Job) {
			j.pending--
			j.Reason = dependencyReason(id, end)
		})
	}
	return t.edit(&j, func(j *Job) {
		j.pending--
		if j.startable() {
			j.Queued = t.now
			t.wake = true
		}
	})
}

func dependencyReason(id string, end State) string {
	return fmt.Sprintf("job %s, which had to succeed first, %s", id, map[State]string{Failed: "failed", Canceled: "was canceled"}[end])
}

// forgetDependencies takes a job that ends out of the index of those it waited for.
func (t *txn) forgetDependencies(j *Job) error {
	if j.pending == 0 {
		return nil
	}
	for _, id := range slices.Concat(j.After, j.AfterAny) {
		if err := t.delete(bucketDependents, dependentKey(id, j.Seq)); err != nil {
			return err
		}
	}
	j.pending = 0
	return nil
}

// unmet are the jobs that j still waits for.
func unmet(tx *bolt.Tx, j *Job) (ids []string) {
	for _, id := range slices.Concat(j.After, j.AfterAny) {
		if tx.Bucket(bucketDependents).Get(dependentKey(id, j.Seq)) != nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// endOf is how job id ended, from either file: the empty state while it has not.
func (t *txn) endOf(id string) (State, error) {
	j, err := t.load(id)
	if errors.Is(err, ErrNotFound) {
		j, err = t.Store.fromHistory(id)
	}
	switch {
	case err != nil:
		return "", err
	case j.State.Final():
		return j.State, nil
	}
	return "", nil
}
