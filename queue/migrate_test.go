package queue

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// TestMigrate makes a file of an older layout by hand and brings it up to date
// with a schema that is two versions ahead.
func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	old := schema{version: 1, buckets: [][]byte{bucketMeta, []byte("things")}}
	must(t, db.Update(old.create))
	must(t, db.Update(func(tx *bolt.Tx) error { return tx.Bucket([]byte("things")).Put([]byte("k"), []byte("v")) }))
	must(t, db.Close())

	var order []string
	boom := errors.New("boom")
	fail := true
	sc := schema{version: 3, migrations: []migration{
		{"rename things", func(tx *bolt.Tx) error {
			order = append(order, "2")
			b, err := tx.CreateBucket([]byte("items"))
			if err != nil {
				return err
			}
			if err := b.Put([]byte("k"), tx.Bucket([]byte("things")).Get([]byte("k"))); err != nil {
				return err
			}
			return tx.DeleteBucket([]byte("things"))
		}},
		{"double items", func(tx *bolt.Tx) error {
			order = append(order, "3")
			if fail {
				return boom
			}
			b := tx.Bucket([]byte("items"))
			v := string(b.Get([]byte("k")))
			return b.Put([]byte("k"), []byte(v+v))
		}},
	}}
	if _, err := openDB(path, sc); !errors.Is(err, boom) {
		t.Fatalf("a migration that fails: %v", err)
	}
	// Nothing of it happened: the old release still reads it.
	db, err = openDB(path, old)
	must(t, err)
	must(t, db.Close())
	fail = false
	order = nil
	for range 2 { // the second time there is nothing to do
		db, err = openDB(path, sc)
		must(t, err)
		must(t, db.View(func(tx *bolt.Tx) error {
			if v := tx.Bucket([]byte("items")).Get([]byte("k")); string(v) != "vv" {
				t.Errorf("migrated to %q", v)
			}
			return nil
		}))
		must(t, db.Close())
	}
	if len(order) != 2 || order[0] != "2" || order[1] != "3" {
		t.Errorf("migrations ran in the order %v", order)
	}
	_, err = openDB(path, old)
	if !errors.Is(err, ErrNewerSchema) {
		t.Errorf("an older release: %v", err)
	}
}

// TestMigrations holds that every version up to today's has its migration.
func TestMigrations(t *testing.T) {
	for _, sc := range []schema{activeSchema, historySchema} {
		if len(sc.migrations) != sc.version-1 {
			t.Errorf("version %d with %d migrations", sc.version, len(sc.migrations))
		}
	}
}

// TestSplitLanes opens a queue of version 3, whose lanes are of cpus, memory and gpus alone.
func TestSplitLanes(t *testing.T) {
	s := open(t)
	submit(t, s, sub(named("1"), withDisk(500, 0)), sub(named("2"), withDisk(0, 5)), sub(named("3"), withDisk(0, 0)),
		sub(named("4"), withDisk(500, 0), ownedBy("other")))
	must(t, s.Close())
	edit(t, filepath.Join(s.dir, activeName), func(tx *bolt.Tx) error {
		ready := tx.Bucket(bucketReady)
		for seq := uint64(1); seq <= 4; seq++ {
			j, err := loadSeq(tx, seq)
			must(t, err)
			must(t, ready.Bucket(laneKey(&j)).Delete(seqKey(seq)))
			if k, _ := ready.Bucket(laneKey(&j)).Cursor().First(); k == nil {
				must(t, ready.DeleteBucket(laneKey(&j)))
			}
			lane, err := ready.CreateBucketIfNotExists(laneKey(&j)[:laneLen])
			must(t, err)
			must(t, lane.Put(seqKey(seq), readyValue(&j)))
		}
		return activeSchema.stamp(tx, 3)
	})
	s = open(t, func(o *Options) { o.Dir = s.dir })
	must(t, s.Check())
	wantClaims(t, claimIDs(t, s, Capacity{Slots: 9, CPUs: 9, Swap: 5}, 9), "2 3")
	wantClaims(t, claimIDs(t, s, Capacity{Slots: 9, CPUs: 9, Swap: 5, Scratch: 1000}, 9), "4 1")
	must(t, s.Check())
}

func TestNewerSchema(t *testing.T) {
	for name, sc := range map[string]schema{activeName: activeSchema, historyName: historySchema} {
		s := open(t)
		must(t, s.Close())
		edit(t, filepath.Join(s.dir, name), func(tx *bolt.Tx) error { return activeSchema.stamp(tx, 7) })
		refuse(t, s.dir, ErrNewerSchema, "version 7", fmt.Sprint("up to ", sc.version), "install the newer release")
	}
}

func TestForeign(t *testing.T) {
	for name, harm := range map[string]func(*bolt.Tx) error{
		"no meta":   func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMeta) },
		"no schema": func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keySchema) },
		"version 0": func(tx *bolt.Tx) error { return activeSchema.stamp(tx, 0) },
		"no live":   func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketLive) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			must(t, s.Close())
			edit(t, filepath.Join(s.dir, activeName), harm)
			refuse(t, s.dir, errForeign, "not a database of girder-worker")
		})
	}
}

// edit changes a database that no store has open.
func edit(t *testing.T, path string, fn func(*bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
}
