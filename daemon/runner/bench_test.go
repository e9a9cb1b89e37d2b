package runner

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// BenchmarkAttempt is one attempt that runs `true`, from its request to the end
// of its runner. exit-ms is the part until exit.json is there.
//
//	go test -tags 'seccomp netgo osusergo' -run '^$' -bench Attempt ./daemon/runner
func BenchmarkAttempt(b *testing.B) {
	b.Run("cold", func(b *testing.B) {
		var untilExit time.Duration
		for b.Loop() {
			b.StopTimer()
			w := newWorld(b, "true")
			b.StartTimer()
			begun := time.Now()
			p := w.start()
			untilExit += w.exitSince(begun)
			w.waitQuietly(p)
		}
		b.ReportMetric(untilExit.Seconds()*1000/float64(b.N), "exit-ms")
	})
	b.Run("warm", func(b *testing.B) {
		var untilExit time.Duration
		for b.Loop() {
			b.StopTimer()
			w := newWorld(b, "true")
			if err := w.dir.WriteRequest(w.request); err != nil {
				b.Fatal(err)
			}
			p, socket := startWarm(b)
			lock, err := w.dir.Lock()
			if err != nil {
				b.Fatal(err)
			}
			p.waitUntilWarm(b)
			b.StartTimer()
			begun := time.Now()
			if err := attempt.SendStart(socket, w.dir, lock); err != nil {
				b.Fatal(err)
			}
			lock.Close()
			untilExit += w.exitSince(begun)
			w.waitQuietly(p)
			socket.Close()
		}
		b.ReportMetric(untilExit.Seconds()*1000/float64(b.N), "exit-ms")
	})
}

// exitSince waits for exit.json.
func (w *world) exitSince(begun time.Time) time.Duration {
	for {
		if ended, err := w.dir.Ended(); err != nil {
			w.t.Fatal(err)
		} else if ended {
			return time.Since(begun)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func (w *world) waitQuietly(p *process) {
	if err := p.Wait(); err != nil {
		w.t.Fatalf("%v: %s", err, p.stderr.String())
	}
}

func startWarm(t testing.TB) (*process, *os.File) {
	t.Helper()
	ours, theirs, err := attempt.WarmPair()
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	p := &process{Cmd: exec.Command("/proc/self/exe", Command, "--warm-fd", "3")}
	p.Stderr = &p.stderr
	p.ExtraFiles = []*os.File{theirs}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p, ours
}

// BenchmarkMemory is the memory of a runner, and of its transfer process where
// there are streams, while a job sleeps. The text of a test binary is larger
// than the product's, and shared by nobody here.
func BenchmarkMemory(b *testing.B) {
	for _, streams := range []int{0, 2} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			w := newWorld(b, sh("echo up; sleep 1000")...)
			for i := range streams {
				w.stream(transforms.StreamInput, fmt.Sprint("in", i), w.file(fmt.Sprint("f", i), random(1<<20)))
			}
			p := w.start()
			w.waitLog("up")
			time.Sleep(settleAfter + time.Second)
			pss, private := memory(b, p.Process.Pid)
			threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.Process.Pid))
			for _, task := range threads {
				children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", p.Process.Pid, task.Name()))
				for _, child := range strings.Fields(string(children)) {
					cmdline, _ := os.ReadFile("/proc/" + child + "/cmdline")
					if strings.Contains(string(cmdline), TransferCommand) {
						pid, _ := strconv.Atoi(child)
						cp, cpr := memory(b, pid)
						pss, private = pss+cp, private+cpr
					}
				}
			}
			for b.Loop() {
			}
			b.ReportMetric(pss, "PSS-MiB")
			b.ReportMetric(private, "private-MiB")
			b.ReportMetric(float64(len(threads)), "threads")
			w.cancel(attempt.Cancel{Outcome: attempt.OutcomeCanceled, Grace: -1})
			w.waitQuietly(p)
		})
	}
}

// memory reads a process's memory in MiB.
func memory(t testing.TB, pid int) (pss, private float64) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "Pss:":
			pss = kib / 1024
		case "Private_Dirty:":
			private = kib / 1024
		}
	}
	return pss, private
}

// BenchmarkStreamMemory is how large runner and transfer process get while 4 GiB
// go through both of a job's pipes, from a file and to an HTTP server.
//
//	go test -tags 'seccomp netgo osusergo' -run '^$' -bench StreamMemory -benchtime 1x ./daemon/runner
func BenchmarkStreamMemory(b *testing.B) {
	const size = 4 << 30
	taken := make(chan int64, 1)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		taken <- n
	}))
	defer target.Close()
	var peak int64
	for b.Loop() {
		w := newWorld(b, "sh", "-c", "cat /in >/out")
		source := w.file("source", nil)
		if err := os.Truncate(source, size); err != nil {
			b.Fatal(err)
		}
		w.request.Plan.Streams = []transforms.Stream{
			{Name: "in", Kind: transforms.StreamInput, Path: "/in", File: source},
			{Name: "out", Kind: transforms.StreamOutput, Path: "/out", HTTP: &transforms.HTTPTarget{URL: target.URL}},
		}
		p := w.start()
		if n := <-taken; n != size {
			b.Fatalf("%d bytes came of %d", n, int64(size))
		}
		peak = max(peak, peakOf(p.Process.Pid))
		w.waitQuietly(p)
	}
	b.ReportMetric(float64(peak)/(1<<20), "MiB")
}

// peakOf adds the most private memory that a runner and its children have had.
func peakOf(pid int) (sum int64) {
	pids := []string{strconv.Itoa(pid)}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		pids = append(pids, strings.Fields(string(data))...)
	}
	for _, pid := range pids {
		args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		if !strings.Contains(string(args), Command+"\x00") && !strings.Contains(string(args), TransferCommand) {
			continue // the container's
		}
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		for line := range strings.Lines(string(status)) {
			var kb int64
			// Without the pages of the program, which all of its processes share.
			if _, err := fmt.Sscanf(line, "RssAnon: %d kB", &kb); err == nil {
				sum += kb << 10
			}
		}
	}
	return sum
}

// BenchmarkNetworkStart runs a job that does nothing, without a network, with one
// that it does not use, and with one that it does.
func BenchmarkNetworkStart(b *testing.B) {
	for _, c := range []struct {
		name, script string
		mode         sandbox.NetworkMode
	}{
		{"none", "true", sandbox.NetworkNone},
		{"private", "true", sandbox.NetworkPrivate},
		{"private-used", "nslookup host.docker.internal >/dev/null", sandbox.NetworkPrivate},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				w := newWorld(b, sh(c.script)...)
				w.request.Plan.Network = c.mode
				b.StartTimer()
				w.run()
			}
		})
	}
}
