package queue

import (
	"bytes"
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
		loadBodies(tx, &j)
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

// fewEnough is how many jobs a listing sorts by itself, or looks at for the
// sake of one owner.
const fewEnough = 10 * defaultLimit

// list walks the index that leads to the jobs of f with the fewest steps.
func (s *Store) list(tx *bolt.Tx, f *Filter) (jobs []Job, err error) {
	owner := ownerOf(f.Owner)
	queued, all := 0, 0
	s.countMu.Lock()
	for _, st := range f.States {
		all += s.counts[st.code()]
		if st == Queued {
			queued += s.counts[st.code()]
		}
	}
	s.countMu.Unlock()
	var walks []walker
	switch {
	case len(f.States) > 0 && queued <= fewEnough && (f.Owner == "" || all <= fewEnough):
		for _, st := range f.States {
			walks = append(walks, newWalk(tx, bucketStates, []byte{st.code()}, f.Before))
			if st == Queued {
				walks = append(walks, newReadyWalk(tx, f.Before))
			}
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
		seq, _ := w.seq()
		w.back()
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

// walker goes from the newest job to the oldest.
type walker interface {
	seq() (uint64, bool) // false at the end
	back()
}

// walk goes down the keys of one prefix, whose ends are sequences.
type walk struct {
	prefix []byte
	c      *bolt.Cursor
	key    []byte // nil at the end
}

func newWalk(tx *bolt.Tx, bucket, prefix []byte, before uint64) *walk {
	w := &walk{prefix: prefix, c: tx.Bucket(bucket).Cursor()}
	if k, _ := w.c.Seek(append(bytes.Clone(prefix), seqKey(before)...)); k == nil {
		k, _ := w.c.Last()
		w.set(k)
	} else {
		w.back()
	}
	return w
}

func (w *walk) back() {
	k, _ := w.c.Prev()
	w.set(k)
}

func (w *walk) set(k []byte) {
	if !bytes.HasPrefix(k, w.prefix) {
		k = nil
	}
	w.key = k
}

func (w *walk) seq() (uint64, bool) {
	if w.key == nil {
		return 0, false
	}
	return seqOf(w.key), true
}

// readyWalk is the startable jobs, which no index has in one row: few of them.
type readyWalk []uint64

func newReadyWalk(tx *bolt.Tx, before uint64) *readyWalk {
	var w readyWalk
	ready := tx.Bucket(bucketReady)
	if ready == nil { // in the history
		return &w
	}
	lanes := ready.Cursor()
	for name, _ := lanes.First(); name != nil; name, _ = lanes.Next() {
		c := ready.Bucket(name).Cursor()
		for k, _ := c.First(); k != nil && seqOf(k) < before; k, _ = c.Next() {
			w = append(w, seqOf(k))
		}
	}
	slices.Sort(w)
	return &w
}

func (w *readyWalk) back() { *w = (*w)[:len(*w)-1] }

func (w *readyWalk) seq() (uint64, bool) {
	if len(*w) == 0 {
		return 0, false
	}
	return (*w)[len(*w)-1], true
}

func latest(walks []walker) (top walker) {
	var newest uint64
	for _, w := range walks {
		if seq, ok := w.seq(); ok && seq >= newest {
			top, newest = w, seq
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
				loadBodies(tx, &j)
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
