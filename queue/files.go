package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// Names in the state directory. What ends in partial is of no use to anyone
// after a crash and is removed at the next start.
const (
	lockName    = "lock"
	activeName  = "queue.db"
	historyName = "history.db"
	partial     = ".partial"
)

const (
	// mapSize is address space, not memory: as long as a file fits, it grows
	// without a new mapping, and so without waiting for readers to end.
	mapSize = 16 << 30
	// growBy is how far a file grows beyond what it needs.
	growBy = 4 << 20
)

// file is one of the two databases. Compaction puts another one under it.
type file struct {
	path string
	mu   sync.RWMutex
	db   *bolt.DB
	// broken is set for good when a commit failed in a way that leaves its
	// outcome unknown.
	broken atomic.Pointer[error]
	// compactAgain belongs to the one writer of the file: not before then, after a
	// compaction that failed.
	compactAgain time.Time
}

func (f *file) view(fn func(*bolt.Tx) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.db == nil {
		return ErrClosed
	}
	return f.db.View(fn)
}

// begin opens a writing transaction without keeping mu: the writer of a file is
// also the one that swaps it.
func (f *file) begin() (*bolt.Tx, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.db == nil {
		return nil, ErrClosed
	}
	if err := f.working(); err != nil {
		return nil, err
	}
	return f.db.Begin(true)
}

// errNothing, returned to update, ends its transaction without a commit.
var errNothing = errors.New("nothing to change")

func (f *file) update(fn func(*bolt.Tx) error) error {
	tx, err := f.begin()
	if err != nil {
		return err
	}
	// Also after a panic.
	defer func() {
		if tx.DB() != nil {
			_ = tx.Rollback()
		}
	}()
	if err := fn(tx); errors.Is(err, errNothing) {
		return nil
	} else if err != nil {
		return err
	}
	return f.failed(tx.Commit())
}

// failed judges the error of a commit. A full disk was noticed before anything
// counted. After any other failed write or sync nobody knows what the disk
// holds, and the page cache may show what will not be there after a reboot.
func (f *file) failed(err error) error {
	if err = diskError(err); err == nil {
		return nil
	}
	if errors.Is(err, ErrNoSpace) {
		return errors.Join(err, f.trim())
	}
	err = fmt.Errorf("%w: %w", ErrBroken, err)
	f.broken.Store(&err)
	return err
}

// working is the error of a file that is broken.
func (f *file) working() error {
	if err := f.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// trim gives the disk back what a commit that did not fit has written behind
// the last page in use. Nobody reads there.
func (f *file) trim() error {
	return f.view(func(tx *bolt.Tx) error { return os.Truncate(f.path, tx.Size()) })
}

func (f *file) swap(db *bolt.DB) (old *bolt.DB) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, f.db = f.db, db
	return old
}

func (f *file) close() error {
	if f == nil {
		return nil
	}
	db := f.swap(nil)
	if db == nil {
		return nil
	}
	return db.Close()
}

// openFiles takes the directory and opens both databases, made when missing.
func (s *Store) openFiles() error {
	if err := prepareDir(s.dir); err != nil {
		return err
	}
	var err error
	if s.lock, err = lockDir(s.dir); err != nil {
		return err
	}
	if err := removePartial(s.dir); err != nil {
		return err
	}
	activePath, historyPath := filepath.Join(s.dir, activeName), filepath.Join(s.dir, historyName)
	missing, err := absent(activePath)
	if err != nil {
		return err
	}
	// The history is made first and written last: one that holds jobs is never
	// without its queue, unless somebody took the queue away.
	if none, err := absent(historyPath); err != nil {
		return err
	} else if none {
		if !missing {
			s.log.Warn("The history of finished jobs is missing; starting a new one", "file", historyPath)
		}
		if err := create(s.dir, historyName, historySchema); err != nil {
			return err
		}
	}
	hdb, err := openDB(historyPath, historySchema)
	if errors.Is(err, errDamaged) && !missing {
		return fmt.Errorf("%w; or move it away, and the queue goes on without the jobs that had ended", err)
	}
	if err != nil {
		return err
	}
	s.history = &file{path: historyPath, db: hdb}
	if missing {
		if n := newest(hdb); n > 0 {
			return fmt.Errorf("cannot open the queue: %s is missing, though %s holds finished jobs: "+
				"restore it from a backup, or move %[2]s away to start with an empty queue", activePath, historyPath)
		}
		if err := create(s.dir, activeName, activeSchema); err != nil {
			return err
		}
	}
	db, err := openDB(activePath, activeSchema)
	if err != nil {
		return err
	}
	s.active = &file{path: activePath, db: db}
	return nil
}

func (s *Store) closeFiles() error {
	err := errors.Join(s.active.close(), s.history.close())
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot close the queue: %w", err)
	}
	return nil
}

// prepareDir makes dir and refuses one that others can change.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("cannot use the state directory %s: %w", dir, err)
	}
	if uid := os.Geteuid(); int(st.Uid) != uid {
		return fmt.Errorf("cannot use the state directory %s: it belongs to uid %d and this process is uid %d; "+
			"change its owner or run as that user", dir, st.Uid, uid)
	}
	if st.Mode&0o022 != 0 {
		return fmt.Errorf("cannot use the state directory %s: others may write to it (mode %04o); run chmod go-w on it", dir, st.Mode&0o7777)
	}
	return nil
}

// lockDir takes the directory for this process. The lock goes with the
// descriptor, so a killed process leaves none.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the state directory: %w", dirError(err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot open %s: %w%s", dir, ErrLocked, holder(f))
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	// The number is only for the message above: a disk too full for it is no reason to stay down.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return f, nil
}

// holder is " (process 42)" when the lock file tells it.
func holder(f *os.File) string {
	b := make([]byte, 32)
	n, _ := f.ReadAt(b, 0)
	pid := strings.TrimSpace(string(b[:n]))
	if pid == "" {
		return ""
	}
	return " (process " + pid + ")"
}

// dirError adds what to do to errors that the state directory is the cause of.
func dirError(err error) error {
	switch {
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: mount it writable or name another one with --state-dir", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: it must belong to the user that the daemon runs as", err)
	}
	return diskError(err)
}

func removePartial(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*"+partial))
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("cannot remove what an earlier run left: %w", err)
		}
	}
	return nil
}

func absent(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot open the queue: %w", err)
	}
	return false, nil
}

// create makes an empty database beside its place and moves it there when it
// is complete on disk: a loss of power in the middle of bbolt's own
// initialisation leaves a file that cannot be opened.
func create(dir, name string, sc schema) (err error) {
	path := filepath.Join(dir, name)
	temp := path + partial
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
			err = fmt.Errorf("cannot make %s: %w", path, dirError(err))
		}
	}()
	db, err := bolt.Open(temp, 0o600, boltOptions())
	if err != nil {
		return err
	}
	db.AllocSize = growBy
	if err := errors.Join(db.Update(sc.create), db.Sync(), db.Close()); err != nil {
		return err
	}
	return replace(dir, temp, path)
}

// replace moves temp to path, durably.
func replace(dir, temp, path string) error {
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func boltOptions() *bolt.Options {
	return &bolt.Options{
		// The directory's lock comes first, so nobody waits here for long.
		Timeout:         time.Second,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: mapSize,
	}
}

var errDamaged = errors.New("the file is damaged: restore it from a backup")

// openDB opens a database that is there and brings its layout up to date.
func openDB(path string, sc schema) (db *bolt.DB, err error) {
	// bbolt panics on pages that make no sense, and reads where there are none.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w (%v)", errDamaged, r)
		}
		if err != nil {
			if db != nil {
				_ = db.Close()
				db = nil
			}
			if !errors.Is(err, ErrNewerSchema) {
				err = dirError(err)
			}
			err = fmt.Errorf("cannot open %s: %w", path, err)
		}
	}()
	// bbolt would take an empty file for a new one.
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() == 0 {
		return nil, errDamaged
	}
	// It must have all its pages before one is read.
	db, err = openBolt(path, &bolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	err = db.View(func(tx *bolt.Tx) error {
		if fi.Size() < tx.Size() {
			return fmt.Errorf("%w (it has %d bytes of %d)", errDamaged, fi.Size(), tx.Size())
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	if db, err = openBolt(path, boltOptions()); err != nil {
		return nil, err
	}
	db.AllocSize = growBy
	return db, sc.migrate(db)
}

func openBolt(path string, o *bolt.Options) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, o)
	var errno unix.Errno
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrLocked
	case errors.As(err, &errno):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w (%w)", errDamaged, err)
	}
	return db, nil
}

// newest is the largest sequence among the jobs of db.
func newest(db *bolt.DB) (seq uint64) {
	_ = db.View(func(tx *bolt.Tx) error {
		if k, _ := tx.Bucket(bucketJobs).Cursor().Last(); k != nil {
			seq = seqOf(k)
		}
		return nil
	})
	return seq
}
