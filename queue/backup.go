package queue

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// Backup writes a consistent copy without holding a read transaction while w is
// slow: a tar of queue.db and history.db, to be unpacked into an empty state
// directory. It holds no secrets: a job of which somebody has to be told stays
// untold when it comes from a backup. The active file is copied first; a job that moves meanwhile is then
// in both, which opening settles. The copies need as much room in the state
// directory as the two files.
func (s *Store) Backup(ctx context.Context, w io.Writer) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot back up the queue: %w", diskError(err))
		}
	}()
	var copies []*os.File
	defer func() {
		for _, c := range copies {
			c.Close()
		}
	}()
	for _, f := range []*file{s.active, s.history} {
		c, err := s.copyOf(ctx, f)
		if err != nil {
			return err
		}
		copies = append(copies, c)
		if f == s.active {
			if copies[0], err = s.withoutSecrets(ctx, c); err != nil {
				return err
			}
		}
	}
	tw := tar.NewWriter(w)
	for i, name := range []string{activeName, historyName} {
		size, err := copies[i].Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if _, err := copies[i].Seek(0, io.SeekStart); err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: 0o600, Size: size, ModTime: s.now(), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, contextReader{ctx, copies[i]}); err != nil {
			return err
		}
	}
	return tw.Close()
}

// withoutSecrets writes the database in c anew, without secrets, and closes c.
// They are also in pages that are free, so it is not enough to remove them.
func (s *Store) withoutSecrets(ctx context.Context, c *os.File) (_ *os.File, err error) {
	clean, err := os.CreateTemp(s.dir, "backup-*"+partial)
	if err != nil {
		return c, err
	}
	defer func() {
		if err != nil {
			clean.Close()
		}
	}()
	if err := os.Remove(clean.Name()); err != nil {
		return c, err
	}
	// bbolt closes the files that it is given.
	open := func(f *os.File) (*bolt.DB, error) {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		o := boltOptions()
		o.NoSync, o.NoGrowSync = true, true
		o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return os.NewFile(uintptr(fd), f.Name()), nil }
		return bolt.Open(f.Name(), 0, o)
	}
	from, err := open(c)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	err = from.Update(func(tx *bolt.Tx) error {
		if err := tx.DeleteBucket(bucketSecrets); err != nil {
			return err
		}
		return addBuckets(tx, bucketSecrets)
	})
	if err != nil {
		return c, err
	}
	to, err := open(clean)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := ctx.Err(); err != nil {
		return c, err
	}
	if err := bolt.Compact(to, from, compactTx); err != nil {
		return c, err
	}
	if err := to.View(func(tx *bolt.Tx) error { return clean.Truncate(tx.Size()) }); err != nil {
		return c, err
	}
	return clean, c.Close()
}

// copyOf is a copy of f as it is now, in a file that has no name any more.
func (s *Store) copyOf(ctx context.Context, f *file) (*os.File, error) {
	c, err := os.CreateTemp(s.dir, "backup-*"+partial)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(c.Name()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	err = f.view(func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(contextWriter{ctx, c})
		return err
	})
	if ctx.Err() != nil {
		err = ctx.Err() // bbolt flattens it to text
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// contextReader and contextWriter end a copy with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
