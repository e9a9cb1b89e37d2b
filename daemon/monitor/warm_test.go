package monitor

import (
	"errors"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/systemd"
	"girderworker/transforms"
)

// spare is the runner that waits, once it does.
func (d *daemon) spare(t *testing.T) *warmRunner {
	t.Helper()
	var w *warmRunner
	eventually(t, "a runner is ready", func() bool {
		d.runners.mu.Lock()
		defer d.runners.mu.Unlock()
		w = d.runners.warm
		return w != nil
	})
	return w
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// TestReadyRunner: an attempt is given to the runner that waits, and to another one
// where that has died.
func TestReadyRunner(t *testing.T) { onEachLauncher(t, readyRunner) }

func readyRunner(t *testing.T, o Options) {
	d := startDaemon(t, o)
	run := func(number int) (attempt.Dir, record) {
		t.Helper()
		a := Attempt{"job", number}
		if err := d.start(t.Context(), testRequest(a.Job, number, "exit")); err != nil {
			t.Fatal(err)
		}
		waitEnded(t, d.client.Ended(a))
		dir, _ := attempt.NewDir(o.State, a.Job, number)
		rec, err := readRecord(dir)
		exit, err2 := dir.ReadExit()
		if err := errors.Join(err, err2); err != nil || exit.Code != 3 {
			t.Fatalf("attempt %d: exit %+v, %v", number, exit, err)
		}
		return dir, rec
	}
	waiting := d.spare(t).record
	dir, rec := run(1)
	if rec != waiting {
		t.Errorf("the attempt's runner is %+v, and %+v was ready", rec, waiting)
	}
	if r, err := dir.ReadRequest(); err != nil || path.Dir(r.Grant.Cgroup) != d.runners.launcher.parent(rec) {
		t.Errorf("its container's cgroup is %q, %v", r.Grant.Cgroup, err)
	}
	died := d.spare(t)
	if err := unix.Kill(died.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, rec := run(2); rec.PID == died.pid || rec.PID == 0 {
		t.Errorf("the runner that died before, %d, got an attempt: %+v", died.pid, rec)
	}
	d.end(t)
	leftovers(t, o)
}

// TestReadyRunnerLosesMonitor: what waits ends by itself when the daemon is killed.
func TestReadyRunnerLosesMonitor(t *testing.T) { onEachLauncher(t, readyRunnerLosesMonitor) }

func readyRunnerLosesMonitor(t *testing.T, o Options) {
	d := startDaemon(t, o)
	w := d.spare(t)
	d.runners.mu.Lock()
	d.runners.warm = nil
	d.runners.mu.Unlock()
	w.socket.Close()
	if err := w.wait(t.Context()); err != nil {
		t.Error(err)
	}
	w.close()
	if w.record.Unit != "" {
		eventually(t, "its unit is gone", func() bool {
			return exec.Command("systemctl", "list-units", "--all", "--quiet", w.record.Unit).Run() == nil && len(unitsOf(t, o)) == 0
		})
	}
	if err := endCgroup(t.Context(), w.record.Cgroup); err != nil {
		t.Error(err)
	}
	d.end(t)
	leftovers(t, o)
}

func unitsOf(t *testing.T, o Options) []byte {
	t.Helper()
	units, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", stateName(o.State)+"-*").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, units)
	}
	return units
}

// TestReadyContainer: what waits for a function's next call is taken by that, with the
// cgroup and the ids that it has, and is gone with the monitor.
func TestReadyContainer(t *testing.T) { onEachLauncher(t, readyContainer) }

func readyContainer(t *testing.T, o Options) {
	const interpreter = "/bin/sh" // nobody runs it
	o.Interpreters, o.Ahead, o.AheadTime = []string{interpreter}, 1, time.Hour
	d := startDaemon(t, o)
	call := func(job string) (*attempt.Request, attempt.Exit) {
		t.Helper()
		r := testRequest(job, 1, "")
		r.Plan.Args, r.Plan.Image, r.ImageID = nil, "", ""
		r.Plan.Python = &transforms.Python{Interpreter: interpreter, Module: "m", Plugin: "p"}
		if err := d.start(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		waitEnded(t, d.client.Ended(Attempt{job, 1}))
		dir, _ := attempt.NewDir(o.State, job, 1)
		exit, err := dir.ReadExit()
		if err != nil {
			t.Fatal(err)
		}
		got, err := dir.ReadRequest()
		if err != nil {
			t.Fatal(err)
		}
		rec, err := readRecord(dir)
		if err != nil || path.Dir(got.Grant.Cgroup) != d.runners.launcher.parent(rec) {
			t.Errorf("%s has the cgroup %s and the record %+v, %v", job, got.Grant.Cgroup, rec, err)
		}
		return got, exit
	}
	if r, exit := call("first"); exit.Code != 3 || r.Grant.Ahead != "" {
		t.Errorf("the first call: exit %d, %+v", exit.Code, r.Grant)
	}
	if r, exit := call("second"); exit.Code != codeAhead || !strings.HasPrefix(filepath.Base(r.Grant.Ahead), attempt.AheadPrefix) {
		t.Errorf("the second call: exit %d, %+v", exit.Code, r.Grant)
	}
	// One that has died is no loss. take waits for it.
	eventually(t, "another waits", func() bool {
		d.ahead.mu.Lock()
		defer d.ahead.mu.Unlock()
		return len(d.ahead.ready) == 1
	})
	if err := unix.Kill(d.ahead.ready[0].pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if r, exit := call("third"); exit.Code != 3 || r.Grant.Ahead != "" {
		t.Errorf("after what waited had died: exit %d, %+v", exit.Code, r.Grant)
	}
	if _, exit := call("fourth"); exit.Code != codeAhead {
		t.Errorf("the next one: exit %d", exit.Code)
	}
	d.end(t)
	leftovers(t, o)
}

// TestDescribed: a service says which job it has.
func TestDescribed(t *testing.T) {
	if !systemd.Running() {
		t.Skip("no systemd here; make test-vm runs it under one")
	}
	o := testOptions(t)
	o.Launcher = "systemd"
	d := startDaemon(t, o)
	d.spare(t)
	if units := unitsOf(t, o); !strings.Contains(string(units), "ready for a job") {
		t.Errorf("what waits is %s", units)
	}
	a := Attempt{"job", 1}
	if err := d.start(t.Context(), testRequest(a.Job, 1, "wait")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the unit has the job's name", func() bool { return strings.Contains(string(unitsOf(t, o)), "girder-worker job job") })
	if err := d.client.Kill(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	d.end(t)
	leftovers(t, o)
	if units := unitsOf(t, o); len(units) > 0 {
		t.Errorf("units left:\n%s", units)
	}
	if left, _ := filepath.Glob("/run/systemd/transient/" + stateName(o.State) + "-*"); len(left) > 0 {
		t.Errorf("files left: %q", left)
	}
}

// TestOlderAttempt: an attempt of a release that had a unit for each, named after it, is
// found whether or not its record was written before that daemon died.
func TestOlderAttempt(t *testing.T) {
	if !systemd.Running() {
		t.Skip("no systemd here; make test-vm runs it under one")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, recorded := range map[string]bool{"recorded": true, "not recorded": false} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			o.Launcher = "systemd"
			startDaemon(t, o).end(t) // makes the directories
			bus, err := systemd.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer bus.Close()
			dir, err := attempt.NewDir(o.State, "job", 1)
			if err != nil {
				t.Fatal(err)
			}
			unit := stateName(o.State) + "-job-job-1.service"
			r := testRequest("job", 1, "wait")
			r.Grant = attempt.Grant{
				UIDMappings: keepID(0, testJob, o.IDs.slice(0), nil), GIDMappings: keepID(0, testJob, o.IDs.slice(0), nil), GroupID: o.GID,
				WorkDir: filepath.Join(o.State, "work", dir.ID()), ImageDir: filepath.Join(o.State, "images"), CacheDir: filepath.Join(o.State, "cache"), BootID: "boot",
				Cgroup: systemd.SliceCgroup(unitSlice) + "/" + unit + "/" + dir.ID(),
			}
			if err := errors.Join(dir.Create(o.GID), dir.WriteRequest(&r), os.Mkdir(r.Grant.WorkDir, 0o700)); err != nil {
				t.Fatal(err)
			}
			pid, err := bus.Start(t.Context(), systemd.Service{Name: unit, Slice: unitSlice, Args: []string{self, "runner", "--directory", dir.Path()}, StopTimeout: unitStop})
			if err != nil {
				t.Fatal(err)
			}
			if recorded {
				start, err := startTime(pid)
				if err != nil {
					t.Fatal(err)
				}
				f, err := os.OpenFile(recordPath(dir), os.O_WRONLY|os.O_CREATE, 0o600)
				if err == nil {
					err = errors.Join(writeRecord(f, record{PID: pid, Start: start, Unit: unit}), f.Close())
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			d := startDaemon(t, o)
			waitFor(t, filepath.Join(dir.Path(), "ready"))
			if list, err := d.client.List(t.Context()); err != nil || len(list) != 1 {
				t.Errorf("list %v, %v", list, err)
			}
			if err := d.client.Kill(t.Context(), Attempt{"job", 1}); err != nil {
				t.Error(err)
			}
			d.end(t)
			leftovers(t, o)
			if units := unitsOf(t, o); len(units) > 0 {
				t.Errorf("units left:\n%s", units)
			}
		})
	}
}

// TestRecord: what is recorded last counts, also where it is shorter.
func TestRecord(t *testing.T) {
	dir, err := attempt.NewDir(t.TempDir(), "job", 1)
	if err == nil {
		err = os.MkdirAll(dir.Path(), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	lock, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	for _, want := range []record{{PID: 1 << 20, Start: 1 << 40, Cgroup: "/long", Unit: "long"}, {PID: 1}} {
		if err := writeRecord(lock.File(), want); err != nil {
			t.Fatal(err)
		}
		if got, err := readRecord(dir); err != nil || got != want {
			t.Errorf("got %+v, want %+v, %v", got, want, err)
		}
	}
}
