package fifo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// bench is a directory with one pipe, and a process that plays the container.
type bench struct {
	t    testing.TB
	path string
	dir  *Dir
	pipe Pipe
	life context.Context
	end  context.CancelFunc // the container and its cgroup are gone
}

func newBench(t testing.TB) *bench {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pipes")
	dir, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	pipe, err := dir.Make("p")
	if err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	return &bench{t: t, path: filepath.Join(path, "p"), dir: dir, pipe: pipe, life: life, end: end}
}

// start runs a shell script with the pipe's path as $1. Its whole process
// group is killed at the end of the test, if it still runs.
func (b *bench) start(script string, stdout io.Writer) *exec.Cmd {
	b.t.Helper()
	cmd := exec.Command("sh", "-c", script, "sh", b.path)
	cmd.Stdout, cmd.Stderr = stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	return cmd
}

type outcome struct {
	Result
	err error
}

func (b *bench) send(ctx context.Context, src io.Reader) <-chan outcome {
	out := make(chan outcome, 1)
	s := b.dir.Sender(b.pipe)
	b.t.Cleanup(func() { s.Close() })
	go func() {
		res, err := s.Send(ctx, b.life, src)
		out <- outcome{res, err}
	}()
	return out
}

func (b *bench) receive(ctx context.Context, dst io.Writer) <-chan outcome {
	b.t.Helper()
	r, err := b.dir.Receiver(b.pipe)
	if err != nil {
		b.t.Fatal(err)
	}
	out := make(chan outcome, 1)
	go func() {
		res, err := r.Receive(ctx, b.life, dst)
		out <- outcome{res, err}
	}()
	return out
}

func (b *bench) wait(cmd *exec.Cmd) {
	b.t.Helper()
	if err := cmd.Wait(); err != nil {
		b.t.Errorf("%v: %v", cmd.Args, err)
	}
}

func (b *bench) check(got outcome, want []byte, partial bool) {
	b.t.Helper()
	if got.err != nil {
		b.t.Errorf("error %v", got.err)
	}
	if got.Bytes != int64(len(want)) || got.SHA256 != sha256.Sum256(want) || got.Partial != partial {
		b.t.Errorf("got %d bytes, sum %x, partial %v; want %d, %x, %v",
			got.Bytes, got.SHA256[:4], got.Partial, len(want), sha256.Sum256(want), partial)
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

func TestSend(t *testing.T) {
	for _, size := range []int{0, 1, 5000, chunkSize, chunkSize + 1, 8<<20 + 12345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			b := newBench(t)
			data := random(size)
			var got bytes.Buffer
			cmd := b.start(`cat "$1"`, &got)
			out := b.send(t.Context(), bytes.NewReader(data))
			b.wait(cmd)
			b.end()
			b.check(<-out, data, false)
			if !bytes.Equal(got.Bytes(), data) {
				t.Errorf("the container read %d bytes, not those sent", got.Len())
			}
		})
	}
}

// TestSendSlowReader: what does not fit into the pipe at once is finished.
func TestSendSlowReader(t *testing.T) {
	b := newBench(t)
	data := random(8 << 20)
	var got bytes.Buffer
	cmd := b.start(`dd if="$1" bs=1000 2>/dev/null`, &got)
	out := b.send(t.Context(), bytes.NewReader(data))
	b.wait(cmd)
	b.end()
	b.check(<-out, data, false)
	if !bytes.Equal(got.Bytes(), data) {
		t.Errorf("the container read %d bytes, not those sent", got.Len())
	}
}

func TestSendNeverOpened(t *testing.T) {
	b := newBench(t)
	cmd := b.start(`true`, nil)
	out := b.send(t.Context(), bytes.NewReader(random(100)))
	b.wait(cmd)
	b.end()
	b.check(<-out, nil, true)
}

func TestSendClosedEarly(t *testing.T) {
	b := newBench(t)
	cmd := b.start(`head -c 10 "$1" >/dev/null`, nil)
	data := random(8 << 20)
	out := b.send(t.Context(), bytes.NewReader(data))
	b.wait(cmd)
	b.end()
	got := <-out
	if got.Bytes < 10 || got.Bytes >= int64(len(data)) {
		t.Errorf("%d bytes went into a pipe that was closed after 10", got.Bytes)
	}
	b.check(got, data[:got.Bytes], true)
}

// TestSendUnread: data that fits into the pipe and is never read was not sent.
func TestSendUnread(t *testing.T) {
	b := newBench(t)
	cmd := b.start(`exec 3<"$1"; dd bs=4 count=1 <&3 >/dev/null 2>&1`, nil)
	data := random(1000)
	out := b.send(t.Context(), bytes.NewReader(data))
	b.wait(cmd)
	b.end()
	b.check(<-out, data, true)
}

// TestSendKilledReader: a container that opens, stops reading and is killed.
func TestSendKilledReader(t *testing.T) {
	b := newBench(t)
	cmd := b.start(`exec 3<"$1"; echo open; exec sleep 1000`, nil)
	data := random(8 << 20)
	src := &signalReader{Reader: bytes.NewReader(data), read: make(chan struct{}, 1000)}
	out := b.send(t.Context(), src)
	<-src.read // the container has opened it, and data flows
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	cmd.Wait()
	b.end()
	got := <-out
	b.check(got, data[:got.Bytes], true)
}

type signalReader struct {
	io.Reader
	read chan struct{}
}

func (r *signalReader) Read(p []byte) (int, error) {
	select {
	case r.read <- struct{}{}:
	default:
	}
	return r.Reader.Read(p)
}

// TestSendCancel: a wait for the container to open, and a write into a full
// pipe, both end with the context.
func TestSendCancel(t *testing.T) {
	for name, script := range map[string]string{
		"never opened": `exec sleep 1000`,
		"never read":   `exec 3<"$1"; exec sleep 1000`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.start(script, nil)
			ctx, cancel := context.WithCancel(t.Context())
			src := &signalReader{Reader: bytes.NewReader(random(8 << 20)), read: make(chan struct{}, 1000)}
			out := b.send(ctx, src)
			if name == "never read" {
				<-src.read
			}
			cancel()
			got := <-out
			if got.err != nil || !got.Partial {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestSendReopened: a container that opens an input again after its end gets
// an empty file instead of waiting for ever.
func TestSendReopened(t *testing.T) {
	b := newBench(t)
	var got bytes.Buffer
	cmd := b.start(`cat "$1"; cat "$1"; echo end`, &got)
	out := b.send(t.Context(), strings.NewReader("data "))
	b.wait(cmd)
	b.end()
	b.check(<-out, []byte("data "), false)
	if got.String() != "data end\n" {
		t.Errorf("the container read %q", got.String())
	}
}

// TestSendBrokenSource: the container must not take the break for the end.
func TestSendBrokenSource(t *testing.T) {
	b := newBench(t)
	broken := errors.New("disk on fire")
	var got bytes.Buffer
	cmd := b.start(`cat "$1" && echo complete`, &got)
	s := b.dir.Sender(b.pipe)
	_, err := s.Send(t.Context(), b.life, io.MultiReader(strings.NewReader("half"), &failingReader{broken}))
	if !errors.Is(err, broken) {
		t.Errorf("Send: %v, want the source's error", err)
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	cmd.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(got.String(), "complete") {
		t.Error("the container took a broken input for a whole one")
	}
}

type failingReader struct{ err error }

func (r *failingReader) Read([]byte) (int, error) { return 0, r.err }

func TestReceive(t *testing.T) {
	for _, size := range []int{0, 1, 5000, chunkSize, 8<<20 + 12345} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			b := newBench(t)
			data := random(size)
			var got bytes.Buffer
			out := b.receive(t.Context(), &got)
			cmd := exec.Command("sh", "-c", `cat > "$1"`, "sh", b.path)
			cmd.Stdin = bytes.NewReader(data)
			if err := cmd.Run(); err != nil {
				t.Fatal(err)
			}
			b.end()
			b.check(<-out, data, false)
			if !bytes.Equal(got.Bytes(), data) {
				t.Error("received other data than was written")
			}
		})
	}
}

// TestReceiveReopened: a shell opens and closes the pipe for each line.
func TestReceiveReopened(t *testing.T) {
	b := newBench(t)
	var got bytes.Buffer
	out := b.receive(t.Context(), &got)
	b.wait(b.start(`for i in 1 2 3; do echo $i > "$1"; done`, nil))
	b.end()
	b.check(<-out, []byte("1\n2\n3\n"), false)
}

func TestReceiveNeverOpened(t *testing.T) {
	b := newBench(t)
	out := b.receive(t.Context(), io.Discard)
	b.wait(b.start(`true`, nil))
	b.end()
	b.check(<-out, nil, false)
}

// TestReceiveKilledWriter: what was written before the kill is kept.
func TestReceiveKilledWriter(t *testing.T) {
	b := newBench(t)
	var got bytes.Buffer
	reached := make(chan struct{})
	out := b.receive(t.Context(), &thresholdWriter{Writer: &got, want: 300000, reached: reached})
	cmd := b.start(`exec 3>"$1"; head -c 300000 /dev/zero >&3; exec sleep 1000`, nil)
	<-reached
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	cmd.Wait()
	b.end()
	b.check(<-out, make([]byte, 300000), false)
}

type thresholdWriter struct {
	io.Writer
	got, want int
	reached   chan struct{}
}

func (w *thresholdWriter) Write(p []byte) (int, error) {
	w.got += len(p)
	if w.got == w.want {
		close(w.reached)
	}
	return w.Writer.Write(p)
}

// TestReceiveFlood: a container that never stops writing is cancelled, and one
// that is killed with a full pipe loses nothing of it.
func TestReceiveFlood(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	reached := make(chan struct{})
	out := b.receive(ctx, &floodWriter{limit: 4 << 20, reached: reached})
	b.start(`cat /dev/zero > "$1"`, nil)
	<-reached
	cancel()
	got := <-out
	if got.err != nil || !got.Partial || got.Bytes < 4<<20 {
		t.Errorf("got %+v", got)
	}
}

type floodWriter struct {
	n, limit int
	reached  chan struct{}
}

func (w *floodWriter) Write(p []byte) (int, error) {
	if w.n < w.limit && w.n+len(p) >= w.limit {
		close(w.reached)
	}
	w.n += len(p)
	return len(p), nil
}

// TestReceiveFullDisk: the container goes on when its output cannot be stored.
func TestReceiveFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("cannot mount a tmpfs (this test needs root): %v", err)
	}
	defer func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	f, err := os.Create(filepath.Join(disk, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := newBench(t)
	out := b.receive(t.Context(), f)
	var said bytes.Buffer
	b.wait(b.start(`head -c 20000000 /dev/zero > "$1" && echo through`, &said))
	b.end()
	got := <-out
	if !errors.Is(got.err, unix.ENOSPC) || !got.Partial {
		t.Errorf("got %+v, want ENOSPC", got)
	}
	if said.String() != "through\n" {
		t.Error("the container did not get through")
	}
	// The result is of what is in the file.
	stored, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(stored)) < got.Bytes || got.SHA256 != sha256.Sum256(stored[:got.Bytes]) {
		t.Errorf("%d bytes in the file, %d in the result, or another hash", len(stored), got.Bytes)
	}
}

func TestReplaced(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"another pipe": func(p string) error { return unix.Mkfifo(p, 0o666) },
		"a file":       func(p string) error { return os.WriteFile(p, nil, 0o666) },
		"a directory":  func(p string) error { return os.Mkdir(p, 0o777) },
		"a link to a pipe": func(p string) error {
			other := filepath.Join(filepath.Dir(filepath.Dir(p)), "other")
			if err := unix.Mkfifo(other, 0o666); err != nil {
				return err
			}
			return os.Symlink(other, p)
		},
		"nothing": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := os.Remove(b.path); err != nil {
				t.Fatal(err)
			}
			if err := replace(b.path); err != nil {
				t.Fatal(err)
			}
			if _, err := b.dir.Receiver(b.pipe); !errors.Is(err, ErrReplaced) {
				t.Errorf("Receiver: %v, want ErrReplaced", err)
			}
			// A sender of its own gives up at once as well.
			_, err := b.dir.Sender(b.pipe).Send(t.Context(), b.life, strings.NewReader("secret"))
			if !errors.Is(err, ErrReplaced) {
				t.Errorf("Send: %v, want ErrReplaced", err)
			}
		})
	}
}

func TestMakeRefusesPaths(t *testing.T) {
	b := newBench(t)
	if err := os.Mkdir(filepath.Join(filepath.Dir(b.path), "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../p", "", ".", "p"} {
		if _, err := b.dir.Make(name); err == nil {
			t.Errorf("Make(%q) succeeded", name)
		}
	}
}

// TestStdin: the reading end for a container's descriptor 0 blocks, and ends
// with the data.
func TestStdin(t *testing.T) {
	b := newBench(t)
	stdin, err := b.dir.OpenStdin(b.pipe)
	if err != nil {
		t.Fatal(err)
	}
	sender := b.dir.Sender(b.pipe)
	if err := sender.Connect(); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	cmd := exec.Command("cat")
	cmd.Stdin, cmd.Stdout = stdin, &got
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	data := random(3 << 20)
	out := make(chan outcome, 1)
	go func() {
		res, err := sender.Send(t.Context(), b.life, bytes.NewReader(data))
		out <- outcome{res, err}
	}()
	b.wait(cmd)
	b.end()
	b.check(<-out, data, false)
	if !bytes.Equal(got.Bytes(), data) {
		t.Error("the process read something else")
	}
}

func TestPipeIsWide(t *testing.T) {
	b := newBench(t)
	r, err := b.dir.Receiver(b.pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if size, err := unix.FcntlInt(r.r.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || size != pipeSizes[0] {
		t.Errorf("the pipe holds %d bytes, %v, want %d", size, err, pipeSizes[0])
	}
}

// TestSourceThatChanges: pages are given away as they are, so a file that is
// written meanwhile is an error and not a wrong hash.
func TestSourceThatChanges(t *testing.T) {
	s := newBench(t)
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	reader, err := os.OpenFile(s.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	sender := s.dir.Sender(s.pipe)
	if err := sender.Connect(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := sender.Send(t.Context(), t.Context(), src)
		done <- err
	}()
	// It is under way, and stands still at a full pipe.
	if _, err := io.ReadFull(reader, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 4<<20); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, reader)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("Send: %v", err)
	}
	sender.Close()
}
