package fifo

import (
	"context"
	"io"
	"os"
	"syscall"
	"testing"
)

// BenchmarkCPU is what the host's end of an input pipe costs, by pages and by
// copying: processor time of this process, which a busy machine does not change
// as it changes rates.
func BenchmarkCPU(b *testing.B) {
	source := benchFile(b)
	for name, wrap := range map[string]func(*os.File) io.Reader{
		"tee":  func(f *os.File) io.Reader { return f },
		"copy": func(f *os.File) io.Reader { return onlyReader{f} },
	} {
		b.Run(name, func(b *testing.B) {
			s := newBench(b)
			before := cpuTime(b)
			for b.Loop() {
				life, end := context.WithCancel(context.Background())
				reader := shell(b, `cat "$1" >/dev/null`, s.path)
				src, err := os.Open(source)
				must(b, err)
				done := make(chan outcome, 1)
				go func() {
					res, err := s.dir.Sender(s.pipe).Send(b.Context(), life, wrap(src))
					done <- outcome{res, err}
				}()
				must(b, reader.Wait())
				end()
				must(b, (<-done).err)
				src.Close()
			}
			b.ReportMetric((cpuTime(b)-before)/float64(b.N)/(benchSize/1e9), "cpu-s/GB")
		})
	}
}

func cpuTime(b *testing.B) float64 {
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
