package queue

import (
	"bytes"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// edges is every change of state there is. The empty state is a job that is
// being accepted.
var edges = map[State][]State{
	"":        {Queued, Delayed, Held, Failed, Canceled},
	Queued:    {Preparing, Held, Failed, Canceled},
	Delayed:   {Queued, Held, Failed, Canceled},
	Held:      {Queued, Delayed, Failed, Canceled},
	Preparing: {Running, Finishing, Queued, Failed, Canceled},
	Running:   {Finishing, Queued, Failed, Canceled},
	Finishing: {Succeeded, Failed, Canceled, Queued, Delayed},
}

// move is the only function that changes a job's state: it checks the edge,
// lets edit change what else changes with it, stamps the time, bumps the
// version, moves the index keys, and appends the event when the job reports.
// All of it becomes durable with the transaction. j becomes the new row.
func (t *txn) move(j *Job, to State, edit func(*Job)) error {
	if !slices.Contains(edges[j.State], to) {
		return &TransitionError{ID: j.ID, From: j.State, To: to}
	}
	old := *j
	j.State = to
	if to != Queued {
		j.passed = time.Time{}
	}
	if edit != nil {
		edit(j)
	}
	switch {
	case to == Queued && j.startable():
		j.Queued = t.now
	case to.Final():
		j.Finished, j.Doubtful, j.HandedBack = t.now, false, false
		if err := t.forgetDependencies(j); err != nil {
			return err
		}
	}
	if err := t.save(&old, j); err != nil {
		return err
	}
	if err := t.count(old.State, -1); err != nil {
		return err
	}
	if err := t.count(to, +1); err != nil {
		return err
	}
	if err := t.report(j); err != nil {
		return err
	}
	if t.observer.Moved != nil {
		t.moves = append(t.moves, Move{From: old.State, To: to, At: t.now, Job: *j})
	}
	if to.Final() {
		t.finished = true
		if err := t.markEnded(j); err != nil {
			return err
		}
	}
	// Whatever else happened, a claim may find something new: a job that waits
	// now, resources that came free, a job that needs nothing kept for it any more.
	t.wake = t.wake || to != Preparing && to != Running
	return nil
}

// edit changes a job that stays in its state.
func (t *txn) edit(j *Job, edit func(*Job)) error {
	old := *j
	edit(j)
	return t.save(&old, j)
}

// save writes the row of j in place of old, which has the zero State when j is
// new, and moves the index keys from what old asked for to what j asks for.
func (t *txn) save(old, j *Job) error {
	j.Version++
	var before []entry
	if old.State != "" {
		before = entries(old)
	}
	after := entries(j)
	for _, e := range before {
		if !slices.ContainsFunc(after, e.same) {
			if err := t.deleteEntry(e); err != nil {
				return err
			}
		}
	}
	for _, e := range after {
		i := slices.IndexFunc(before, e.same)
		if i >= 0 && bytes.Equal(before[i].value, e.value) {
			continue
		}
		if err := t.putEntry(e); err != nil {
			return err
		}
	}
	if err := t.put(rowBucket(j), seqKey(j.Seq), encodeJob(j)); err != nil {
		return err
	}
	t.notices = append(t.notices, Notice{
		Job: j.ID, Seq: j.Seq, State: j.State, Version: j.Version, Canceled: j.CancelRequested,
	})
	return nil
}

// drop removes a final job with everything that is its own.
func (t *txn) drop(j *Job) error {
	for _, e := range entries(j) {
		if err := t.deleteEntry(e); err != nil {
			return err
		}
	}
	for _, bucket := range [][]byte{bucketJobs, bucketLive, bucketBodies, bucketOrigins} {
		if err := t.delete(bucket, seqKey(j.Seq)); err != nil {
			return err
		}
	}
	if err := t.delete(bucketIDs, []byte(j.ID)); err != nil {
		return err
	}
	return addCount(t.tx, j.State, -1)
}

// load finds an active job by its id, without its body.
func (t *txn) load(id string) (Job, error) {
	return loadJob(t.tx, id)
}

func loadJob(tx *bolt.Tx, id string) (Job, error) {
	seq := tx.Bucket(bucketIDs).Get([]byte(id))
	if seq == nil {
		return Job{}, ErrNotFound
	}
	return loadSeq(tx, seqOf(seq))
}

func loadSeq(tx *bolt.Tx, seq uint64) (Job, error) {
	var row []byte
	if live := tx.Bucket(bucketLive); live != nil { // not in the history
		row = live.Get(seqKey(seq))
	}
	if row == nil {
		row = tx.Bucket(bucketJobs).Get(seqKey(seq))
	}
	if row == nil {
		return Job{}, ErrNotFound
	}
	return decodeJob(seq, row)
}

// loadBody returns a copy of the body of job seq, nil when it has none.
func loadBody(tx *bolt.Tx, seq uint64) []byte {
	return bytes.Clone(tx.Bucket(bucketBodies).Get(seqKey(seq)))
}

// loadBodies completes j with what stands apart from its row.
func loadBodies(tx *bolt.Tx, j *Job) {
	j.Body = loadBody(tx, j.Seq)
	j.Origin = loadOrigin(tx, j.Seq)
}

func loadOrigin(tx *bolt.Tx, seq uint64) []byte {
	return bytes.Clone(tx.Bucket(bucketOrigins).Get(seqKey(seq)))
}
