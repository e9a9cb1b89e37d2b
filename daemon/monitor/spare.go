package monitor

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"girderworker/daemon/attempt"
)

// spares has the directories of the next attempt ready.
type spares struct {
	files  layout
	gid    int
	logger *slog.Logger

	mu     sync.Mutex
	ready  *attempt.Spare // nil: none is
	next   int            // number of the next one
	making bool
	closed bool
	wg     sync.WaitGroup
}

// sparePrefix begins their names in the cache's directory, which is root's.
const sparePrefix = "spare-"

// spareRefill leaves the processor to what was just started.
const spareRefill = 15 * time.Millisecond

// prepare makes a spare in a while, with secrets or without: the next attempt is mostly
// like the one before.
func (s *spares) prepare(secrets bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.making || s.ready != nil {
		return
	}
	s.making = true
	s.next++
	path := filepath.Join(s.files.cache(), sparePrefix+strconv.Itoa(s.next))
	s.wg.Go(func() {
		time.Sleep(spareRefill)
		spare, err := attempt.NewSpare(path, s.gid, secrets)
		if err != nil {
			s.logger.Debug("The next attempt starts slower", "error", err)
		}
		s.mu.Lock()
		s.making, s.ready = false, spare
		s.mu.Unlock()
	})
}

// take makes what there is an attempt's, with its work directory, and returns its lock;
// nil where there is nothing that can be.
func (s *spares) take(d attempt.Dir, work string, secrets bool) (*attempt.Lock, error) {
	s.mu.Lock()
	spare := s.ready
	s.ready = nil
	s.mu.Unlock()
	if spare == nil {
		return nil, nil
	}
	lock, err := spare.Become(d, work, secrets)
	if err == nil {
		return lock, nil
	}
	if errors.Is(err, fs.ErrExist) {
		err = nil // of no use to this attempt
	}
	return nil, errors.Join(err, spare.Discard())
}

// close removes what is ready.
func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wg.Wait()
	if s.ready != nil {
		if err := s.ready.Discard(); err != nil {
			s.logger.Warn("Cannot remove what was kept ready; the next start does", "error", err)
		}
	}
}

// sweepSpares removes those of a monitor that was killed.
func (l layout) sweepSpares() error {
	entries, err := os.ReadDir(l.cache())
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), sparePrefix) {
			err = errors.Join(err, attempt.RemoveWork(filepath.Join(l.cache(), e.Name())))
		}
	}
	return err
}
