package queue

import (
	"context"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Event is a row of the outbox.
type Event struct {
	Seq     uint64    `json:"seq"`
	Job     string    `json:"job"`
	Attempt int       `json:"attempt"`
	State   State     `json:"state"`
	Time    time.Time `json:"time"`
	Result  *Result   `json:"result,omitempty"`
}

// Pending returns outbox events with a Seq larger than after, oldest first. A
// limit below 1 is 1000.
func (s *Store) Pending(after uint64, limit int) (events []Event, err error) {
	if limit < 1 {
		limit = defaultLimit
	}
	err = s.active.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketOutbox).Cursor()
		for k, v := c.Seek(seqKey(after + 1)); k != nil && len(events) < limit; k, v = c.Next() {
			e, err := decodeEvent(seqOf(k), v)
			if err != nil {
				return err
			}
			events = append(events, e)
		}
		return nil
	})
	return events, err
}

// Delivered removes events from the outbox.
func (s *Store) Delivered(ctx context.Context, seqs ...uint64) error {
	if len(seqs) == 0 {
		return nil
	}
	return s.do(ctx, func(t *txn) error {
		for _, seq := range seqs {
			if err := t.delete(bucketOutbox, seqKey(seq)); err != nil {
				return err
			}
		}
		return nil
	})
}
