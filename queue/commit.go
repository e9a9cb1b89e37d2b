package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// maxShared and maxSharedBytes bound what one commit holds in memory.
	maxShared      = 4096
	maxSharedBytes = 16 << 20
	// settleAtOnce bounds how many dependents and due jobs one transaction settles.
	settleAtOnce = 512
	// companyTime is how long a lazy op waits for another one.
	companyTime = 20 * time.Millisecond
	// fillPercent fills pages rather than splitting them in halves: keys mostly grow.
	fillPercent = 0.9
)

// op is one change that a caller waits for. Many share a transaction, so apply
// must be repeatable, and it must find out what it refuses before it writes.
type op struct {
	apply func(*txn) error
	// grows marks a submission: on a full disk it is the first to go, so that
	// the jobs there are can still move on.
	grows bool
	// lazy marks what nobody waits for: it gives others companyTime to share its
	// transaction.
	lazy bool
	size int // bytes it brings, about
	err  error
	done chan struct{}
}

// txn is the transaction that the committer has open, with what must happen
// once it is durable.
type txn struct {
	*Store
	tx  *bolt.Tx
	now time.Time
	at  reading // with now

	writes   int
	delta    [len(states) + 1]int // by code
	notices  []Notice
	moves    []Move       // for an observer
	wake     bool         // a claim may find something new
	finished bool         // there is something to move to the history
	reports  []PendingJob // jobs with new events
	more     bool         // dependents are left to settle
	durable  []func()     // called then

	// Of the claim that stands:
	room    amount
	most    int   // jobs that it may still claim
	claimed []Job // by it
	made    bool
	joined  bool // made by the committer of its own accord
}

func (t *txn) bucket(name []byte) *bolt.Bucket {
	b := t.tx.Bucket(name)
	b.FillPercent = fillPercent
	return b
}

func (t *txn) put(bucket, key, value []byte) error {
	t.writes++
	return t.bucket(bucket).Put(key, value)
}

func (t *txn) delete(bucket, key []byte) error {
	t.writes++
	return t.bucket(bucket).Delete(key)
}

func (t *txn) putEntry(e entry) error {
	if e.lane == nil {
		return t.put(e.bucket, e.key, e.value)
	}
	t.writes++
	lane, err := t.bucket(e.bucket).CreateBucketIfNotExists(e.lane)
	if err != nil {
		return err
	}
	lane.FillPercent = fillPercent
	return lane.Put(e.key, e.value)
}

// deleteEntry removes a lane with its last key.
func (t *txn) deleteEntry(e entry) error {
	if e.lane == nil {
		return t.delete(e.bucket, e.key)
	}
	t.writes++
	lane := t.bucket(e.bucket).Bucket(e.lane)
	if lane == nil {
		return nil
	}
	if err := lane.Delete(e.key); err != nil {
		return err
	}
	if k, _ := lane.Cursor().First(); k != nil {
		return nil
	}
	return t.bucket(e.bucket).DeleteBucket(e.lane)
}

// count changes how many jobs are in s, on disk and, after the commit, in memory.
func (t *txn) count(s State, by int) error {
	if s == "" {
		return nil
	}
	t.delta[s.code()] += by
	return addCount(t.tx, s, by)
}

func addCount(tx *bolt.Tx, s State, by int) error {
	n := readCount(tx, s) + int64(by)
	return tx.Bucket(bucketMeta).Put(keyCount(s), binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func readCount(tx *bolt.Tx, s State) int64 {
	v := tx.Bucket(bucketMeta).Get(keyCount(s))
	if v == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// do hands apply to the committer and waits until its transaction is on disk.
// A context that ends before the committer took it ends the call; afterwards
// the answer is waited for, because it is on its way and the caller must not be
// told that nothing happened.
func (s *Store) do(ctx context.Context, apply func(*txn) error) error {
	return s.submit(ctx, &op{apply: apply})
}

func (s *Store) submit(ctx context.Context, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan struct{})
	select {
	case s.ops <- o:
	case <-s.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	<-o.done
	return o.err
}

// commitLoop is the committer: the one goroutine that writes the active
// database. It ends when the store closes.
func (s *Store) commitLoop() {
	idle := time.NewTimer(idleTime)
	defer idle.Stop()
	more := true // dependents may be left from before a crash
	for {
		var batch []*op
		size := 0
		take := func(o *op) {
			batch = append(batch, o)
			size += o.size
		}
		if !more {
			select {
			case <-s.closing:
				return
			case o := <-s.ops:
				take(o)
			case <-idle.C:
				// Not set again before there was work.
				s.compactActive(true)
				continue
			}
			if batch[0].lazy {
				select {
				case <-s.closing:
				case o := <-s.ops:
					take(o)
				case <-time.After(s.company):
				}
			}
		}
	drain:
		for len(batch) < maxShared && size < maxSharedBytes {
			select {
			case o := <-s.ops:
				take(o)
			default:
				break drain
			}
		}
		select {
		case <-s.closing:
			if len(batch) == 0 {
				return
			}
		default:
		}
		more = s.commit(batch)
		s.compactActive(false)
		idle.Reset(idleTime)
	}
}

// commit applies ops in one transaction and answers each. It tells whether
// dependents are left to settle.
func (s *Store) commit(ops []*op) (more bool) {
	s.standMu.Lock()
	defer s.standMu.Unlock()
	join := true // what these ops make startable is claimed with them
	for {
		t, spoilt, err := s.apply(ops, join)
		switch {
		case spoilt >= 0:
			// One op failed after it had written. The others start again without it.
			close(ops[spoilt].done)
			ops = slices.Delete(ops, spoilt, spoilt+1)
			continue
		case err != nil && t != nil && t.joined:
			// It may be the claim's fault. Whoever left it standing is woken by what
			// follows, looks, and learns of it.
			join = false
			continue
		case errors.Is(err, ErrNoSpace) && slices.ContainsFunc(ops, isGrowing):
			ops = slices.DeleteFunc(ops, func(o *op) bool {
				if o.grows {
					o.err = err
					close(o.done)
				}
				return o.grows
			})
			continue
		case err != nil:
			for _, o := range ops {
				o.err = err
				close(o.done)
			}
			return false
		}
		s.committed(t)
		for _, o := range ops {
			close(o.done)
		}
		return t.more
	}
}

func isGrowing(o *op) bool { return o.grows }

// apply runs ops in one transaction, makes the claim that stands if it is to join
// them, and commits when one of them wrote. spoilt is the index of an op that failed
// half way, or -1.
func (s *Store) apply(ops []*op, join bool) (t *txn, spoilt int, err error) {
	var room Capacity
	most := 0
	if s.standing != nil {
		room, most = s.standing.Room()
	}
	tx, err := s.active.begin()
	if err != nil {
		return nil, -1, err
	}
	// A panic of an op must not leave the database locked.
	defer func() {
		if tx.DB() != nil {
			_ = tx.Rollback()
		}
	}()
	at := s.clock.read()
	t = &txn{Store: s, tx: tx, now: at.now, at: at, room: capacityOf(room), most: most}
	for i, o := range ops {
		writes := t.writes
		o.err = o.apply(t)
		if o.err != nil && t.writes != writes {
			return nil, i, nil
		}
	}
	if err := t.settleEnded(); err != nil {
		return nil, -1, err
	}
	if t.joined = join && t.wake && t.most > 0; t.joined {
		if err := t.claimStanding(); err != nil {
			return t, -1, err
		}
	}
	if t.writes == 0 {
		return t, -1, nil
	}
	begun := time.Now()
	err = s.active.failed(tx.Commit())
	if s.observer.Committed != nil {
		s.observer.Committed(time.Since(begun))
	}
	if err != nil {
		s.log.Error("Cannot commit", "err", err)
		return t, -1, fmt.Errorf("cannot commit: %w", err)
	}
	return t, -1, nil
}

// committed lets the world know what t made durable.
func (s *Store) committed(t *txn) {
	s.countMu.Lock()
	for code, n := range t.delta {
		s.counts[code] += n
	}
	s.countMu.Unlock()
	s.hub.publish(t.notices)
	for _, m := range t.moves {
		s.observer.Moved(m)
	}
	for _, done := range t.durable {
		done()
	}
	if t.made {
		t.standing.Begin(t.claimed)
	}
	if t.wake {
		signal(s.wake)
	}
	if len(t.reports) > 0 {
		s.reportable.add(t.reports)
		signal(s.outbox)
	}
	if t.finished {
		signal(s.finished)
	}
}

// signal sets a channel of capacity 1 without blocking.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// diskError makes ErrNoSpace of what a full disk or quota looks like. bbolt
// flattens the error of file growth to text.
func diskError(err error) error {
	if err == nil {
		return nil
	}
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, full) || strings.Contains(err.Error(), full.Error()) {
			return fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
	}
	return err
}
