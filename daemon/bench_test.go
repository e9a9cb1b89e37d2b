package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

// BenchmarkTrue is a job from its submission through the socket to the answer
// of its wait.
func BenchmarkTrue(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		w.wait(w.submit("", "args", []string{"/bin/true"}).ID)
	}
}

// BenchmarkTrueParallel is the same from four clients at once.
func BenchmarkTrueParallel(b *testing.B) {
	w := newWorld(b)
	var clients sync.WaitGroup
	b.ResetTimer()
	for c := range 4 {
		clients.Go(func() {
			for i := c; i < b.N; i += 4 {
				w.wait(w.submit("", "args", []string{"/bin/true"}).ID)
			}
		})
	}
	clients.Wait()
}

// BenchmarkMemory reports the proportional set size of an idle daemon, and of a
// runner that has a job.
func BenchmarkMemory(b *testing.B) {
	w := newWorld(b)
	before := w.pss(b)
	id := w.submit(endless).ID
	w.printed(id, "up")
	during := w.pss(b)
	for b.Loop() {
		b.ReportMetric(float64(before)/1024, "idle-MiB")
		b.ReportMetric(float64(during-before)/1024, "job-MiB")
	}
	if _, err := w.client.Cancel(b.Context(), id, ""); err != nil {
		b.Fatal(err)
	}
	w.wait(id)
}

// pss is of all processes of the program together, in KiB.
func (w *world) pss(b *testing.B) (total int) {
	b.Helper()
	for _, pid := range w.processes() {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		for l := range strings.Lines(string(data)) {
			var kib int
			if n, _ := fmt.Sscanf(l, "Pss: %d kB", &kib); n == 1 {
				total += kib
				b.Logf("%d KiB %.60s", kib, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
	}
	return total
}
