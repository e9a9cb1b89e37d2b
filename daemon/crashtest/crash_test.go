// Package crashtest kills the real daemon at random moments during a load of
// submissions and jobs, and looks for what is lost, doubled or left behind.
package crashtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/queue"
)

// number reads a whole number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// ledger is what the daemon has answered 2xx for: id → the exit code that the
// job was given.
type ledger struct {
	mu    sync.Mutex
	codes map[string]int
}

func (l *ledger) add(id string, code int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.codes[id] = code
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.codes)
}

// TestCrash: every job that was accepted ends once, as it would have without
// the crashes, and nothing else remains. CRASH_KILLS says how
// often the daemon is killed, CRASH_SEED repeats a run's choices
// (not its timing).
func TestCrash(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	kills := int(number(t, "CRASH_KILLS", 20))
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("%d kills, CRASH_SEED=%d", kills, seed)
	random := rand.New(rand.NewPCG(seed, 0))

	p := newPlace(t)
	p.start()
	t.Cleanup(p.kill)
	root := p.caller(0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+time.Duration(kills)*4*time.Second)
	defer cancel()
	if err := p.waitReady(ctx, root); err != nil {
		t.Fatal(err)
	}
	p.importImage(ctx, root)

	accepted := &ledger{codes: map[string]int{}}
	ended := &atomic.Int64{}
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 4 {
		clients.Go(func() {
			c := &client{caller: p.caller(clientUID + n), records: p.records(), accepted: accepted, ended: ended,
				random: rand.New(rand.NewPCG(seed, uint64(n+1))), name: fmt.Sprintf("client%d", n)}
			c.load(ctx, t, stop)
		})
	}
	// However the test ends, the clients end before it.
	defer clients.Wait()
	stopClients := sync.OnceFunc(func() { close(stop) })
	defer stopClients()

	struck := map[string]int{}
	for range kills {
		// Now and then in the middle of a boot, mostly under load.
		if random.IntN(4) > 0 {
			if err := p.waitReady(ctx, root); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case <-time.After(time.Duration(random.IntN(900)) * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("out of time")
		}
		struck[p.strike(random)]++
		p.start()
	}
	if err := p.waitReady(ctx, root); err != nil {
		t.Fatal(err)
	}
	stopClients()
	clients.Wait()
	t.Logf("killed: %v; accepted %d jobs", struck, accepted.size())
	if accepted.size() < kills {
		t.Errorf("only %d jobs were accepted: too small a load to show anything", accepted.size())
	}

	final := p.judge(ctx, root, accepted)
	p.stop(ctx)
	p.start()
	if err := p.waitReady(ctx, root); err != nil {
		t.Fatal(err)
	}
	for id, state := range final {
		if job := p.job(ctx, root, id); job.State != state {
			t.Errorf("job %s was %s and is %s after a restart", id, state, job.State)
		}
	}
	p.stop(ctx)
	p.checkQueue()
	p.checkLeftovers()
}

// strike kills one half of the daemon, or both, and returns when it is dead.
func (p *place) strike(random *rand.Rand) string {
	what := "monitor"
	front, ok := p.front()
	switch n := random.IntN(3); {
	case n == 0 && ok:
		what = "front"
		syscall.Kill(front, syscall.SIGKILL)
		// The monitor follows its front.
	case n == 1 && ok:
		what = "both"
		syscall.Kill(front, syscall.SIGKILL)
		p.process.Process.Kill()
	default:
		p.process.Process.Kill()
	}
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.t.Errorf("the monitor lives on, 30 s after the %s was killed", what)
		p.process.Process.Kill()
		<-p.exited
	}
	return what
}

func (p *place) kill() {
	p.process.Process.Kill()
	<-p.exited
}

// stop ends the daemon in order.
func (p *place) stop(ctx context.Context) {
	p.t.Helper()
	p.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.t.Fatal("the daemon does not end on SIGTERM")
	}
	if !p.process.ProcessState.Success() {
		p.t.Errorf("the daemon ended on SIGTERM with: %v", p.process.ProcessState)
	}
}

func (p *place) importImage(ctx context.Context, c *caller) {
	p.t.Helper()
	archive, program := filepath.Join(p.dir, "crash.tar"), filepath.Join(p.dir, "job")
	build(p.t, program, "girderworker/daemon/crashtest/job")
	if out, err := exec.Command("../../contrib/mkimage", archive, "crash:latest", program).CombinedOutput(); err != nil {
		p.t.Fatalf("cannot make the image: %v\n%s", err, out)
	}
	f, err := os.Open(archive)
	if err != nil {
		p.t.Fatal(err)
	}
	defer f.Close()
	var images apitype.Images
	if err := c.call(ctx, http.MethodPost, "/v1/images", f, &images); err != nil {
		p.t.Fatalf("cannot import the image: %v", err)
	}
}

// client submits jobs as one user until it is told to stop.
type client struct {
	*caller
	name     string
	records  string
	accepted *ledger
	ended    *atomic.Int64
	random   *rand.Rand
}

// document is a job of this client. Each writes its own record.
func (c *client) document(id string, code int) map[string]any {
	return map[string]any{
		"id": id, "image": "crash:latest",
		"args":  []string{"job", "/records/" + id, strconv.Itoa(c.random.IntN(300)), strconv.Itoa(code)},
		"binds": []map[string]any{{"source": c.records, "target": "/records"}},
	}
}

func (c *client) load(ctx context.Context, t *testing.T, stop <-chan struct{}) {
	for n := 0; ; n++ {
		// One by one, and every now and then a batch.
		size := 1
		if c.random.IntN(10) == 0 {
			size = 5
		}
		codes := map[string]int{}
		var documents []map[string]any
		for i := range size {
			id := fmt.Sprintf("%s-%d-%d", c.name, n, i)
			codes[id] = c.random.IntN(3) * 7
			documents = append(documents, c.document(id, codes[id]))
		}
		var body any = documents[0]
		if size > 1 {
			body = map[string]any{"jobs": documents}
		}
		// The same ids again until there is an answer: that is what they are for.
		for {
			var answer any
			err := c.call(ctx, http.MethodPost, "/v1/jobs", body, &answer)
			if err == nil {
				break
			}
			if refused := (*apiError)(nil); errors.As(err, &refused) && refused.status/100 == 4 {
				t.Errorf("a good submission was refused: %v", err)
				return
			}
			select {
			case <-stop:
				return // not answered: not in the ledger
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
		for id, code := range codes {
			c.accepted.add(id, code)
		}
		// A load, not a flood: the machine must be able to keep up.
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(150+c.random.IntN(300)) * time.Millisecond):
		}
	}
}

// clientNumber finds the client's number in the id of a job.
var clientNumber = regexp.MustCompile(`^[a-z]+([0-9]+)-`)

// ofClient is the id by which others than the client know a job that it named.
func ofClient(id string) string {
	n, err := strconv.Atoi(clientNumber.FindStringSubmatch(id)[1])
	if err != nil {
		panic(err) // it has digits alone
	}
	return fmt.Sprintf("%s.%d", id, clientUID+n)
}

func (p *place) job(ctx context.Context, c *caller, id string) apitype.Job {
	p.t.Helper()
	var job apitype.Job
	if err := c.call(ctx, http.MethodGet, "/v1/jobs/"+ofClient(id), nil, &job); err != nil {
		p.t.Fatalf("cannot find job %s, which was accepted: %v", id, err)
	}
	return job
}

// judge waits for the end of every accepted job and holds it against what it
// was told to do. It returns the final states.
func (p *place) judge(ctx context.Context, root *caller, accepted *ledger) map[string]string {
	final := map[string]string{}
	for _, id := range slices.Sorted(maps.Keys(accepted.codes)) {
		code := accepted.codes[id]
		var job apitype.Job
		for {
			job = p.job(ctx, root, id)
			if job.State == "succeeded" || job.State == "failed" || job.State == "canceled" {
				break
			}
			select {
			case <-ctx.Done():
				p.t.Fatalf("job %s is still %s (%s)", id, job.State, job.Reason)
			case <-time.After(20 * time.Millisecond):
			}
		}
		final[id] = job.State

		want := "succeeded"
		if code != 0 {
			want = "failed"
		}
		if job.State != want || job.ExitCode == nil || *job.ExitCode != code {
			got := "none"
			if job.ExitCode != nil {
				got = strconv.Itoa(*job.ExitCode)
			}
			p.t.Errorf("job %s: %s with exit code %s, want %s with %d (attempt %d, %s %s)", id, job.State, got, want, code, job.Attempt, job.Outcome, job.Error)
		}
		record, err := os.ReadFile(filepath.Join(p.records(), id))
		if err != nil {
			p.t.Errorf("job %s left no record: %v", id, err)
		} else if string(record) != "start\nend\n" {
			p.t.Errorf("job %s: its container wrote %q, want one start and one end", id, record)
		}
		if log := p.output(ctx, root, id); log != "first line\nlast line\n" {
			p.t.Errorf("job %s: its log is %q", id, log)
		}
	}
	return final
}

func (p *place) output(ctx context.Context, c *caller, id string) string {
	p.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://girder-worker/v1/jobs/"+ofClient(id)+"/log", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	response, err := c.http.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// checkQueue opens a copy of the stopped daemon's database: the original opens
// for its owner only.
func (p *place) checkQueue() {
	dir := filepath.Join(p.dir, "queue")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(p.state(), "queue"))); err != nil {
		p.t.Fatal(err)
	}
	store, err := queue.Open(queue.Options{Dir: dir})
	if err != nil {
		p.t.Errorf("cannot open the queue: %v", err)
		return
	}
	defer store.Close()
	if err := store.Check(); err != nil {
		p.t.Errorf("the database does not check clean: %v", err)
	}
}

// checkLeftovers looks for everything that a job needs only while it lives.
func (p *place) checkLeftovers() {
	p.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		p.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, p.dir) {
			p.t.Errorf("a mount is left: %s", line)
		}
	}
	// Named after the state directory, as monitor.Options says.
	name := fmt.Sprintf("girder-worker-%x", sha256.Sum256([]byte(p.state())))[:len("girder-worker-")+8]
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		// Groups of others come and go while we look.
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), name) {
			p.t.Errorf("a cgroup is left: %s", path)
		}
		return nil
	})
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		// Containers' processes have the image's /bin/job.
		if target, err := os.Readlink(dir + "/exe"); err == nil && (p.owns(dir) || target == "/bin/job") {
			p.t.Errorf("a process is left: %s is %s", dir, target)
		}
	}
	if left, err := os.ReadDir(filepath.Join(p.state(), "work")); err != nil || len(left) > 0 {
		p.t.Errorf("work directories are left: %v %v", left, err)
	}
	filepath.WalkDir(p.state(), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			p.t.Errorf("cannot look for what is left: %v", err)
		} else if d.Type()&os.ModeNamedPipe != 0 {
			p.t.Errorf("a named pipe is left: %s", path)
		}
		return nil
	})
}
