package queue

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchDir is a directory on the disk that GIRDER_WORKER_BENCH_DIR names, or
// the test's own.
func benchDir(b *testing.B) string {
	b.Helper()
	if dir := os.Getenv("GIRDER_WORKER_BENCH_DIR"); dir != "" {
		dir, err := os.MkdirTemp(dir, "queue-bench-")
		must(b, err)
		b.Cleanup(func() { os.RemoveAll(dir) })
		return dir
	}
	return b.TempDir()
}

// parkedJobs is how many jobs wait in the benchmarks of a full queue:
// GIRDER_WORKER_BENCH_PARKED, or 20,000.
func parkedJobs(b *testing.B) int {
	b.Helper()
	v := os.Getenv("GIRDER_WORKER_BENCH_PARKED")
	if v == "" {
		return 20_000
	}
	n, err := strconv.Atoi(v)
	must(b, err)
	return n
}

// benchSub is a submission as the daemon makes one: its document has 1 KiB.
func benchSub() Submission {
	return sub(func(s *Submission) {
		s.Body = json.RawMessage(`{"image":"busybox","args":["` + strings.Repeat("x", 990) + `"]}`)
		s.BodyHash = strings.Repeat("0123456789abcdef", 4)
		s.Name, s.Image = "segment nuclei", "registry.example/histomics:latest"
	})
}

// BenchmarkFdatasync is what the disk can do at best: one page, overwritten.
func BenchmarkFdatasync(b *testing.B) {
	f, err := os.Create(filepath.Join(benchDir(b), "page"))
	must(b, err)
	defer f.Close()
	page := make([]byte, 4096)
	_, err = f.Write(page)
	must(b, err)
	must(b, f.Sync())
	for b.Loop() {
		_, err := f.WriteAt(page, 0)
		must(b, err)
		must(b, unix.Fdatasync(int(f.Fd())))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "syncs/s")
}

func BenchmarkSubmit(b *testing.B) {
	for _, writers := range []int{1, 8, 64, 512} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s := open(b, func(o *Options) { o.Dir = filepath.Join(benchDir(b), "state"); o.MaxJobs = 1 << 30 })
			submission := benchSub()
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := s.Submit(ctx, submission); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "submits/s")
		})
	}
	b.Run("batch=1000", func(b *testing.B) {
		s := open(b, func(o *Options) { o.Dir = filepath.Join(benchDir(b), "state"); o.MaxJobs = 1 << 30 })
		subs := make([]Submission, 1000)
		for i := range subs {
			subs[i] = benchSub()
		}
		for b.Loop() {
			submit(b, s, subs...)
		}
		b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "submits/s")
	})
}

// BenchmarkClaim claims and ends small jobs while others wait for one of the
// reasons there are; only the claims are timed. Beside it stands what it costs
// to open the queue with cold caches, where this process may drop them.
func BenchmarkClaim(b *testing.B) {
	n := parkedJobs(b)
	park := []struct {
		name   string
		change func(*Submission)
		n      int
	}{
		{"empty", nil, 0},
		{"queued", func(s *Submission) { s.Priority = 1 }, n}, // behind the jobs that are claimed
		{"large", func(s *Submission) { s.Needs.Memory = 60 << 30 }, n},
		{"too-large", func(s *Submission) { s.Needs.GPUs = 1 }, n},
		{"delayed", func(s *Submission) { s.NotBefore = time.Now().Add(24 * time.Hour) }, n},
		{"held", func(s *Submission) { s.Hold = "wait" }, n},
	}
	for _, p := range park {
		b.Run(fmt.Sprintf("%s=%d", p.name, p.n), func(b *testing.B) { benchmarkClaim(b, p.n, p.change) })
	}
}

func benchmarkClaim(b *testing.B, n int, change func(*Submission)) {
	o := Options{Dir: filepath.Join(benchDir(b), "state"), MaxJobs: 1 << 30}
	s, err := Open(o)
	must(b, err)
	for left := n; left > 0; left -= 1000 {
		subs := make([]Submission, min(left, 1000))
		for i := range subs {
			subs[i] = benchSub()
			subs[i].Owner = fmt.Sprint("uid:", 2000+i%4)
			change(&subs[i])
		}
		submit(b, s, subs...)
	}
	total := Capacity{Slots: 8, CPUs: 8, Memory: 64 << 30}
	// One job runs all the time, so that the large ones do not fit.
	keep := submit(b, s, sub(priority(9), needs(1, 8<<30)))[0]
	claim(b, s, total, 1)
	wantState(b, s, keep.ID, Preparing)
	must(b, s.Close())

	dropCaches(b)
	before := time.Now()
	s, err = Open(o)
	must(b, err)
	opened := time.Since(before)
	defer func() { must(b, s.Close()) }()

	small := benchSub()
	small.Owner = "uid:3000"
	const round = 4
	var spent time.Duration
	claims := 0
	for b.Loop() {
		submit(b, s, small, small, small, small)
		for range round {
			before := time.Now()
			got := claim(b, s, total, 1)
			spent += time.Since(before)
			if len(got) != 1 || got[0].Owner != small.Owner {
				b.Fatalf("claimed %+v", got)
			}
			claims++
			_, err := s.Finish(ctx, got[0].ID, 1, &Result{Outcome: "exited"}, "", time.Now())
			must(b, err)
		}
	}
	b.ReportMetric(float64(claims)/spent.Seconds(), "claims/s")
	b.ReportMetric(float64(opened.Microseconds())/1000, "open-ms")
	b.ReportMetric(float64(residentAnon(b))/(1<<20), "anon-MiB")
}

// dropCaches makes the next reads come from the disk, if this process may.
func dropCaches(b *testing.B) {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		b.Logf("the caches are warm: %v", err)
	}
}

// residentAnon is what this process holds in memory beyond clean pages of files.
func residentAnon(b *testing.B) int64 {
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	must(b, err)
	for _, line := range strings.Split(string(text), "\n") {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			must(b, err)
			return kb << 10
		}
	}
	b.Fatal("no RssAnon")
	return 0
}
