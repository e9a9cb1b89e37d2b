package queue

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
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
// reasons there are, in turn with the same in an empty queue; only the claims
// are timed, and medians compared. Beside it stands what it costs to open the
// queue with cold caches, where this process may drop them.
func BenchmarkClaim(b *testing.B) {
	n := parkedJobs(b)
	for _, p := range []struct {
		name   string
		change func(*Submission)
	}{
		{"queued", func(s *Submission) { s.Priority = 1 }}, // behind the jobs that are claimed
		{"large", func(s *Submission) { s.Needs.Memory = 60 << 30 }},
		{"too-large", func(s *Submission) { s.Needs.GPUs = 1 }},
		{"delayed", func(s *Submission) { s.NotBefore = time.Now().Add(24 * time.Hour) }},
		{"held", func(s *Submission) { s.Hold = "wait" }},
		{"after", func(s *Submission) { s.After = []string{"keep"} }},
	} {
		b.Run(fmt.Sprintf("%s=%d", p.name, n), func(b *testing.B) {
			empty, _ := parked(b, 0, nil)
			full, opened := parked(b, n, p.change)
			var inEmpty, inFull []time.Duration
			for b.Loop() {
				inEmpty = append(inEmpty, claimRound(b, empty)...)
				inFull = append(inFull, claimRound(b, full)...)
			}
			e, f := median(inEmpty), median(inFull)
			b.ReportMetric(1/f.Seconds(), "claims/s")
			b.ReportMetric(1/e.Seconds(), "claims/s-empty")
			b.ReportMetric(e.Seconds()/f.Seconds(), "ratio")
			b.ReportMetric(float64(opened.Microseconds())/1000, "open-ms")
			b.ReportMetric(float64(residentAnon(b))/(1<<20), "anon-MiB")
		})
	}
}

var benchTotal = Capacity{Slots: 8, CPUs: 8, Memory: 64 << 30}

// parked opens a store in which a job runs and n others wait, with cold caches.
func parked(b *testing.B, n int, change func(*Submission)) (*Store, time.Duration) {
	o := Options{Dir: filepath.Join(benchDir(b), "state"), MaxJobs: 1 << 30}
	s, err := Open(o)
	must(b, err)
	// One job runs all the time, so that the large ones do not fit.
	submit(b, s, sub(named("keep"), priority(9), needs(1, 8<<30)))
	claim(b, s, benchTotal, 1)
	for left := n; left > 0; left -= 1000 {
		subs := make([]Submission, min(left, 1000))
		for i := range subs {
			subs[i] = benchSub()
			subs[i].Owner = fmt.Sprint("uid:", 2000+i%4)
			change(&subs[i])
		}
		submit(b, s, subs...)
	}
	must(b, s.Close())
	dropCaches(b)
	before := time.Now()
	s, err = Open(o)
	must(b, err)
	opened := time.Since(before)
	b.Cleanup(func() { must(b, s.Close()) })
	return s, opened
}

// claimRound is how long each of a few claims took.
func claimRound(b *testing.B, s *Store) (spent []time.Duration) {
	small := benchSub()
	small.Owner = "uid:3000"
	submit(b, s, small, small, small, small)
	for range 4 {
		before := time.Now()
		got := claim(b, s, benchTotal, 1)
		spent = append(spent, time.Since(before))
		if len(got) != 1 || got[0].Owner != small.Owner {
			b.Fatalf("claimed %+v", got)
		}
		_, err := s.Finish(ctx, got[0].ID, 1, &Result{Outcome: "exited"}, "", time.Now())
		must(b, err)
	}
	return spent
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
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

// BenchmarkStart is how long it takes from the submission of a job until it may start,
// by the claim that stands, in turn with a claim made when woken; medians compared.
func BenchmarkStart(b *testing.B) {
	var commits [2]atomic.Int32
	var paid [2]int32
	var spent [2][]time.Duration
	var stores [2]*Store
	var begun [2]chan Job
	for i := range stores {
		s := open(b, counting(&commits[i]), func(o *Options) { o.Dir = filepath.Join(benchDir(b), "state") })
		c := make(chan Job, 1)
		stores[i], begun[i] = s, c
		begin := func(jobs []Job) {
			for _, j := range jobs {
				c <- j
			}
		}
		if i == 1 {
			s.Stand(&Standing{BootID: "boot", Room: func() (Capacity, int) { return benchTotal, 1 }, Begin: begin})
			continue
		}
		stop := make(chan struct{})
		var dispatcher sync.WaitGroup
		dispatcher.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-s.Wake():
				}
				jobs, err := s.Claim(ctx, benchTotal, "boot", 1)
				must(b, err)
				begin(jobs)
			}
		})
		b.Cleanup(func() { close(stop); dispatcher.Wait() })
	}
	submission := benchSub()
	for b.Loop() {
		for i, s := range stores {
			s.moveMu.Lock() // moves are many jobs at once
			before := time.Now()
			submit(b, s, submission)
			j := <-begun[i]
			spent[i] = append(spent[i], time.Since(before))
			s.moveMu.Unlock()
			paid[i] += commits[i].Swap(0)
			_, err := s.Finish(ctx, j.ID, 1, &Result{Outcome: "exited"}, "", time.Now())
			must(b, err)
			commits[i].Store(0)
		}
	}
	b.ReportMetric(float64(paid[0])/float64(b.N), "commits-woken")
	b.ReportMetric(float64(paid[1])/float64(b.N), "commits")
	woken, joined := median(spent[0]), median(spent[1])
	b.ReportMetric(float64(woken.Microseconds()), "us-woken")
	b.ReportMetric(float64(joined.Microseconds()), "us")
	b.ReportMetric(joined.Seconds()/woken.Seconds(), "ratio")
}
