package queue

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// crashDir names the directory that this test binary, run as a child, loads
// until it is killed.
const crashDir = "GIRDER_WORKER_QUEUE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	flag.Parse()
	if err := flag.Set("rapid.nofailfile", "true"); err != nil { // the seed says as much
		panic(err)
	}
	os.Exit(m.Run())
}

// crashChild submits, claims and ends jobs from several goroutines until it is
// killed, and says on its standard output what was answered.
func crashChild(dir string) error {
	s, err := Open(Options{Dir: dir, Retention: Retention{Count: 1 << 30}})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(words...)
	}
	errs := make(chan error)
	for range 4 {
		go func() {
			for {
				acc, err := s.Submit(ctx, sub(), sub(reporting), sub(priority(9)))
				if err != nil {
					errs <- err
					return
				}
				for _, a := range acc {
					say("accepted", a.Job.ID)
				}
			}
		}()
	}
	claims := make(chan []Job, 8)
	s.Stand(&Standing{
		BootID: "boot",
		Room: func() (Capacity, int) {
			return Capacity{Slots: 8, CPUs: 8, Memory: 1 << 30}, cap(claims) - len(claims)
		},
		Begin: func(jobs []Job) {
			if len(jobs) > 0 {
				claims <- jobs
			}
		},
	})
	go func() {
		for jobs := range claims {
			for _, j := range jobs {
				say("claimed", j.ID)
				if _, err := s.Finish(ctx, j.ID, j.Attempt, &Result{Outcome: "exited"}, "", time.Now()); err != nil {
					errs <- err
					return
				}
				say("finished", j.ID)
			}
			if err := s.moveFinished(ctx); err != nil {
				errs <- err
				return
			}
		}
	}()
	return <-errs
}

// TestKill kills a process under load, again and again over one directory, and
// holds the store to every answer that it gave.
func TestKill(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	dir := filepath.Join(t.TempDir(), "state")
	answers := make(map[string]string) // the last that was said of a job
	for round := range rounds {
		killed := killAfter(t, dir, 20+37*round, answers)
		if killed == 0 {
			t.Fatal("the child said nothing")
		}
		s, err := Open(Options{Dir: dir})
		must(t, err)
		must(t, s.Check())
		for id, said := range answers {
			j, err := s.Job(id)
			if err != nil {
				t.Fatalf("job %s, which was %s: %v", id, said, err)
			}
			// A job may be further than was said, but not less far.
			switch ok := map[string][]State{
				"accepted": {Queued, Preparing, Succeeded}, "claimed": {Preparing, Succeeded}, "finished": {Succeeded},
			}[said]; {
			case j.Attempt > 1, !contains(ok, j.State):
				t.Fatalf("job %s was %s and is %s, attempt %d", id, said, j.State, j.Attempt)
			}
		}
		// What the dead process held is done by hand, as a recovery would.
		active, err := s.Active()
		must(t, err)
		for _, j := range active {
			_, err := s.Finish(ctx, j.ID, j.Attempt, &Result{Outcome: "exited"}, "", time.Now())
			must(t, err)
			answers[j.ID] = "finished"
		}
		total := 0
		for _, n := range s.Counts() {
			total += n
		}
		if total < len(answers) {
			t.Errorf("%d jobs are counted, %d were answered", total, len(answers))
		}
		must(t, s.moveFinished(ctx))
		must(t, s.Check())
		must(t, s.Close())
	}
}

func contains(states []State, st State) bool {
	for _, s := range states {
		if s == st {
			return true
		}
	}
	return false
}

// killAfter runs the child until it has said n lines, kills it, and takes in
// everything it said.
func killAfter(t *testing.T, dir string, n int, answers map[string]string) (lines int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	cmd.Stdout = w
	must(t, cmd.Start())
	must(t, w.Close())
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			break // a line without its end is no answer
		}
		must(t, err)
		what, id, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			t.Fatalf("the child said %q", line)
		}
		answers[id] = what
		if lines++; lines == n {
			must(t, cmd.Process.Kill())
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
		t.Fatalf("the child ended by itself: %v", cmd.ProcessState)
	}
	return lines
}
