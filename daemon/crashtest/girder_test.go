package crashtest

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/transforms/girder/girdertest"
)

// givenUp is what the manual says of a job that one process after another has
// died over. Nothing else may fail a job here.
var givenUp = []string{"attempts that were lost", "the processes that should have done it died"}

// TestCrashGirder kills any of a daemon's processes while jobs fetch from
// Girder, run and upload to it, over connections of which some break after the
// call was carried out. Every job ends, and well, unless it was given up. What it
// uploaded is there once and whole, and of a job that succeeded it is there.
func TestCrashGirder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it runs containers")
	}
	kills := int(number(t, "CRASH_KILLS", 20))
	seed := number(t, "CRASH_SEED", uint64(time.Now().UnixNano()))
	t.Logf("%d kills, CRASH_SEED=%d", kills, seed)
	random := rand.New(rand.NewPCG(seed, 7))

	server := girdertest.New(t, girdertest.Config{MinChunk: 1})
	user := server.AddUser(true)
	token := server.AddToken(user, girdertest.ScopeRead, girdertest.ScopeWrite)
	folder := server.AddFolder(user, "data")
	out := server.AddFolder(user, "out")
	input := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	file := server.AddFile(server.AddItem(folder, "in"), "in", input)

	p := newPlace(t)
	p.start()
	t.Cleanup(p.kill)
	root := p.caller(0)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute+time.Duration(kills)*4*time.Second)
	defer cancel()
	if err := p.waitReady(ctx, root); err != nil {
		t.Fatal(err)
	}
	p.importImage(ctx, root)

	stop := make(chan struct{})
	var mu sync.Mutex
	items := map[string]string{} // by job
	document := func(id, item string, pause int) map[string]any {
		return map[string]any{
			"id": id, "image": "crash:latest",
			"args":      []string{"job", "{default}/record", strconv.Itoa(pause), "0", "{in}", "{default}/" + id},
			"volumes":   []string{"default"},
			"girder":    map[string]any{"api_url": server.API(), "token": token},
			"downloads": []map[string]any{{"name": "in", "file_id": file}},
			"uploads": []map[string]any{
				{"path": id, "item_id": item}, {"path": id, "folder_id": out},
			},
		}
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	for n := range 3 {
		clients.Go(func() {
			c := p.caller(clientUID + n)
			random := rand.New(rand.NewPCG(seed, uint64(n+100)))
			for i := 0; ; i++ {
				id := fmt.Sprintf("g%d-%d", n, i)
				item := server.AddItem(folder, id)
				body := document(id, item, random.IntN(200))
				for {
					var answer any
					err := c.call(ctx, http.MethodPost, "/v1/jobs", body, &answer)
					if err == nil {
						break
					}
					if refused, ok := err.(*apiError); ok && refused.status/100 == 4 {
						t.Errorf("a good submission was refused: %v", err)
						return
					}
					select {
					case <-stop:
						return
					case <-ctx.Done():
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
				mu.Lock()
				items[id] = item
				mu.Unlock()
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(400+random.IntN(600)) * time.Millisecond):
				}
			}
		})
	}
	stopClients := sync.OnceFunc(func() { close(stop) })
	defer stopClients()

	struck := map[string]int{}
	faults := []girdertest.Fault{girdertest.DropAfter(), girdertest.DropBefore(), girdertest.Status(502), girdertest.Truncate(100)}
	routes := []string{"POST /file", "POST /file/chunk", "GET /file/{id}/download", "GET /item/{id}/files", "GET /file/offset"}
	kinds := []string{"daemon", "runner", "transfer"}
	for i := range kills {
		server.Fail(routes[random.IntN(len(routes))], 1, faults[random.IntN(len(faults))])
		select {
		case <-time.After(time.Duration(random.IntN(700)) * time.Millisecond):
		case <-ctx.Done():
			t.Fatal("out of time")
		}
		// Each kind at least once.
		kind := i % len(kinds)
		if i >= len(kinds) {
			kind = random.IntN(len(kinds))
		}
		if kinds[kind] == "daemon" {
			struck[p.strike(random)]++
			p.start()
			continue
		}
		for !p.strikeOne(kinds[kind], random) {
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("there is no %s process to kill", kinds[kind])
			}
		}
		struck[kinds[kind]]++
	}
	server.Mend()
	if err := p.waitReady(ctx, root); err != nil {
		t.Fatal(err)
	}
	stopClients()
	clients.Wait()

	ends := map[string]int{}
	attempts := 0
	for id, item := range items {
		var job apitype.Job
		for {
			job = p.job(ctx, root, id)
			if job.State == "succeeded" || job.State == "failed" || job.State == "canceled" {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("job %s is still %s (%s, %s)", id, job.State, job.Stage, job.Reason)
			case <-time.After(20 * time.Millisecond):
			}
		}
		ends[job.State]++
		attempts += job.Attempt
		if job.State != "succeeded" && !slices.ContainsFunc(givenUp, func(text string) bool { return strings.Contains(job.Error, text) }) {
			t.Errorf("job %s %s in attempt %d: %s", id, job.State, job.Attempt, job.Error)
		}
		files := server.Files(item)
		for _, f := range files {
			if f.Name != id || !bytes.Equal(f.Data, input) {
				t.Errorf("job %s uploaded %s with %d bytes", id, f.Name, len(f.Data))
			}
		}
		if len(files) > 1 || len(files) == 0 && job.State == "succeeded" {
			t.Errorf("job %s, which %s, has %d files in its item", id, job.State, len(files))
		}
	}
	visible := server.Tree(out)
	for id := range items {
		want := fmt.Sprintf("%s/%s (%d bytes)", id, id, len(input))
		n := 0
		for _, entry := range visible {
			if entry == want || strings.HasPrefix(entry, id+" (") {
				n++
			}
		}
		if job := p.job(ctx, root, id); n > 1 || n == 0 && job.State == "succeeded" {
			t.Errorf("job %s, which %s, is %d times in the folder", id, job.State, n)
		}
	}
	t.Logf("killed: %v; %d jobs ended: %v, in %d attempts", struck, len(items), ends, attempts)
	if ends["succeeded"] == 0 || struck["runner"] == 0 || struck["transfer"] == 0 {
		t.Error("no job succeeded, or nothing of a kind was killed: it shows nothing")
	}
	p.stop(ctx)
	p.checkQueue()
	p.checkLeftovers()
	p.checkSecrets(token)
}

// strikeOne kills one runner or transfer process of the daemon, if there is one.
func (p *place) strikeOne(command string, random *rand.Rand) bool {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		line, err := os.ReadFile(dir + "/cmdline")
		if err != nil {
			continue
		}
		if !p.owns(dir) {
			continue
		}
		if args := strings.Split(string(line), "\x00"); len(args) > 1 && slices.Contains(args, command) {
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	if len(pids) == 0 {
		return false
	}
	return syscall.Kill(pids[random.IntN(len(pids))], syscall.SIGKILL) == nil
}

// checkSecrets looks for a token in what attempts have left.
func (p *place) checkSecrets(token string) {
	filepath.WalkDir(filepath.Join(p.state(), "jobs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(token)) {
			p.t.Errorf("a token is left in %s", path)
		}
		return nil
	})
}
