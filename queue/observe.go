package queue

import (
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Observer is told what the committer did, for numbers. It is called by the
// committer itself: it must return at once, and may call no method of the store.
type Observer struct {
	// Moved is called for each change of state, after it is durable.
	Moved func(Move)
	// Committed is called for each commit with the time that it took.
	Committed func(time.Duration)
}

// Move is a change of state. From is empty for a job that was accepted.
type Move struct {
	From, To State
	At       time.Time
	Job      Job // after it, without its body
}

// Oldest is since when the job waits that came first of those that could start;
// zero when there is none.
func (s *Store) Oldest() (since time.Time, err error) {
	err = s.active.view(func(tx *bolt.Tx) error {
		var first []byte
		ready := tx.Bucket(bucketReady)
		lanes := ready.Cursor()
		for name, _ := lanes.First(); name != nil; name, _ = lanes.Next() {
			k, _ := ready.Bucket(name).Cursor().First()
			if k != nil && (first == nil || seqOf(k) < seqOf(first)) {
				first = k
			}
		}
		if first == nil {
			return nil
		}
		j, err := loadSeq(tx, seqOf(first))
		since = j.Queued
		return err
	})
	return since, err
}

// Sizes are how long the two files are, in bytes.
func (s *Store) Sizes() (active, history int64, err error) {
	for _, f := range []struct {
		path string
		size *int64
	}{{s.active.path, &active}, {s.history.path, &history}} {
		info, err := os.Stat(f.path)
		if err != nil {
			return 0, 0, err
		}
		*f.size = info.Size()
	}
	return active, history, nil
}
