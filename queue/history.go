package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// moveAtOnce and moveBytes bound one transaction of the history.
	moveAtOnce = 512
	moveBytes  = 16 << 20
	// restTime lets finished jobs gather, so that they share the two commits of a move.
	restTime = time.Second
	// answerTime leaves the disk to whoever waits for the end of a job, before its move.
	answerTime = 20 * time.Millisecond
	// troubleTime is the pause after a move that failed: a full disk.
	troubleTime = 10 * time.Second
)

// moveLoop takes finished jobs to the history. It ends when the store closes.
func (s *Store) moveLoop() {
	ctx := context.Background()
	for {
		select {
		case <-s.closing:
			return
		case <-s.finished:
		}
		select {
		case <-s.closing:
			return
		case <-time.After(answerTime):
		}
		pause := restTime
		if err := s.moveFinished(ctx); errors.Is(err, ErrClosed) {
			return
		} else if err != nil {
			s.log.Warn("Cannot move finished jobs to the history; trying again", "err", err)
			signal(s.finished)
			pause = troubleTime
		}
		s.compactHistory()
		select {
		case <-s.closing:
			return
		case <-time.After(pause):
		}
	}
}

// moveFinished moves every finished job. They are copied first and removed
// then, so that a crash in between leaves them in both files, which the next
// move settles.
func (s *Store) moveFinished(ctx context.Context) error {
	s.moveMu.Lock()
	defer s.moveMu.Unlock()
	for {
		select {
		case <-s.closing: // the next start goes on
			return ErrClosed
		default:
		}
		n, err := s.moveSome(ctx)
		if err != nil || n == 0 {
			return err
		}
	}
}

var errEnough = errors.New("enough")

// moveSome moves at most moveAtOnce jobs and returns how many. moveMu is held.
func (s *Store) moveSome(ctx context.Context) (int, error) {
	type moved struct {
		job Job // with its body
		row []byte
	}
	var jobs []moved
	size := 0
	err := s.active.view(func(tx *bolt.Tx) error {
		return eachFinal(tx, func(seq uint64, _ State) error {
			if len(jobs) == moveAtOnce || size > moveBytes {
				return errEnough
			}
			j, err := loadSeq(tx, seq)
			if err != nil {
				return err
			}
			loadBodies(tx, &j)
			m := moved{job: j, row: encodeJob(&j)}
			size += len(m.row) + len(j.Body) + len(j.Origin)
			jobs = append(jobs, m)
			return nil
		})
	})
	if err != nil && !errors.Is(err, errEnough) || len(jobs) == 0 {
		return 0, err
	}
	err = s.history.update(func(tx *bolt.Tx) error {
		for i := range jobs {
			m := &jobs[i]
			if tx.Bucket(bucketJobs).Get(seqKey(m.job.Seq)) != nil {
				continue
			}
			if err := addHistory(tx, &m.job, m.row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	// Nobody else removes them: that takes moveMu. A final job does not change.
	err = s.do(ctx, func(t *txn) error {
		for i := range jobs {
			if err := t.drop(&jobs[i].job); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(jobs), nil
}

func addHistory(tx *bolt.Tx, j *Job, row []byte) error {
	put := func(bucket, key, value []byte) error {
		b := tx.Bucket(bucket)
		b.FillPercent = fillPercent
		return b.Put(key, value)
	}
	if err := put(bucketJobs, seqKey(j.Seq), row); err != nil {
		return err
	}
	if len(j.Body) > 0 {
		if err := put(bucketBodies, seqKey(j.Seq), j.Body); err != nil {
			return err
		}
	}
	if len(j.Origin) > 0 {
		if err := put(bucketOrigins, seqKey(j.Seq), j.Origin); err != nil {
			return err
		}
	}
	if err := put(bucketIDs, []byte(j.ID), seqKey(j.Seq)); err != nil {
		return err
	}
	for _, e := range historyEntries(j) {
		if err := put(e.bucket, e.key, e.value); err != nil {
			return err
		}
	}
	return addCount(tx, j.State, +1)
}

func dropHistory(tx *bolt.Tx, j *Job) error {
	keys := append(historyEntries(j), entry{bucket: bucketJobs, key: seqKey(j.Seq)},
		entry{bucket: bucketBodies, key: seqKey(j.Seq)}, entry{bucket: bucketOrigins, key: seqKey(j.Seq)},
		entry{bucket: bucketIDs, key: []byte(j.ID)})
	for _, e := range keys {
		if err := tx.Bucket(e.bucket).Delete(e.key); err != nil {
			return err
		}
	}
	return addCount(tx, j.State, -1)
}

// Sweep applies the retention and returns the ids it removed, so that their files can go too.
func (s *Store) Sweep(ctx context.Context) ([]string, error) {
	if err := s.moveFinished(ctx); err != nil {
		return nil, fmt.Errorf("cannot sweep the history: %w", err)
	}
	s.moveMu.Lock()
	defer s.moveMu.Unlock()
	var ids []string
	for {
		if err := ctx.Err(); err != nil {
			return ids, err
		}
		removed, err := s.sweepSome()
		for i := range removed {
			ids = append(ids, removed[i].ID)
		}
		if err != nil {
			return ids, fmt.Errorf("cannot sweep the history: %w", err)
		}
		if len(removed) == 0 {
			return ids, nil
		}
	}
}

// sweepSome removes the jobs that ended first, but for those of which somebody
// has still to be told. moveMu is held.
func (s *Store) sweepSome() (removed []Job, err error) {
	retention, sure := *s.retention.Load(), s.Sure()
	err = s.history.update(func(tx *bolt.Tx) error {
		removed = nil
		surplus := 0
		if retention.Count > 0 {
			surplus = historyCount(tx) - retention.Count
		}
		first, err := firstCreated(tx)
		if err != nil {
			return err
		}
		c := tx.Bucket(bucketFinished).Cursor()
		for k, _ := c.First(); k != nil && len(removed) < moveAtOnce; k, _ = c.Next() {
			// What ended before a job that had been accepted earlier is as young as
			// that at least: the clock was far back, and was set since.
			wrong := timeOf(k).Before(first) && !first.After(sure)
			old := retention.Age > 0 && timeOf(k).Before(sure.Add(-retention.Age))
			if len(removed) >= surplus && wrong {
				continue
			}
			if len(removed) >= surplus && !old {
				break
			}
			if untold, err := s.untold(seqOf(k)); err != nil {
				return err
			} else if untold {
				continue
			}
			j, err := loadSeq(tx, seqOf(k))
			if err != nil {
				return err
			}
			removed = append(removed, j)
		}
		for i := range removed {
			if err := dropHistory(tx, &removed[i]); err != nil {
				return err
			}
		}
		if len(removed) == 0 {
			return errNothing
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.countMu.Lock()
	defer s.countMu.Unlock()
	for i := range removed {
		s.counts[removed[i].State.code()]--
	}
	return removed, nil
}

// firstCreated is when the job of the history was accepted that was accepted first.
func firstCreated(tx *bolt.Tx) (time.Time, error) {
	k, _ := tx.Bucket(bucketJobs).Cursor().First()
	if k == nil {
		return time.Time{}, nil
	}
	j, err := loadSeq(tx, seqOf(k))
	return j.Created, err
}

func historyCount(tx *bolt.Tx) (n int) {
	for _, st := range []State{Succeeded, Failed, Canceled} {
		n += int(readCount(tx, st))
	}
	return n
}
