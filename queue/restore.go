package queue

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Restored is what a backup held.
type Restored struct {
	Jobs map[State]int `json:"jobs"`
	// Aside are the files that were replaced, under their new names.
	Aside []string `json:"aside,omitempty"`
}

// Restore puts what [Store.Backup] wrote in place of the queue in dir, which
// nobody has open. Everything is written beside, migrated, and checked as
// [Store.Check] does, before anything is replaced. A queue that holds jobs is
// replaced only with force, and stays there under another name. The errors are
// ErrNewerSchema, ErrLocked, ErrNotEmpty and those of a damaged backup.
func Restore(ctx context.Context, dir string, r io.Reader, force bool) (_ Restored, err error) {
	defer func() {
		// bbolt panics on pages that make no sense.
		if p := recover(); p != nil {
			err = fmt.Errorf("%w (%v)", errDamaged, p)
		}
		if err != nil {
			err = fmt.Errorf("cannot restore the queue: %w", diskError(err))
		}
	}()
	if err := prepareDir(dir); err != nil {
		return Restored{}, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return Restored{}, err
	}
	defer lock.Close()
	if err := removePartial(dir); err != nil {
		return Restored{}, err
	}
	if !force {
		if err := empty(dir); err != nil {
			return Restored{}, err
		}
	}
	files, err := unpack(ctx, dir, r)
	defer func() {
		for _, name := range files {
			_ = os.Remove(name) // what was not put in place
		}
	}()
	if err != nil {
		return Restored{}, err
	}
	result := Restored{}
	if result.Jobs, err = checkRestored(files[activeName], files[historyName]); err != nil {
		return Restored{}, err
	}
	// The old ones keep a name until the new ones are there. A crash between the
	// two leaves files that do not fit, and both old ones beside them.
	stamp := time.Now().UTC().Format("20060102T150405Z")
	for _, name := range []string{activeName, historyName} {
		path := filepath.Join(dir, name)
		if none, err := absent(path); err != nil {
			return Restored{}, err
		} else if none {
			continue
		}
		aside := path + ".before-restore-" + stamp
		if err := os.Link(path, aside); err != nil {
			return Restored{}, err
		}
		result.Aside = append(result.Aside, aside)
	}
	for _, name := range []string{historyName, activeName} {
		if err := replace(dir, files[name], filepath.Join(dir, name)); err != nil {
			return Restored{}, err
		}
		delete(files, name)
	}
	return result, nil
}

// empty refuses a directory whose queue holds jobs, or may.
func empty(dir string) error {
	for name, sc := range map[string]schema{activeName: activeSchema, historyName: historySchema} {
		path := filepath.Join(dir, name)
		none, err := absent(path)
		if err != nil {
			return err
		}
		if none {
			continue
		}
		db, err := openDB(path, sc)
		if err != nil {
			return fmt.Errorf("%w (%w)", ErrNotEmpty, err)
		}
		seq := newest(db)
		if err := db.Close(); err != nil {
			return err
		}
		if seq > 0 {
			return ErrNotEmpty
		}
	}
	return nil
}

// unpack writes the two files of a backup beside their places.
func unpack(ctx context.Context, dir string, r io.Reader) (map[string]string, error) {
	files := map[string]string{}
	for tr := tar.NewReader(contextReader{ctx, r}); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return files, fmt.Errorf("%w (%w)", errNoBackup, err)
		}
		if h.Name != activeName && h.Name != historyName || h.Typeflag != tar.TypeReg || files[h.Name] != "" {
			return files, fmt.Errorf("%w: it holds %.80q", errNoBackup, h.Name)
		}
		f, err := os.CreateTemp(dir, "restore-*"+partial) // mode 0600
		if err != nil {
			return files, err
		}
		files[h.Name] = f.Name()
		_, err = io.Copy(f, tr)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w: it ends too early", errNoBackup)
		}
		if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
			return files, err
		}
	}
	if len(files) != 2 {
		return files, fmt.Errorf("%w: it lacks %s or %s", errNoBackup, activeName, historyName)
	}
	return files, nil
}

// checkRestored migrates two files, checks them, and counts their jobs.
func checkRestored(active, history string) (map[State]int, error) {
	adb, err := openDB(active, activeSchema)
	if err != nil {
		return nil, err
	}
	defer adb.Close()
	hdb, err := openDB(history, historySchema)
	if err != nil {
		return nil, err
	}
	defer hdb.Close()
	if err := checkFiles(adb, hdb); err != nil {
		return nil, err
	}
	counts := map[State]int{}
	err = adb.View(func(tx *bolt.Tx) error {
		return hdb.View(func(htx *bolt.Tx) error {
			for _, st := range states {
				counts[st] = int(readCount(tx, st) + readCount(htx, st))
			}
			// A job that was on its way between the two is in both.
			return eachFinal(tx, func(seq uint64, st State) error {
				if htx.Bucket(bucketJobs).Get(seqKey(seq)) != nil {
					counts[st]--
				}
				return nil
			})
		})
	})
	for st, n := range counts {
		if n == 0 {
			delete(counts, st)
		}
	}
	if err = errors.Join(err, adb.Sync(), hdb.Sync()); err != nil {
		return nil, err
	}
	return counts, nil
}
