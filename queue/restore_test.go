package queue

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// backedUp is a backup of a queue with a finished and a waiting job.
func backedUp(t *testing.T) (backup []byte, ended, waiting string) {
	t.Helper()
	c := newClock()
	s := open(t, withClock(c))
	ended = endJobs(t, s, c, 1)[0]
	must(t, s.moveFinished(ctx))
	waiting = submit(t, s, sub())[0].ID
	var out bytes.Buffer
	must(t, s.Backup(ctx, &out))
	return out.Bytes(), ended, waiting
}

func queueDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "queue")
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

func TestRestore(t *testing.T) {
	backup, ended, waiting := backedUp(t)
	dir := queueDir(t)
	r, err := Restore(ctx, dir, bytes.NewReader(backup), false)
	must(t, err)
	if r.Jobs[Queued] != 1 || r.Jobs[Succeeded] != 1 || len(r.Jobs) != 2 || len(r.Aside) != 0 {
		t.Errorf("restored %+v", r)
	}
	s := open(t, func(o *Options) { o.Dir = dir })
	wantState(t, s, ended, Succeeded)
	wantState(t, s, waiting, Queued)
	must(t, s.Check())
	later := submit(t, s, sub())[0].ID
	if _, err := Restore(ctx, dir, bytes.NewReader(backup), true); !errors.Is(err, ErrLocked) {
		t.Errorf("while it is in use: %v", err)
	}
	must(t, s.Close())

	if _, err := Restore(ctx, dir, bytes.NewReader(backup), false); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("in place of jobs: %v", err)
	}
	r, err = Restore(ctx, dir, bytes.NewReader(backup), true)
	must(t, err)
	if len(r.Aside) != 2 {
		t.Errorf("aside: %q", r.Aside)
	}
	s = open(t, func(o *Options) { o.Dir = dir })
	if _, err := s.Job(later); !errors.Is(err, ErrNotFound) {
		t.Errorf("a job that the backup lacks: %v", err)
	}
	must(t, s.Close())

	// What was there can be put back.
	for _, name := range r.Aside {
		was, _, _ := strings.Cut(name, ".before-restore-")
		must(t, os.Rename(name, was))
	}
	s = open(t, func(o *Options) { o.Dir = dir })
	wantState(t, s, later, Queued)
}

// change returns a backup with one of its databases changed.
func change(t *testing.T, backup []byte, name string, fn func(*bolt.Tx) error) []byte {
	t.Helper()
	dir := t.TempDir()
	files, err := unpack(ctx, dir, bytes.NewReader(backup))
	must(t, err)
	db, err := bolt.Open(files[name], 0o600, boltOptions())
	must(t, err)
	must(t, db.Update(fn))
	must(t, db.Close())
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, n := range []string{activeName, historyName} {
		data, err := os.ReadFile(files[n])
		must(t, err)
		must(t, tw.WriteHeader(&tar.Header{Name: n, Mode: 0o600, Size: int64(len(data)), Typeflag: tar.TypeReg}))
		_, err = tw.Write(data)
		must(t, err)
	}
	must(t, tw.Close())
	return out.Bytes()
}

// TestBadBackups: none replaces anything, and none leaves anything behind.
func TestBadBackups(t *testing.T) {
	good, _, _ := backedUp(t)
	garbled := bytes.Clone(good)
	for i := 512 + 4096*2; i < 512+int(tarSize(t, good)); i++ {
		garbled[i] ^= 0x5a
	}
	var foreign bytes.Buffer
	tw := tar.NewWriter(&foreign)
	must(t, tw.WriteHeader(&tar.Header{Name: "../queue.db", Mode: 0o600, Typeflag: tar.TypeReg}))
	must(t, tw.Close())
	for name, tt := range map[string]struct {
		backup []byte
		want   string
	}{
		"empty":     {nil, "lacks queue.db"},
		"text":      {bytes.Repeat([]byte("no tar\n"), 1000), "no whole backup"},
		"cut":       {good[:len(good)/2], "ends too early"},
		"one file":  {good[:512+int(tarSize(t, good))], "lacks queue.db or history.db"},
		"elsewhere": {foreign.Bytes(), "it holds"},
		"garbled":   {garbled, "damaged"},
		"newer": {change(t, good, activeName, func(tx *bolt.Tx) error {
			return tx.Bucket(bucketMeta).Put(keySchema, binary.BigEndian.AppendUint64(nil, uint64(activeSchema.version+1)))
		}), "newer release"},
		"without an index": {change(t, good, historyName, func(tx *bolt.Tx) error {
			k, _ := tx.Bucket(bucketIDs).Cursor().First()
			return tx.Bucket(bucketIDs).Delete(k)
		}), "damaged"},
		"another program's": {change(t, good, activeName, func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMeta) }), "not a database of girder-worker"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := queueDir(t)
			s := open(t, func(o *Options) { o.Dir = dir })
			id := submit(t, s, sub())[0].ID
			must(t, s.Close())
			if _, err := Restore(ctx, dir, bytes.NewReader(tt.backup), true); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %s", err, tt.want)
			}
			entries, err := os.ReadDir(dir)
			must(t, err)
			if len(entries) != 3 {
				t.Errorf("left: %v", entries)
			}
			wantState(t, open(t, func(o *Options) { o.Dir = dir }), id, Queued)
		})
	}
}

func tarSize(t *testing.T, backup []byte) int64 {
	t.Helper()
	h, err := tar.NewReader(bytes.NewReader(backup)).Next()
	must(t, err)
	return h.Size
}
