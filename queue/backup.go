package queue

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
)

// Backup writes a consistent copy without holding a read transaction while w is
// slow: a tar of queue.db and history.db, to be unpacked into an empty state
// directory. The active file is copied first; a job that moves meanwhile is then
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
