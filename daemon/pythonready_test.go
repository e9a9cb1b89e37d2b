package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// TestPythonReady: the next call by the same person finds its interpreter ready, once;
// nobody else does, and nothing that has changed since is what runs.
func TestPythonReady(t *testing.T) {
	w, e := newPythonWorld(t)
	// Nothing that is gone within the test has had its time.
	w.stop()
	w.configure("slots = 4", "python = "+e.dir, "python_ready_time = 1h")
	w.start()
	w.discovered("labtasks.tasks.imported")
	file := filepath.Join(e.site, "labtasks", "tasks.py")
	gone := func(dir string) bool {
		_, err := os.Stat(dir)
		return errors.Is(err, os.ErrNotExist)
	}
	// waiting is how many containers wait, by their work directories.
	waiting := func() []string {
		found, err := filepath.Glob(filepath.Join(w.state(), "work", attempt.AheadPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	processes := func(dir string) (pids []int) {
		groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + w.cgroupName() + "/" + filepath.Base(dir) + "/cgroup.procs")
		for _, group := range groups[:min(1, len(groups))] {
			text, _ := os.ReadFile(group)
			for pid := range strings.FieldsSeq(string(text)) {
				if n, err := strconv.Atoi(pid); err == nil {
					pids = append(pids, n)
				}
			}
		}
		return pids
	}
	type answer struct {
		ready bool // the interpreter is older than the call
		uid   float64
		dirty bool
	}
	ask := func(uid int, options string) answer {
		t.Helper()
		var got []any
		if err := json.Unmarshal([]byte(w.prompt(t, e, uid, `
import json, time
from labtasks.tasks import imported
begin = time.time()
print(json.dumps([begin] + imported.apply_async((), `+options+`).get(timeout=60)))`)), &got); err != nil {
			t.Fatal(err)
		}
		return answer{got[1].(float64) < got[0].(float64), got[2].(float64), got[3].(bool)}
	}
	is := func(what string, got answer, ready bool) {
		t.Helper()
		if got.ready != ready || got.uid != personUID && ready || got.dirty {
			t.Errorf("%s: %+v", what, got)
		}
	}
	// score is which interpreters the kernel ends first when memory is short.
	score := func(dir string, want string) {
		t.Helper()
		for _, pid := range processes(dir) {
			if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); !strings.HasPrefix(string(name), "python") {
				continue
			}
			if got, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); err == nil && string(got) != want+"\n" {
				t.Errorf("a process of %s has the oom_score_adj %s, want %s", dir, got, want)
			}
		}
	}
	await := func() {
		t.Helper()
		w.eventually("an interpreter waits", func() bool {
			for _, dir := range waiting() {
				for _, pid := range processes(dir) {
					name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
					call, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
					var number, fd int
					if n, _ := fmt.Sscanf(string(call), "%d 0x%x", &number, &fd); n < 2 {
						continue // it runs
					}
					from, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, fd))
					var st unix.Stat_t
					if unix.Stat(fmt.Sprintf("/proc/%d", pid), &st) == nil && st.Uid == personUID && strings.HasPrefix(string(name), "python") && number == unix.SYS_READ && strings.HasPrefix(from, "socket:") {
						return true
					}
				}
			}
			return false
		})
	}
	kill := func() {
		t.Helper()
		if err := w.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-w.exited
	}
	is("the first call", ask(personUID, ""), false)
	await()
	score(waiting()[0], "1000")
	is("the second", ask(personUID, ""), true)
	await()
	is("somebody else's", ask(personUID+1, ""), false)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	looks := func() int { return strings.Count(w.stderr.String(), "Tasks of Python packages") }
	before := looks()
	if err := os.WriteFile(file, append(text, "\n# changed\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	is("after the module was changed", ask(personUID, ""), false)
	// The look that follows the change ends what waits.
	w.eventually("another look", func() bool { return looks() > before })
	ask(personUID, "")
	await()
	is("once more", ask(personUID, ""), true)
	await()
	is("a time limit", ask(personUID, "time_limit=50"), true)

	// A daemon that is killed leaves none for long.
	await()
	old := waiting()
	kill()
	w.start()
	for _, dir := range old {
		if !gone(dir) {
			t.Errorf("%s is left", dir)
		}
	}
	w.discovered("labtasks.tasks.imported")
	is("after a restart", ask(personUID, ""), false)
	// One that dies while it waits costs time and no job.
	await()
	dead := waiting() // one: these calls are no burst
	for _, dir := range dead {
		for _, pid := range processes(dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	w.eventually("nothing is left of what died", func() bool {
		return !slices.ContainsFunc(dead, func(dir string) bool { return !gone(dir) })
	})
	is("after its death", ask(personUID, ""), false)
	// An attempt that runs in such a container outlives the daemon, as any.
	await()
	taken := waiting()[0]
	id := strings.TrimSpace(w.prompt(t, e, personUID, "from labtasks.tasks import until_canceled\nprint(until_canceled.delay().id)")) + fmt.Sprintf(".%d", personUID)
	w.printed(id, "waiting")
	if len(processes(taken)) == 0 {
		t.Errorf("what waited in %s was not taken", taken)
	}
	score(taken, "500")
	kill()
	w.start()
	if _, err := w.client.Cancel(t.Context(), id, ""); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(id); job.State != "canceled" {
		t.Errorf("%+v", job)
	}
}
