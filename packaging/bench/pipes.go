package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// pipeSection compares one named pipe in and one out, hashed on the way, with
// two processes of cat on a named pipe. Files are in memory: the disk is not
// what is compared.
func pipeSection(ctx context.Context, b *bench) error {
	// /dev/shm is the system's own, which jobs may not have.
	dir, err := os.MkdirTemp("", "girder-worker-bench-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, ""); err != nil {
		return fmt.Errorf("cannot mount a file system in memory: %w", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	if err := os.Chmod(dir, 0o777); err != nil {
		return err
	}
	d, err := newDaemon(ctx, b, "pipes")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	size := int64(b.n(2048, 64)) << 20
	source := filepath.Join(dir, "source")
	if err := randomFile(source, size); err != nil {
		return err
	}
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()

	in := fmt.Appendf(nil, `{"image":"bench:latest","args":["sh","-c","cat {in} >/dev/null"],"inputs":[{"name":"in","file":%q}]}`, source)
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o666); err != nil {
		return err
	}
	var ours, theirs []float64
	gigabytes := func(t time.Duration) float64 { return float64(size) / 1e9 / t.Seconds() }
	for range b.n(5, 1) {
		t, err := timed(func() error { return catThrough(ctx, source, fifo, "/dev/null") })
		if err != nil {
			return err
		}
		theirs = append(theirs, gigabytes(t))
		if t, err = timed(func() error { return c.runJob(ctx, in) }); err != nil {
			return err
		}
		ours = append(ours, gigabytes(t))
	}
	report := func(what string) {
		b.table.atLeast(0.9, what, fmt.Sprintf("%.2f GB/s", median(ours)), fmt.Sprintf("%.2f GB/s", median(theirs)), median(ours)/median(theirs))
	}
	note := func(what string, rates []float64) {
		b.table.note(what, fmt.Sprintf("%.2f GB/s", median(ours)), fmt.Sprintf("%.2f GB/s", median(rates)), median(ours)/median(rates))
	}
	report("file into a container, the whole job, against cat through a FIFO")
	var hashed []float64
	for range b.n(3, 1) {
		t, err := timed(func() error { return hashThrough(ctx, source, fifo, "/dev/null") })
		if err != nil {
			return err
		}
		hashed = append(hashed, gigabytes(t))
	}
	note("the same, against cat with tee and sha256sum, which hash as well", hashed)
	ours, theirs = nil, nil

	for i := range b.n(5, 1) {
		copied := filepath.Join(dir, "copied")
		t, err := timed(func() error { return catThrough(ctx, source, fifo, copied) })
		if err != nil {
			return err
		}
		theirs = append(theirs, gigabytes(t))
		target := filepath.Join(dir, fmt.Sprintf("target-%d", i))
		out := fmt.Appendf(nil, `{"image":"bench:latest","args":["sh","-c","cat /source >{out}"],"binds":[{"source":%q,"target":"/source","read_only":true}],"outputs":[{"name":"out","file":%q}]}`, source, target)
		if t, err = timed(func() error { return c.runJob(ctx, out) }); err != nil {
			return err
		}
		ours = append(ours, gigabytes(t))
		os.Remove(target)
		os.Remove(copied)
	}
	report("file out of a container, the whole job, against cat through a FIFO")
	return nil
}

// hashThrough is catThrough with a hash of what went through, as our pipes have it.
func hashThrough(ctx context.Context, source, fifo, target string) error {
	script := `/bin/cat "$1" | /usr/bin/tee "$2" | /usr/bin/sha256sum >/dev/null & /bin/cat "$2" >"$3"; wait $!`
	if out, err := exec.CommandContext(ctx, "/bin/sh", "-c", script, "sh", source, fifo, target).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot copy through a FIFO: %w: %s", err, out)
	}
	return nil
}

// catThrough copies source to target by two cats on a FIFO: the plain ones,
// which read and write. busybox's asks the kernel to move pages, which nobody can
// hash on the way.
func catThrough(ctx context.Context, source, fifo, target string) error {
	script := `/bin/cat "$1" >"$2" & /bin/cat "$2" >"$3"; wait $!`
	if out, err := exec.CommandContext(ctx, "/bin/sh", "-c", script, "sh", source, fifo, target).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot copy through a FIFO: %w: %s", err, out)
	}
	return nil
}

func randomFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	rand.Read(block)
	for left := size; left > 0; left -= int64(len(block)) {
		if _, err := f.Write(block[:min(left, int64(len(block)))]); err != nil {
			return err
		}
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
