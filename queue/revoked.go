package queue

import (
	"time"

	bolt "go.etcd.io/bbolt"
)

// Revocation is an id that no job from AMQP may have.
type Revocation struct {
	ID    string
	Until time.Time // it is forgotten then
}

// Revocations returns at most limit of what [Store.Revoke] remembers, by id.
func (s *Store) Revocations(limit int) (all []Revocation, err error) {
	err = s.active.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketRevoked).Cursor()
		for k, v := c.First(); k != nil && len(all) < limit; k, v = c.Next() {
			all = append(all, Revocation{string(k), timeOf(v)})
		}
		return nil
	})
	return all, err
}
