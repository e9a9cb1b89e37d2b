package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// maxProblems bounds how many findings Check reports.
const maxProblems = 20

// Check verifies the database's structure and every invariant of the layout:
// each row has exactly the index keys that it asks for, the counts count, what
// waits for another job can be told of its end, and no job is in both files but
// one that is on its way. It reads copies, which need as much room in the state
// directory as the two files, because bbolt compares its free pages with a
// database that nobody writes to.
func (s *Store) Check() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot check the queue: %w", err)
		}
	}()
	// What is in the history when it is copied has ended by then, and still has
	// when the queue is copied.
	history, err := s.openCopy(s.history)
	if err != nil {
		return err
	}
	defer history.Close()
	active, err := s.openCopy(s.active)
	if err != nil {
		return err
	}
	defer active.Close()
	return checkFiles(active, history)
}

// openCopy opens a copy of f that is gone when it is closed.
func (s *Store) openCopy(f *file) (*bolt.DB, error) {
	c, err := s.copyOf(context.Background(), f)
	if err != nil {
		return nil, diskError(err)
	}
	return bolt.Open(c.Name(), 0, &bolt.Options{
		ReadOnly: true, PreLoadFreelist: true, FreelistType: bolt.FreelistMapType,
		OpenFile: func(string, int, os.FileMode) (*os.File, error) { return c, nil },
	})
}

// checkFiles compares two databases that nobody writes to.
func checkFiles(active, history *bolt.DB) error {
	var p problems
	err := active.View(func(tx *bolt.Tx) error {
		return history.View(func(htx *bolt.Tx) error {
			p.bolt(tx, activeName)
			p.bolt(htx, historyName)
			if len(p.found) > 0 {
				return nil // what the pages hold cannot be trusted
			}
			p.rows(tx, activeName, activeIndexes, entries, func(j *Job) {
				if !j.State.Final() && htx.Bucket(bucketJobs).Get(seqKey(j.Seq)) != nil {
					p.add("job %s is %s and in the history", j.ID, j.State)
				}
			})
			p.dependents(tx)
			p.extras(tx)
			p.rows(htx, historyName, historyIndexes, historyEntries, func(j *Job) {
				if !j.State.Final() {
					p.add("job %s is %s in the history", j.ID, j.State)
				}
			})
			return nil
		})
	})
	if err != nil {
		return err
	}
	if len(p.found) > 0 {
		return fmt.Errorf("it is damaged: %w", errors.Join(p.found...))
	}
	return nil
}

// Indexes that rows alone decide on.
var (
	activeIndexes  = [][]byte{bucketStates, bucketOwners, bucketReady, bucketDue, bucketDoubtful}
	historyIndexes = [][]byte{bucketStates, bucketOwners, bucketFinished}
)

type problems struct{ found []error }

func (p *problems) add(format string, args ...any) {
	if len(p.found) < maxProblems {
		p.found = append(p.found, fmt.Errorf(format, args...))
	}
}

func (p *problems) bolt(tx *bolt.Tx, name string) {
	for err := range tx.Check() {
		p.add("%s: %w", name, err)
	}
}

// rows compares all rows of one file with its indexes: every key that a row
// asks for is there, and there are as many keys as were asked for.
func (p *problems) rows(tx *bolt.Tx, name string, indexes [][]byte, entries func(*Job) []entry, each func(*Job)) {
	want := make(map[string]int)
	counts := make(map[State]int64)
	bodies, origins, last, claimed := 0, 0, uint64(0), 0
	err := tx.Bucket(bucketJobs).ForEach(func(k, _ []byte) error {
		j, err := loadSeq(tx, seqOf(k))
		if err != nil {
			p.add("%s: %v", name, err)
			return nil
		}
		if j.Attempt > 0 {
			claimed++
		}
		last = j.Seq
		counts[j.State]++
		want[string(bucketIDs)]++
		if !bytes.Equal(tx.Bucket(bucketIDs).Get([]byte(j.ID)), k) {
			p.add("%s: id %s does not lead to job %d", name, j.ID, j.Seq)
		}
		if tx.Bucket(bucketBodies).Get(k) != nil {
			bodies++
		}
		if tx.Bucket(bucketOrigins).Get(k) != nil {
			origins++
		}
		for _, e := range entries(&j) {
			want[string(e.bucket)]++
			b := tx.Bucket(e.bucket)
			if e.lane != nil {
				b = b.Bucket(e.lane)
			}
			var got []byte
			if b != nil {
				got = b.Get(e.key)
			}
			if got == nil || !bytes.Equal(got, e.value) {
				p.add("%s: job %s (%s): key %x of %s is missing or wrong", name, j.ID, j.State, e.key, e.bucket)
			}
		}
		each(&j)
		return nil
	})
	if err != nil {
		p.add("%s: %v", name, err)
	}
	if live := tx.Bucket(bucketLive); live != nil {
		if n := countKeys(tx, bucketLive); n != claimed {
			p.add("%s: %d jobs were claimed and %d are live", name, claimed, n)
		}
	}
	want[string(bucketBodies)], want[string(bucketOrigins)] = bodies, origins
	want[string(bucketDue)] += revocations(tx)
	for _, bucket := range append([][]byte{bucketIDs, bucketBodies, bucketOrigins}, indexes...) {
		if got := countKeys(tx, bucket); got != want[string(bucket)] {
			p.add("%s: %s has %d keys instead of %d", name, bucket, got, want[string(bucket)])
		}
	}
	for _, st := range states {
		if got := readCount(tx, st); got != counts[st] {
			p.add("%s: %d jobs are %s and %d are counted", name, counts[st], st, got)
		}
	}
	if seq := tx.Bucket(bucketJobs).Sequence(); name == activeName && seq < last {
		p.add("%s: the next job would take a number that job %d has", name, last)
	}
}

// countKeys counts the keys of a bucket and of the lanes in it, of which none is empty.
func countKeys(tx *bolt.Tx, bucket []byte) (n int) {
	b := tx.Bucket(bucket)
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if v != nil {
			n++
			continue
		}
		lane := b.Bucket(k).Cursor()
		first, _ := lane.First()
		if first == nil {
			return -1
		}
		for ; first != nil; first, _ = lane.Next() {
			n++
		}
	}
	return n
}

// revocations is how many keys of due belong to no job.
func revocations(tx *bolt.Tx) int {
	if b := tx.Bucket(bucketRevoked); b != nil {
		return countKeys(tx, bucketRevoked)
	}
	return 0
}

// dependents compares what jobs wait for with the index that tells them: a key
// for each, and for each key a job that will end, or has and is being settled.
func (p *problems) dependents(tx *bolt.Tx) {
	keys := 0
	c := tx.Bucket(bucketDependents).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		keys++
		id := string(k[:len(k)-9])
		j, err := loadSeq(tx, seqOf(k))
		if err != nil {
			p.add("the job that waits for %s: %v", id, err)
			continue
		}
		if j.State.Final() || j.pending == 0 {
			p.add("job %s (%s) is entered as waiting for %s", j.ID, j.State, id)
		}
		if tx.Bucket(bucketEnded).Get([]byte(id)) != nil {
			continue
		}
		if on, err := loadJob(tx, id); err != nil || on.State.Final() {
			p.add("job %s waits for %s, which has ended or is gone", j.ID, id)
		}
	}
	pending := 0
	err := tx.Bucket(bucketJobs).ForEach(func(k, _ []byte) error {
		j, err := loadSeq(tx, seqOf(k))
		if err != nil {
			return nil // told already
		}
		pending += j.pending
		if n := len(unmet(tx, &j)); n != j.pending {
			p.add("job %s waits for %d jobs and counts %d", j.ID, n, j.pending)
		}
		return nil
	})
	if err != nil {
		p.add("%v", err)
	}
	if keys != pending {
		p.add("%d jobs are waited for and %d are entered", pending, keys)
	}
}

// extras looks at the buckets that have no rows.
func (p *problems) extras(tx *bolt.Tx) {
	revoked := tx.Bucket(bucketRevoked)
	n := uint64(0)
	err := revoked.ForEach(func(id, until []byte) error {
		n++
		if tx.Bucket(bucketDue).Get(revocationKey(until, string(id))) == nil {
			p.add("the revocation of %s does not end", id)
		}
		return nil
	})
	if err != nil {
		p.add("%v", err)
	}
	if n != revoked.Sequence() {
		p.add("%d revocations are counted and %d are there", revoked.Sequence(), n)
	}
	err = tx.Bucket(bucketOutbox).ForEach(func(k, v []byte) error {
		e, err := decodeEvent(k, v)
		if err != nil {
			p.add("%v", err)
		} else if e.Left == 0 {
			p.add("nobody wants event %d of job %s", e.Seq, e.Job)
		}
		return nil
	})
	if err != nil {
		p.add("%v", err)
	}
	for _, bucket := range [][]byte{bucketSecrets, bucketReports} {
		err = tx.Bucket(bucket).ForEach(func(k, _ []byte) error {
			j, err := loadSeq(tx, seqOf(k))
			if waits := err == nil && !j.State.Final(); !waits && !hasEvents(tx, seqOf(k)) {
				p.add("%s of job %d are left, which has ended and is reported", bucket, seqOf(k))
			}
			return nil
		})
	}
	if err != nil {
		p.add("%v", err)
	}
}
