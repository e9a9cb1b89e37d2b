package fifo

import (
	"context"
	"crypto/sha256"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// BenchmarkCPU is what the host's end of a pipe costs this process: processor
// time, which a busy machine does not change as it changes rates, and waits. The
// hash alone is a part of each that nothing can take away.
func BenchmarkCPU(b *testing.B) {
	source := benchFile(b)
	b.Run("hash", func(b *testing.B) {
		measure(b, func() {
			src, err := os.Open(source)
			must(b, err)
			defer src.Close()
			_, err = io.CopyBuffer(struct{ io.Writer }{sha256.New()}, onlyReader{src}, make([]byte, chunkSize))
			must(b, err)
		})
	})
	for _, in := range []struct {
		name string
		open func(*testing.B) io.ReadCloser
	}{
		{"in, pages", func(b *testing.B) io.ReadCloser { return benchSource(b, source) }},
		{"in, copied", func(b *testing.B) io.ReadCloser {
			f := benchSource(b, source)
			return struct {
				io.Reader
				io.Closer
			}{f, f}
		}},
		{"in, socket", func(b *testing.B) io.ReadCloser { return benchSocket(b, source) }},
	} {
		b.Run(in.name, func(b *testing.B) {
			s := newBench(b)
			measure(b, func() {
				life, end := context.WithCancel(context.Background())
				reader := shell(b, `cat "$1" >/dev/null`, s.path)
				src := in.open(b)
				defer src.Close()
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
			})
		})
	}
	for _, target := range []string{"/dev/null", source + "-out"} {
		name := map[bool]string{true: "out, dropped", false: "out, file"}[target == "/dev/null"]
		b.Run(name, func(b *testing.B) {
			s := newBench(b)
			measure(b, func() {
				life, end := context.WithCancel(context.Background())
				dst, err := os.Create(target)
				must(b, err)
				defer dst.Close()
				r, err := s.dir.Receiver(s.pipe)
				must(b, err)
				done := make(chan outcome, 1)
				go func() {
					res, err := r.Receive(b.Context(), life, dst)
					done <- outcome{res, err}
				}()
				must(b, shell(b, `cat "$1" > "$2"`, source, s.path).Wait())
				end()
				must(b, (<-done).err)
			})
		})
	}
	os.Remove(source + "-out")
}

func benchSource(b *testing.B, path string) *os.File {
	b.Helper()
	f, err := os.Open(path)
	must(b, err)
	return f
}

// benchSocket gives the file through a connection, from another process.
func benchSocket(b *testing.B, path string) net.Conn {
	b.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	must(b, err)
	server, err := listener.Accept()
	must(b, err)
	defer server.Close()
	out, err := server.(*net.TCPConn).File()
	must(b, err)
	defer out.Close()
	must(b, syscall.SetNonblock(int(out.Fd()), false))
	cat := command(b, `cat "$1"`, path)
	cat.Stdout = out
	must(b, cat.Start())
	go cat.Wait()
	return client
}

func measure(b *testing.B, once func()) {
	b.SetBytes(benchSize)
	before, waits := usage(b)
	for b.Loop() {
		once()
	}
	after, waited := usage(b)
	gigabytes := float64(b.N) * benchSize / 1e9
	b.ReportMetric((after-before)/gigabytes, "cpu-s/GB")
	b.ReportMetric(float64(waited-waits)/gigabytes, "waits/GB")
}

func usage(b *testing.B) (seconds float64, waits int64) {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9, u.Nvcsw
}
