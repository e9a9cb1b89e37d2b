package queue

import (
	"errors"
	"fmt"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	// idleTime without work is when the committer looks after its file.
	idleTime = time.Second
	// compactAbove is the size below which a file is left as it is.
	compactAbove = 64 << 20
	// compactIdle and compactBusy bound what a compaction has to copy, because
	// nothing is committed meanwhile: when there is nothing to do, and when there is.
	compactIdle = 128 << 20
	compactBusy = 16 << 20
	// compactTx bounds the transactions of a compaction.
	compactTx = 4 << 20
	// compactPause follows a compaction that failed.
	compactPause = 10 * time.Minute
)

// compactActive writes the active database anew when most of it is free: every
// commit writes the list of free pages, and bbolt never gives a page back. It
// waits until little is left to copy, which takes as long as that is large. The
// committer calls it.
func (s *Store) compactActive(idle bool) {
	s.compactIfWorth(s.active, idle)
}

// compactHistory does the same after retention has removed much.
func (s *Store) compactHistory() {
	s.moveMu.Lock()
	defer s.moveMu.Unlock()
	s.compactIfWorth(s.history, true)
}

func (s *Store) compactIfWorth(f *file, idle bool) {
	if s.now().Before(f.compactAgain) || !f.worthCompacting(idle) {
		return
	}
	before := time.Now()
	if err := s.compact(f); err != nil {
		f.compactAgain = s.now().Add(compactPause)
		s.log.Warn("Cannot compact the queue; trying again later", "err", err)
		return
	}
	s.log.Info("Compacted the queue", "file", f.path, "took", time.Since(before))
}

// worthCompacting tells whether more than half of the file is free and the rest
// is soon copied.
func (f *file) worthCompacting(idle bool) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.db == nil || f.working() != nil {
		return false
	}
	st := f.db.Stats()
	free := int64(st.FreePageN+st.PendingPageN) * int64(f.db.Info().PageSize)
	if free < compactAbove/2 {
		return false // the common case needs no look at the file
	}
	fi, err := os.Stat(f.path)
	if err != nil {
		return false
	}
	most := int64(compactBusy)
	if idle {
		most = compactIdle
	}
	size := fi.Size()
	return size > compactAbove && free > size/2 && size-free <= most
}

// compact copies f beside itself, makes the copy durable and puts it in place.
// Only the writer of f may call it. A crash leaves the old file or the new one.
func (s *Store) compact(f *file) (err error) {
	temp := f.path + partial
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
			err = fmt.Errorf("cannot compact %s: %w", f.path, diskError(err))
		}
	}()
	o := boltOptions()
	o.NoSync, o.NoGrowSync = true, true // synced once, below
	db, err := bolt.Open(temp, 0o600, o)
	if err != nil {
		return err
	}
	db.AllocSize = growBy
	f.mu.RLock()
	err = bolt.Compact(db, f.db, compactTx)
	f.mu.RUnlock()
	if err != nil {
		return errors.Join(err, db.Close())
	}
	db.NoSync, db.NoGrowSync = false, false
	if err := db.Sync(); err != nil {
		return errors.Join(err, db.Close())
	}
	if err := replace(s.dir, temp, f.path); err != nil {
		return errors.Join(err, db.Close())
	}
	// Readers of the old file are waited for here.
	if err := f.swap(db).Close(); err != nil {
		s.log.Warn("Cannot close the queue's old file", "err", err)
	}
	return nil
}
