package queue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// schema is the layout of one file: its version, and how every older one
// becomes the next. A change of the layout adds a migration, raises version,
// changes create, doc.go and the test that builds the old layout by hand.
type schema struct {
	version int
	buckets [][]byte
	// migrations[i] makes version i+2 of version i+1.
	migrations []migration
}

type migration struct {
	name  string
	apply func(*bolt.Tx) error
}

var (
	activeSchema = schema{version: 4, buckets: activeBuckets, migrations: []migration{
		{"origins, secrets and reports", func(tx *bolt.Tx) error {
			// No release had anybody to tell, so the events are nobody's.
			if err := tx.DeleteBucket(bucketOutbox); err != nil {
				return err
			}
			return addBuckets(tx, bucketOutbox, bucketOrigins, bucketSecrets, bucketReports)
		}},
		{"jobs in doubt", func(tx *bolt.Tx) error { return addBuckets(tx, bucketDoubtful) }},
		{"lanes by scratch and swap", splitLanes},
	}}
	historySchema = schema{version: 2, buckets: historyBuckets, migrations: []migration{
		{"origins", func(tx *bolt.Tx) error { return addBuckets(tx, bucketOrigins) }},
	}}
)

// Layout is a number that grows with every change of what is on disk. A release
// reads what was written under its own number or a lower one.
func Layout() int { return activeSchema.version + historySchema.version }

// splitLanes moves startable jobs that need scratch space or swap to lanes of their own.
func splitLanes(tx *bolt.Tx) error {
	ready := tx.Bucket(bucketReady)
	moved := make(map[string][]entry) // by the lane they leave
	err := ready.ForEachBucket(func(name []byte) error {
		return ready.Bucket(name).ForEach(func(k, v []byte) error {
			if to := readAmount(v, amountLen+8).appendDiskClasses(bytes.Clone(name)); len(to) > len(name) {
				moved[string(name)] = append(moved[string(name)], entry{lane: to, key: bytes.Clone(k), value: bytes.Clone(v)})
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for from, entries := range moved {
		old := ready.Bucket([]byte(from))
		for _, e := range entries {
			lane, err := ready.CreateBucketIfNotExists(e.lane)
			if err != nil {
				return err
			}
			if err := lane.Put(e.key, e.value); err != nil {
				return err
			}
			if err := old.Delete(e.key); err != nil {
				return err
			}
		}
		if k, _ := old.Cursor().First(); k == nil {
			if err := ready.DeleteBucket([]byte(from)); err != nil {
				return err
			}
		}
	}
	return nil
}

func addBuckets(tx *bolt.Tx, names ...[]byte) error {
	for _, name := range names {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	return nil
}

// create lays out an empty database in the current version.
func (sc schema) create(tx *bolt.Tx) error {
	if err := addBuckets(tx, sc.buckets...); err != nil {
		return err
	}
	return sc.stamp(tx, sc.version)
}

func (sc schema) stamp(tx *bolt.Tx, version int) error {
	return tx.Bucket(bucketMeta).Put(keySchema, binary.BigEndian.AppendUint64(nil, uint64(version)))
}

var errForeign = errors.New("it is not a database of girder-worker")

// migrate brings db to the current version in one transaction, or leaves it as it is.
func (sc schema) migrate(db *bolt.DB) error {
	var found int
	err := db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return errForeign
		}
		v := meta.Get(keySchema)
		if len(v) != 8 {
			return errForeign
		}
		found = int(binary.BigEndian.Uint64(v))
		return nil
	})
	switch {
	case err != nil:
		return err
	case found > sc.version:
		return fmt.Errorf("%w: its layout is version %d and this release knows up to %d; install the newer release again, "+
			"or restore the backup made before the upgrade", ErrNewerSchema, found, sc.version)
	case found < 1:
		return errForeign
	case found == sc.version:
		return db.View(sc.complete)
	}
	return db.Update(func(tx *bolt.Tx) error {
		for v := found; v < sc.version; v++ {
			m := sc.migrations[v-1]
			if err := m.apply(tx); err != nil {
				return fmt.Errorf("cannot migrate to version %d (%s): %w", v+1, m.name, err)
			}
		}
		if err := sc.complete(tx); err != nil {
			return err
		}
		return sc.stamp(tx, sc.version)
	})
}

// complete refuses a file that lacks a part of its layout, before a job is
// accepted that could not be moved on.
func (sc schema) complete(tx *bolt.Tx) error {
	for _, name := range sc.buckets {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: it has no bucket %q", errForeign, name)
		}
	}
	return nil
}
