package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"slices"

	bolt "go.etcd.io/bbolt"
)

const defaultLimit = 1000

// Job returns a job, active or from the history.
func (s *Store) Job(id string) (j Job, err error) {
	read := func(tx *bolt.Tx) error {
		if j, err = loadJob(tx, id); err != nil {
			return err
		}
		j.Body = loadBody(tx, j.Seq)
		return nil
	}
	// A job leaves the active file only after the history has it.
	err = s.active.view(read)
	if errors.Is(err, ErrNotFound) {
		err = s.history.view(read)
	}
	if err != nil {
		return Job{}, err
	}
	return j, nil
}

// Filter chooses jobs for List. Zero fields choose all.
type Filter struct {
	States []State
	Owner  string
	// Before continues a listing: only jobs with a smaller Seq. Newest come first.
	Before uint64
	Limit  int // 0: 1000
}

// List returns jobs, newest first, without their bodies.
func (s *Store) List(f Filter) ([]Job, error) {
	if f.Limit < 1 {
		f.Limit = defaultLimit
	}
	if f.Before == 0 {
		f.Before = math.MaxUint64
	}
	var jobs []Job
	for _, file := range []*file{s.active, s.history} {
		err := file.view(func(tx *bolt.Tx) error {
			found, err := s.list(tx, &f)
			jobs = append(jobs, found...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(jobs, func(a, b Job) int {
		switch {
		case a.Seq > b.Seq:
			return -1
		case a.Seq < b.Seq:
			return 1
		}
		return 0
	})
	// A job that moved between the two reads is there twice.
	jobs = slices.CompactFunc(jobs, func(a, b Job) bool { return a.Seq == b.Seq })
	return jobs[:min(len(jobs), f.Limit)], nil
}

// list walks the index that leads to the jobs of f with the fewest steps.
func (s *Store) list(tx *bolt.Tx, f *Filter) (jobs []Job, err error) {
	owner := ownerOf(f.Owner)
	var walks []*walk
	few := true // states with few jobs are walked for an owner's sake, too
	if f.Owner != "" {
		n := 0
		s.countMu.Lock()
		for _, st := range f.States {
			n += s.counts[st.code()]
		}
		s.countMu.Unlock()
		few = n <= 10*defaultLimit
	}
	switch {
	case len(f.States) > 0 && few:
		for _, st := range f.States {
			walks = append(walks, newWalk(tx, bucketStates, []byte{st.code()}, f.Before))
		}
	case f.Owner != "":
		walks = append(walks, newWalk(tx, bucketOwners, owner[:], f.Before))
	default:
		walks = append(walks, newWalk(tx, bucketJobs, nil, f.Before))
	}
	for len(jobs) < f.Limit {
		w := latest(walks)
		if w == nil {
			break
		}
		seq := w.seq()
		skip := f.Owner != "" && bytes.Equal(w.bucket, bucketStates) && !bytes.HasPrefix(w.value, owner[:])
		w.back()
		if skip {
			continue
		}
		j, err := loadSeq(tx, seq)
		if err != nil {
			return nil, err
		}
		if f.Owner != "" && j.Owner != f.Owner || len(f.States) > 0 && !slices.Contains(f.States, j.State) {
			continue
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// walk goes down the keys of one prefix, whose ends are sequences.
type walk struct {
	bucket, prefix []byte
	c              *bolt.Cursor
	key, value     []byte // nil at the end
}

func newWalk(tx *bolt.Tx, bucket, prefix []byte, before uint64) *walk {
	w := &walk{bucket: bucket, prefix: prefix, c: tx.Bucket(bucket).Cursor()}
	if k, _ := w.c.Seek(append(bytes.Clone(prefix), seqKey(before)...)); k == nil {
		w.set(w.c.Last())
	} else {
		w.back()
	}
	return w
}

func (w *walk) back() { w.set(w.c.Prev()) }

func (w *walk) set(k, v []byte) {
	if !bytes.HasPrefix(k, w.prefix) {
		k = nil
	}
	w.key, w.value = k, v
}

func (w *walk) seq() uint64 { return seqOf(w.key) }

func latest(walks []*walk) (top *walk) {
	for _, w := range walks {
		if w.key != nil && (top == nil || w.seq() > top.seq()) {
			top = w
		}
	}
	return top
}

// Active returns the jobs in preparing, running and finishing, for recovery,
// with their bodies, oldest first.
func (s *Store) Active() (jobs []Job, err error) {
	err = s.active.view(func(tx *bolt.Tx) error {
		for _, st := range []State{Preparing, Running, Finishing} {
			err := eachIn(tx, st, func(seq uint64, _ []byte) error {
				j, err := loadSeq(tx, seq)
				if err != nil {
					return err
				}
				j.Body = json.RawMessage(loadBody(tx, seq))
				jobs = append(jobs, j)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	slices.SortFunc(jobs, func(a, b Job) int { return int(int64(a.Seq - b.Seq)) })
	return jobs, err
}

// eachIn calls fn for every job in state st, oldest first, with its value in the index.
func eachIn(tx *bolt.Tx, st State, fn func(seq uint64, value []byte) error) error {
	prefix := []byte{st.code()}
	c := tx.Bucket(bucketStates).Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if err := fn(seqOf(k), v); err != nil {
			return err
		}
	}
	return nil
}

// eachFinal calls fn for every final job of one file.
func eachFinal(tx *bolt.Tx, fn func(seq uint64, st State) error) error {
	for _, st := range []State{Succeeded, Failed, Canceled} {
		err := eachIn(tx, st, func(seq uint64, _ []byte) error { return fn(seq, st) })
		if err != nil {
			return err
		}
	}
	return nil
}
