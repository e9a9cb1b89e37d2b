package fifo

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The benchmarks move a file in memory through a pipe to or from a `cat` that
// plays the container, once with `cat` at the host's end as well and once with
// this package, which also hashes. Compare figures of one run only:
//
//	go test -run '^$' -bench Pipe -benchtime 5x -count 5 ./sandbox/fifo
const benchSize = 256 << 20

func benchFile(b *testing.B) string {
	b.Helper()
	path := filepath.Join("/dev/shm", filepath.Base(b.TempDir())+"-fifo-bench")
	if err := os.WriteFile(path, random(benchSize), 0o600); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.Remove(path) })
	return path
}

func shell(b *testing.B, script string, args ...string) *exec.Cmd {
	b.Helper()
	cmd := command(b, script, args...)
	must(b, cmd.Start())
	return cmd
}

func command(b *testing.B, script string, args ...string) *exec.Cmd {
	b.Helper()
	cmd := exec.Command("sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func BenchmarkPipeIn(b *testing.B) {
	source := benchFile(b)
	b.Run("cat", func(b *testing.B) {
		s := newBench(b)
		b.SetBytes(benchSize)
		for b.Loop() {
			reader := shell(b, `cat "$1" >/dev/null`, s.path)
			must(b, shell(b, `cat "$1" > "$2"`, source, s.path).Wait())
			must(b, reader.Wait())
		}
	})
	b.Run("send", func(b *testing.B) {
		s := newBench(b)
		b.SetBytes(benchSize)
		for b.Loop() {
			life, end := context.WithCancel(context.Background())
			reader := shell(b, `cat "$1" >/dev/null`, s.path)
			src, err := os.Open(source)
			must(b, err)
			done := make(chan outcome, 1)
			go func() {
				res, err := s.dir.Sender(s.pipe).Send(b.Context(), life, src)
				done <- outcome{res, err}
			}()
			must(b, reader.Wait())
			end()
			got := <-done
			must(b, got.err)
			if got.Bytes != benchSize || got.Partial {
				b.Fatalf("sent %+v", got)
			}
			src.Close()
		}
	})
}

func BenchmarkPipeOut(b *testing.B) {
	source := benchFile(b)
	target := source + "-out"
	b.Cleanup(func() { os.Remove(target) })
	b.Run("cat", func(b *testing.B) {
		s := newBench(b)
		b.SetBytes(benchSize)
		for b.Loop() {
			reader := shell(b, `cat "$1" > "$2"`, s.path, target)
			must(b, shell(b, `cat "$1" > "$2"`, source, s.path).Wait())
			must(b, reader.Wait())
		}
	})
	b.Run("receive", func(b *testing.B) {
		s := newBench(b)
		b.SetBytes(benchSize)
		for b.Loop() {
			life, end := context.WithCancel(context.Background())
			dst, err := os.Create(target)
			must(b, err)
			r, err := s.dir.Receiver(s.pipe)
			must(b, err)
			done := make(chan outcome, 1)
			go func() {
				res, err := r.Receive(b.Context(), life, dst)
				done <- outcome{res, err}
			}()
			must(b, shell(b, `cat "$1" > "$2"`, source, s.path).Wait())
			end()
			got := <-done
			must(b, got.err)
			if got.Bytes != benchSize {
				b.Fatalf("received %+v", got)
			}
			dst.Close()
		}
	})
}
