package monitor

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
	"girderworker/daemon/systemd"
	"girderworker/sandbox/cgroup"
	"girderworker/transforms"
)

// The test binary is the runner, too: it keeps the contract of an attempt
// without a container. What it does is the first argument of the plan.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "runner" {
		if err := fakeRunner(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "fake runner:", err)
			os.Exit(1)
		}
		unix.Exit(0) // os.Exit waits a second for data races
	}
	os.Exit(m.Run())
}

func fakeRunner(args []string) error {
	flags := flag.NewFlagSet("runner", flag.ContinueOnError)
	directory := flags.String("directory", "", "")
	warm := flags.Int("warm-fd", -1, "")
	ahead := flags.Bool("ahead", false, "")
	for _, name := range []string{"cgroup", "scratch", "cache", "work", "init"} {
		flags.String(name, "", "")
	}
	if err := flags.Parse(args); err != nil {
		return err
	}
	var dir attempt.Dir
	var lock *attempt.Lock
	var err error
	var waiting *fakeContainer
	if *directory == "" {
		socket, err := attempt.WarmSocket(*warm)
		if err != nil {
			return err
		}
		if *ahead {
			f, err := attempt.ReceiveAhead(socket)
			if errors.Is(err, io.EOF) {
				return nil
			}
			var r attempt.Request
			if err == nil {
				err = readJSON(f, &r)
			}
			if err == nil {
				waiting, err = newFakeContainer(&r)
			}
			if err != nil {
				return err
			}
		}
		dir, lock, err = attempt.ReceiveStart(socket)
		if errors.Is(err, io.EOF) {
			if waiting != nil {
				return waiting.end()
			}
			return nil
		}
		if err != nil {
			return err
		}
	} else {
		if dir, err = attempt.ParseDir(*directory); err == nil {
			lock, err = dir.Lock()
		}
		if err != nil {
			return err
		}
	}
	defer lock.Close()
	r, err := dir.ReadRequest()
	if err != nil {
		return err
	}
	file, err := dir.ReserveExit(r.Grant.GroupID)
	if err != nil {
		return err
	}
	exit := attempt.Exit{Outcome: attempt.OutcomeExited, Finished: time.Now()}
	switch {
	case waiting != nil && waiting.cgroup == r.Grant.Cgroup && waiting.work == r.Grant.Ahead:
		exit.Code = codeAhead
		if err := errors.Join(waiting.end(), attempt.RemoveWork(r.Grant.WorkDir)); err != nil {
			return err
		}
	case len(r.Plan.Args) == 0 || r.Plan.Args[0] == "exit":
		exit.Code = 3
	case r.Plan.Args[0] == "wait":
		c, err := newFakeContainer(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir.Path(), "ready"), nil, 0o600); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		how := <-dir.Cancels(ctx)
		exit.Outcome, exit.Code = how.Outcome, attempt.CodeCanceled
		if err := c.end(); err != nil {
			return err
		}
	}
	return file.Commit(exit)
}

// codeAhead is the exit code of what a container that waited has done.
const codeAhead = 5

// A fakeContainer has what a real one has: a process in the cgroup, a mount, files.
type fakeContainer struct {
	cgroup, work, point string
	process             *exec.Cmd
	group               cgroup.Group
}

func newFakeContainer(r *attempt.Request) (*fakeContainer, error) {
	c := &fakeContainer{cgroup: r.Grant.Cgroup, work: r.Grant.WorkDir, point: filepath.Join(r.Grant.WorkDir, "mnt")}
	var err error
	if c.group, err = cgroup.At(c.cgroup); err != nil {
		return nil, err
	}
	c.process = exec.Command("sleep", "1000")
	c.process.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err = c.process.Start(); err != nil {
		return nil, err
	}
	if err = c.group.Join(c.process.Process.Pid); err != nil {
		return nil, err
	}
	if err = os.Mkdir(c.point, 0o700); err != nil {
		return nil, err
	}
	return c, unix.Mount("tmpfs", c.point, "tmpfs", 0, "size=64k")
}

func (c *fakeContainer) end() error {
	if err := c.group.Kill(context.Background()); err != nil {
		return err
	}
	_ = c.process.Wait()
	return errors.Join(c.group.Remove(), unix.Unmount(c.point, 0), attempt.RemoveWork(c.work))
}

const (
	testUID = 4242
	testJob = 4343
)

func testOptions(t *testing.T) Options {
	t.Helper()
	// Not t.TempDir alone: the front, another user, must reach it.
	base := t.TempDir()
	for dir := base; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	return Options{
		State: filepath.Join(base, "state"),
		UID:   testUID, GID: testUID,
		Socket:   filepath.Join(base, "run", "s"),
		IDs:      IDRange{Base: 0x70000000, Size: 8 * sliceSize},
		Policy:   filepath.Join(base, "policy.toml"),
		Launcher: "session",
		Drop:     filepath.Join(base, "drop"),
		Logger:   slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
}

// testWriter writes lines to the test's log.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// daemon is a monitor in this process with a client of it.
type daemon struct {
	*Monitor
	client *Client
	served chan error
}

func startDaemon(t *testing.T, o Options) *daemon {
	t.Helper()
	m, err := open(o)
	if err != nil {
		t.Fatal(err)
	}
	conn, theirs, err := socketpair()
	if err != nil {
		t.Fatal(err)
	}
	m.conn = conn
	client, err := Connect(theirs)
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{m, client, make(chan error, 1)}
	go func() { d.served <- m.serve() }()
	return d
}

// start starts an attempt of somebody who has connected.
func (d *daemon) start(ctx context.Context, r attempt.Request) error {
	r.Identity.Source = policy.Socket
	r.Identity.Seal = d.seal.seal(&r.Identity)
	return d.client.Start(ctx, r, transforms.Secrets{})
}

// end ends the monitor, as a kill would: attempts live on.
func (d *daemon) end(t *testing.T) {
	t.Helper()
	d.client.Close()
	if err := <-d.served; err != nil {
		t.Errorf("serve: %v", err)
	}
	d.close()
	d.conn.Close()
}

func testRequest(job string, number int, what string) attempt.Request {
	return attempt.Request{
		Version:  attempt.Version,
		Job:      job,
		Attempt:  number,
		Identity: attempt.Identity{UID: testJob, GID: testJob, Groups: []int{testJob, 5001}},
		Plan:     transforms.Plan{Image: "i", Args: []string{what}},
		ImageID:  "sha256:" + strings.Repeat("ab", 32),
		Resources: attempt.Resources{
			CPUs: 1, Memory: 64 << 20, PIDs: 10, Shm: 1 << 20, Scratch: 1 << 20, Log: 1 << 20,
		},
	}
}

// waitFor waits for a file, which the runner makes when it has come so far.
func waitFor(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		if _, err := os.Lstat(path); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s", path)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func waitEnded(t *testing.T, ended context.Context) {
	t.Helper()
	select {
	case <-ended.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the end of the attempt was not told")
	}
}

// leftovers fails the test for anything of an attempt that is left.
func leftovers(t *testing.T, o Options) {
	t.Helper()
	if entries, err := os.ReadDir(filepath.Join(o.State, "work")); err != nil || len(entries) > 0 {
		t.Errorf("work directories left: %v, %v", entries, err)
	}
	if spares, err := filepath.Glob(filepath.Join(o.State, "cache", sparePrefix+"*")); err != nil || len(spares) > 0 {
		t.Errorf("directories left that no attempt had: %v, %v", spares, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), o.State) {
		t.Errorf("mounts left:\n%s", mounts)
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(filepath.Join(pattern, cgroupBase(o.State)))
		if len(dirs) > 0 {
			t.Errorf("cgroups left: %v", dirs)
		}
	}
}

// onEachLauncher runs a test with attempts started both ways.
func onEachLauncher(t *testing.T, test func(t *testing.T, o Options)) {
	t.Run("session", func(t *testing.T) { test(t, testOptions(t)) })
	t.Run("systemd", func(t *testing.T) {
		if !systemd.Running() {
			t.Skip("no systemd here; make test-vm runs it under one")
		}
		o := testOptions(t)
		o.Launcher = "systemd"
		test(t, o)
		units, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", stateName(o.State)+"-*").CombinedOutput()
		if err != nil || len(units) > 0 {
			t.Errorf("units left: %v\n%s", err, units)
		}
	})
}

func TestAttemptEnds(t *testing.T) { onEachLauncher(t, attemptEnds) }

func attemptEnds(t *testing.T, o Options) {
	d := startDaemon(t, o)
	a := Attempt{"job", 1}
	if err := d.start(t.Context(), testRequest("job", 1, "exit")); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, d.client.Ended(a))
	dir, err := attempt.NewDir(o.State, "job", 1)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := dir.ReadExit()
	if err != nil || exit.Code != 3 {
		t.Errorf("exit %+v, %v", exit, err)
	}
	r, err := dir.ReadRequest()
	if err != nil {
		t.Fatal(err)
	}
	if r.Grant.UIDMappings[0].HostID != testJob || r.Grant.GroupID != testUID || r.Grant.BootID == "" {
		t.Errorf("grant %+v", r.Grant)
	}
	// Once in its life.
	if err := d.start(t.Context(), testRequest("job", 1, "exit")); !errors.Is(err, ErrRefused) {
		t.Errorf("started twice: %v", err)
	}
	if err := d.start(t.Context(), testRequest("job", 2, "exit")); err != nil {
		t.Errorf("a second attempt: %v", err)
	}
	waitEnded(t, d.client.Ended(Attempt{"job", 2}))
	if err := d.client.RemoveJob(t.Context(), "job"); err != nil {
		t.Errorf("remove: %v", err)
	}
	if _, err := os.Lstat(filepath.Dir(dir.Path())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory left: %v", err)
	}
	d.end(t)
	leftovers(t, o)
}

// TestRunnersDieAtOnce: an attempt whose runners die before they have it has been
// started all the same, and is lost: that is no fault of its job's.
func TestRunnersDieAtOnce(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes cgroups")
	}
	o := testOptions(t)
	for _, dir := range []string{"jobs", "work"} {
		if err := os.MkdirAll(filepath.Join(o.State, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := attempt.NewDir(o.State, "job", 1)
	if err == nil {
		err = dir.Create(o.GID)
	}
	if err != nil {
		t.Fatal(err)
	}
	lock, err := dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	s := newRunners(newSessions([]string{"/bin/false"}, "", cgroupBase(o.State), o.Logger), layout{o.State}, o.Logger)
	p, err := s.start(t.Context(), dir, lock, 0, func(string) error { return nil })
	s.close()
	removeEmptyCgroups(cgroupBase(o.State), filepath.Join(o.State, "work"))
	if p != nil || err != nil {
		t.Errorf("started as %+v, %v", p, err)
	}
	if locked, err := dir.Locked(); locked || err != nil {
		t.Errorf("locked: %v, %v", locked, err)
	}
	leftovers(t, o)
}

func TestOneLiveAttemptOfAJob(t *testing.T) { onEachLauncher(t, oneLiveAttemptOfAJob) }

func oneLiveAttemptOfAJob(t *testing.T, o Options) {
	d := startDaemon(t, o)
	a := Attempt{"job", 1}
	if err := d.start(t.Context(), testRequest("job", 1, "wait")); err != nil {
		t.Fatal(err)
	}
	dir, _ := attempt.NewDir(o.State, "job", 1)
	waitFor(t, filepath.Join(dir.Path(), "ready"))
	if err := d.start(t.Context(), testRequest("job", 2, "exit")); !errors.Is(err, ErrBusy) {
		t.Errorf("a second attempt beside the first: %v", err)
	}
	if err := d.client.RemoveJob(t.Context(), "job"); !errors.Is(err, ErrBusy) {
		t.Errorf("removed under a live attempt: %v", err)
	}
	if list, err := d.client.List(t.Context()); err != nil || len(list) != 1 || list[0] != a {
		t.Errorf("list %v, %v", list, err)
	}
	ended := d.client.Ended(a)
	if err := d.client.Cancel(t.Context(), a, attempt.Cancel{Outcome: attempt.OutcomeCanceled}); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, ended)
	if exit, err := dir.ReadExit(); err != nil || exit.Outcome != attempt.OutcomeCanceled {
		t.Errorf("exit %+v, %v", exit, err)
	}
	if err := d.client.Cancel(t.Context(), a, attempt.Cancel{Outcome: attempt.OutcomeCanceled}); !errors.Is(err, ErrNoAttempt) {
		t.Errorf("cancel of the ended: %v", err)
	}
	d.end(t)
	leftovers(t, o)
}

// A runner that dies is noticed at once, and nothing of it is left.
func TestRunnerKilled(t *testing.T) { onEachLauncher(t, runnerKilled) }

func runnerKilled(t *testing.T, o Options) {
	d := startDaemon(t, o)
	a := Attempt{"job", 1}
	if err := d.start(t.Context(), testRequest("job", 1, "wait")); err != nil {
		t.Fatal(err)
	}
	dir, _ := attempt.NewDir(o.State, "job", 1)
	waitFor(t, filepath.Join(dir.Path(), "ready"))
	rec, err := readRecord(dir)
	if err != nil || rec.PID == 0 {
		t.Fatalf("record %+v, %v", rec, err)
	}
	ended := d.client.Ended(a)
	if err := unix.Kill(rec.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, ended)
	if done, err := dir.Ended(); err != nil || done {
		t.Errorf("ended %v, %v", done, err)
	}
	d.end(t)
	leftovers(t, o)
}

// An attempt lives on without a monitor, and the next one finds it.
func TestAttemptOutlivesMonitor(t *testing.T) { onEachLauncher(t, attemptOutlivesMonitor) }

func attemptOutlivesMonitor(t *testing.T, o Options) {
	d := startDaemon(t, o)
	a := Attempt{"job-with-dashes", 1}
	if err := d.start(t.Context(), testRequest(a.Job, 1, "wait")); err != nil {
		t.Fatal(err)
	}
	dir, _ := attempt.NewDir(o.State, a.Job, 1)
	waitFor(t, filepath.Join(dir.Path(), "ready"))
	d.end(t)

	d = startDaemon(t, o)
	if list, err := d.client.List(t.Context()); err != nil || len(list) != 1 || list[0] != a {
		t.Errorf("list %v, %v", list, err)
	}
	ended := d.client.Ended(a)
	// The slice of the live one is not given to another.
	stranger := testRequest("other", 1, "exit")
	stranger.Identity = attempt.Identity{UID: testJob + 1, GID: testJob + 1}
	if err := d.start(t.Context(), stranger); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, d.client.Ended(Attempt{"other", 1}))
	other, _ := attempt.NewDir(o.State, "other", 1)
	first, err1 := dir.ReadRequest()
	second, err2 := other.ReadRequest()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if x, y := o.IDs.sliceOf(first.Grant.UIDMappings), o.IDs.sliceOf(second.Grant.UIDMappings); x == y {
		t.Errorf("both have slice %d", x)
	}
	if err := d.client.Cancel(t.Context(), a, attempt.Cancel{Outcome: attempt.OutcomeCanceled}); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, ended)
	d.end(t)
	leftovers(t, o)
}

// What died while no monitor looked is swept by the next.
func TestRunnerDiedWithoutMonitor(t *testing.T) { onEachLauncher(t, runnerDiedWithoutMonitor) }

func runnerDiedWithoutMonitor(t *testing.T, o Options) {
	d := startDaemon(t, o)
	if err := d.start(t.Context(), testRequest("job", 1, "wait")); err != nil {
		t.Fatal(err)
	}
	dir, _ := attempt.NewDir(o.State, "job", 1)
	waitFor(t, filepath.Join(dir.Path(), "ready"))
	rec, err := readRecord(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.end(t)
	if err := unix.Kill(rec.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Where it is our child, since monitor and test are one process, it must not
	// stay a zombie; else PID 1 reaps it.
	if _, err := unix.Wait4(rec.PID, nil, 0, nil); errors.Is(err, unix.ECHILD) {
		for unix.Kill(rec.PID, 0) == nil {
			time.Sleep(5 * time.Millisecond)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	d = startDaemon(t, o)
	if list, err := d.client.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("list %v, %v", list, err)
	}
	d.end(t)
	leftovers(t, o)
}

func TestKill(t *testing.T) { onEachLauncher(t, killAttempt) }

func killAttempt(t *testing.T, o Options) {
	d := startDaemon(t, o)
	a := Attempt{"job", 1}
	if err := d.start(t.Context(), testRequest("job", 1, "wait")); err != nil {
		t.Fatal(err)
	}
	if err := d.client.Kill(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, d.client.Ended(a))
	if err := d.client.Kill(t.Context(), a); err != nil {
		t.Errorf("kill of the dead: %v", err)
	}
	d.end(t)
	leftovers(t, o)
}

func TestManyAtOnce(t *testing.T) { onEachLauncher(t, manyAtOnce) }

func manyAtOnce(t *testing.T, o Options) {
	d := startDaemon(t, o)
	errs := make(chan error, 7)
	for i := range cap(errs) {
		go func() {
			job := fmt.Sprintf("job%d", i)
			err := d.start(t.Context(), testRequest(job, 1, "exit"))
			if err == nil {
				<-d.client.Ended(Attempt{job, 1}).Done()
			}
			errs <- err
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	d.end(t)
	leftovers(t, o)
}

func TestStateDirectoryInUse(t *testing.T) {
	o := testOptions(t)
	d := startDaemon(t, o)
	defer d.end(t)
	if _, err := open(o); err == nil || !strings.Contains(err.Error(), "in use by another daemon") {
		t.Errorf("a second daemon: %v", err)
	}
}

func TestStateDirectoryOfAnother(t *testing.T) {
	o := testOptions(t)
	if err := os.Mkdir(o.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(o.State, testUID, testUID); err != nil {
		t.Fatal(err)
	}
	if _, err := open(o); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("belongs to user %d", testUID)) {
		t.Errorf("another user's directory: %v", err)
	}
}

func TestStateDirectoryReadOnlyAndFull(t *testing.T) {
	for _, tt := range []struct {
		name, options, want string
		flags               uintptr
		fill                bool
	}{
		{"read-only", "size=1m", "read-only", unix.MS_RDONLY, false},
		{"full", "size=64k", "make room", 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := testOptions(t)
			if err := os.Mkdir(o.State, 0o711); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", o.State, "tmpfs", tt.flags, tt.options); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(o.State, unix.MNT_DETACH)
			if tt.fill {
				f, err := os.Create(filepath.Join(o.State, "ballast"))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.Write(make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
					t.Fatalf("the file system is not full: %v", err)
				}
				f.Close()
			}
			_, err := open(o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// People who may use the socket must not read each other's jobs through the
// group that the front's files have. Where containers have their files, nobody
// may be.
func TestOnlyTheFrontReadsJobs(t *testing.T) {
	o := testOptions(t)
	d := startDaemon(t, o)
	defer d.end(t)
	work, err := os.Stat(filepath.Join(o.State, "work"))
	if err != nil {
		t.Fatal(err)
	}
	if work.Mode().Perm() != 0o700 {
		t.Errorf("the work directory has mode %v", work.Mode())
	}
	list := func(uid, gid uint32) error {
		cmd := exec.Command("ls", filepath.Join(o.State, "jobs"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
		return cmd.Run()
	}
	if err := list(testUID, testUID); err != nil {
		t.Errorf("the front cannot: %v", err)
	}
	if list(testJob, testUID) == nil {
		t.Error("a member of its group can")
	}
}
