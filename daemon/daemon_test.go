package daemon_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon"
	"girderworker/daemon/attempt"
	"girderworker/daemon/client"
)

// counter is a job that shows whether it was disturbed: a line every 100 ms,
// and an exit code of its own.
const (
	counter     = "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); usleep 100000; done; exit 7"
	counterCode = 7
)

func counterLog() string {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// endless runs until it is canceled, and obeys at once.
const endless = "trap 'exit 9' TERM; echo up; while :; do usleep 20000; done"

func TestJobRuns(t *testing.T) {
	w := newWorld(t)
	job := w.wait(w.submit("echo out; echo err >&2; id -u; exit 3").ID)
	if job.State != "failed" || *job.ExitCode != 3 || job.Outcome != "exited" {
		t.Errorf("job %+v", job)
	}
	if log := w.log(job.ID); !strings.Contains(log, "out\n") || !strings.Contains(log, "err\n") || !strings.Contains(log, "\n0\n") {
		t.Errorf("log %q", log)
	}
	// Nothing runs as root: whom it runs as instead is told.
	if !strings.Contains(job.User, "root (its jobs run as") {
		t.Errorf("user %q", job.User)
	}
	if job := w.wait(w.submit("exit 0").ID); job.State != "succeeded" || *job.ExitCode != 0 {
		t.Errorf("job %+v", job)
	}
	if job := w.wait(w.submit("x", "args", []string{"/no/such"}).ID); job.State != "failed" || *job.ExitCode != 127 {
		t.Errorf("job without a command %+v", job)
	}
	if _, err := w.client.Submit(t.Context(), document("x", "image", "nothing:1")); client.Kind(err) != "no-such-image" {
		t.Errorf("a job without an image: %v", err)
	}
	if _, err := w.client.Remove(t.Context(), job.ID); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(w.state(), "jobs", job.ID)); !os.IsNotExist(err) {
		t.Errorf("the files of a removed job: %v", err)
	}
}

// A person's job reads and writes the person's files, as the person.
func TestJobOfAPerson(t *testing.T) {
	w := newWorld(t)
	home := filepath.Join(w.dir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, personUID, personUID); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command(binary, append([]string{"--socket", w.socket(), "run"}, args...)...)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: personUID, Gid: personUID, Groups: []uint32{memberGID}}}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run("-v", home+":/data", "busybox", "sh", "-c", "id -u; echo mine > /data/file; exit 5")
	if code := exitCode(err); code != 5 || !strings.Contains(out, "0\n") {
		t.Fatalf("exit %d: %s", code, out)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(home, "file"), &st); err != nil || st.Uid != personUID || st.Gid != personUID {
		t.Errorf("file of %d:%d, %v", st.Uid, st.Gid, err)
	}
	secret := filepath.Join(w.dir, "secret")
	if err := os.Mkdir(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err = run("-v", secret+"/x:/data", "busybox", "true")
	if code := exitCode(err); code != 125 {
		t.Errorf("another's directory: exit %d: %s", code, out)
	}
}

func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return -1
}

func TestCancel(t *testing.T) {
	w := newWorld(t)
	running := w.submit(endless)
	w.printed(running.ID, "up")
	if _, err := w.client.Cancel(t.Context(), running.ID, "enough"); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(running.ID); job.State != "canceled" || *job.ExitCode != 130 || job.Reason != "enough" {
		t.Errorf("job %+v", job)
	}
	// Whenever the cancel comes, it holds.
	for i := range 10 {
		job := w.submit(endless)
		time.Sleep(time.Duration(i) * 5 * time.Millisecond)
		if _, err := w.client.Cancel(t.Context(), job.ID, ""); err != nil {
			t.Fatal(err)
		}
		if job := w.wait(job.ID); job.State != "canceled" {
			t.Errorf("job %+v", job)
		}
	}
}

// Whichever half dies, the other ends; the container goes on undisturbed, and
// the next daemon records its result.
func TestDaemonKilled(t *testing.T) {
	for _, tt := range []struct {
		name string
		kill func(*world)
	}{
		{"front", func(w *world) { w.front().Kill() }},
		{"monitor", func(w *world) { w.cmd.Process.Kill() }},
		{"both", func(w *world) {
			front := w.front()
			w.cmd.Process.Kill()
			front.Kill()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			id := w.submit(counter).ID
			w.printed(id, "3\n")
			tt.kill(w)
			if code := w.waitExit(); code == 0 {
				t.Error("the daemon ended as if all were well")
			}
			w.start()
			job := w.wait(id)
			if *job.ExitCode != counterCode || job.Attempt != 1 {
				t.Errorf("job %+v", job)
			}
			if log := w.log(id); log != counterLog() {
				t.Errorf("log %q", log)
			}
		})
	}
}

// The result of a job that ended while no daemon ran is recorded.
func TestJobEndsWithoutDaemon(t *testing.T) {
	w := newWorld(t)
	id := w.submit("echo up; until [ -e /data/end ]; do usleep 20000; done; exit 4",
		"binds", []map[string]string{{"source": w.shared(), "target": "/data"}}).ID
	w.printed(id, "up")
	w.stop()
	if len(w.processes()) == 0 {
		t.Error("the job ended with the daemon")
	}
	if err := os.WriteFile(filepath.Join(w.shared(), "end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("the job ends", func() bool { return len(w.processes()) == 0 })
	w.start()
	if job := w.wait(id); *job.ExitCode != 4 || job.Attempt != 1 {
		t.Errorf("job %+v", job)
	}
}

func TestRunnerKilled(t *testing.T) {
	w := newWorld(t)
	// One that must not run twice.
	once := w.submit(endless, "retries", map[string]any{"fail_interrupted": true})
	w.printed(once.ID, "up")
	if err := w.runner(once.ID, 1).Kill(); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(once.ID); job.State != "failed" || !strings.Contains(job.Reason, "its runner died") {
		t.Errorf("job %+v", job)
	}
	// One that may.
	again := w.submit(endless)
	w.printed(again.ID, "up")
	if err := w.runner(again.ID, 1).Kill(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the second attempt", func() bool { return w.job(again.ID).Attempt == 2 })
	// Not while the daemon is away, either.
	w.eventually("the second attempt runs", func() bool { return w.job(again.ID).State == "running" })
	w.stop()
	if err := w.runner(again.ID, 2).Kill(); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.eventually("the third attempt runs", func() bool {
		job := w.job(again.ID)
		return job.Attempt == 3 && job.State == "running"
	})
	if _, err := w.client.Cancel(t.Context(), again.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.wait(again.ID)
}

// A machine that was switched off has another boot id and no process left.
func TestReboot(t *testing.T) {
	w := newWorld(t)
	id := w.submit("[ -e /data/second ] && exit 6; echo up; while :; do usleep 20000; done",
		"binds", []map[string]string{{"source": w.shared(), "target": "/data"}}).ID
	w.printed(id, "up")
	if _, err := w.client.Pause(t.Context()); err != nil { // to look at it before it runs again
		t.Fatal(err)
	}
	w.cmd.Process.Kill()
	w.waitExit()
	w.eventually("power is off", func() bool {
		left := w.processes()
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		// A process that dies has its files for longer than a program.
		dir, err := attempt.NewDir(w.state(), id, 1)
		if err != nil {
			t.Fatal(err)
		}
		locked, err := dir.Locked()
		return len(left) == 0 && !locked && err == nil
	})
	if err := os.WriteFile(filepath.Join(w.shared(), "second"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(w.dir, "boot_id")
	if err := os.WriteFile(other, []byte("11111111-2222-3333-4444-555555555555\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const bootID = "/proc/sys/kernel/random/boot_id"
	// Shared among the daemon's processes, so that all see it covered no more.
	w.start("mount --make-rprivate /", "mount --make-rshared /", "mount --bind "+other+" "+bootID)
	w.eventually("the job is queued again", func() bool {
		job := w.job(id)
		return job.State == "queued" && strings.Contains(job.Reason, "the machine was restarted")
	})
	// A user namespace may mount /proc only where nothing of it is covered.
	out, err := exec.Command("nsenter", "-t", strconv.Itoa(w.cmd.Process.Pid), "-m", "umount", bootID).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := w.client.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(id); job.Attempt != 2 || *job.ExitCode != 6 {
		t.Errorf("job %+v", job)
	}
}

// shared is a directory that everybody may use.
func (w *world) shared() string {
	w.t.Helper()
	dir := filepath.Join(w.dir, "shared")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		w.t.Fatal(err)
	}
	return dir
}

// A pause holds, also over a restart, and what was accepted meanwhile runs.
func TestPauseAndRestartWithQueuedJobs(t *testing.T) {
	w := newWorld(t)
	if p, err := w.client.Pause(t.Context()); err != nil || !p.Paused || p.Draining {
		t.Fatalf("%+v, %v", p, err)
	}
	var ids []string
	for i := range 6 {
		ids = append(ids, w.submit("exit "+strconv.Itoa(i)).ID)
	}
	w.cmd.Process.Kill()
	w.waitExit()
	w.start()
	st, err := w.client.Status(t.Context())
	if err != nil || !st.Paused || st.Jobs["queued"] != 6 {
		t.Errorf("status %+v, %v", st, err)
	}
	if p, err := w.client.Drain(t.Context()); err != nil || !p.Paused || !p.Draining {
		t.Fatalf("%+v, %v", p, err)
	}
	w.stop()
	w.start()
	if st, err := w.client.Status(t.Context()); err != nil || !st.Draining || st.Jobs["queued"] != 6 {
		t.Errorf("status %+v, %v", st, err)
	}
	if p, err := w.client.Resume(t.Context()); err != nil || p.Paused {
		t.Fatalf("%+v, %v", p, err)
	}
	for i, id := range ids {
		if job := w.wait(id); *job.ExitCode != i || job.Attempt != 1 {
			t.Errorf("job %+v", job)
		}
	}
}

func TestReload(t *testing.T) {
	w := newWorld(t)
	slots := func() float64 {
		st, err := w.client.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Capacity["slots"]
	}
	warned := func(text string) bool {
		st, err := w.client.Status(t.Context())
		return err == nil && strings.Contains(strings.Join(st.Warnings, "\n"), text)
	}
	hangUp := func() {
		if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	w.configure("slots = 2")
	hangUp()
	w.eventually("the change counts", func() bool { return slots() == 2 })
	w.configure("slots = none", "nonsense = 1")
	w.eventually("the bad one is refused", func() bool { return strings.Contains(w.stderr.String(), "Keeping the old configuration") })
	if log := w.stderr.String(); !regexp.MustCompile(regexp.QuoteMeta(w.config) + `:\d+: girder_worker.slots must be`).MatchString(log) {
		t.Errorf("the daemon said\n%s", log)
	}
	if slots() != 2 {
		t.Errorf("slots %v", slots())
	}
	w.eventually("status tells of the bad one", func() bool { return warned("bad and not in use") })
	// Without a signal, and with an option that cannot be changed now.
	w.configure("slots = 3", "id_size = 6553600")
	w.eventually("the change of the file counts", func() bool { return slots() == 3 })
	w.eventually("the restart is asked for", func() bool { return strings.Contains(w.stderr.String(), "need a restart") })
	w.eventually("status asks for it, and for nothing else", func() bool { return warned("wait for a restart") && !warned("bad") })
}

func TestTwoDaemons(t *testing.T) {
	w := newWorld(t)
	out, err := exec.Command(binary, "daemon", "--config", w.config).CombinedOutput()
	if code := exitCode(err); code != 1 || !strings.Contains(string(out), "in use by another daemon") || strings.Count(string(out), "\n") != 1 {
		t.Errorf("exit %d: %s", code, out)
	}
	// Another state directory, but the same socket.
	out, err = exec.Command(binary, "daemon", "--config", w.config, "--state-dir", filepath.Join(w.dir, "other")).CombinedOutput()
	if code := exitCode(err); code != 1 || !strings.Contains(string(out), "another daemon answers there") {
		t.Errorf("exit %d: %s", code, out)
	}
	if job := w.wait(w.submit("exit 0").ID); job.State != "succeeded" {
		t.Errorf("the first daemon was disturbed: %+v", job)
	}
}

func TestBadConfiguration(t *testing.T) {
	config := filepath.Join(t.TempDir(), "worker.cfg")
	if err := os.WriteFile(config, []byte("[girder_worker]\nslots = x\nuser = nobody-of-that-name\nslot = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "daemon", "--config", config).CombinedOutput()
	if code := exitCode(err); code != daemon.ExitConfig || !strings.Contains(string(out), config+":2: girder_worker.slots") || !strings.Contains(string(out), config+":4: girder_worker.slot ") {
		t.Errorf("exit %d: %s", code, out)
	}
	out, err = exec.Command(binary, "daemon", "--user", "nobody-of-that-name", "--state-dir", filepath.Join(t.TempDir(), "s")).CombinedOutput()
	if code := exitCode(err); code != daemon.ExitConfig || !strings.Contains(string(out), "there is no such user") {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestDroppedImages(t *testing.T) {
	w := newWorld(t)
	drop := filepath.Join(w.state(), "images", "drop")
	w.eventually("the directory", func() bool { _, err := os.Stat(filepath.Join(drop, "failed")); return err == nil })
	damaged := filepath.Join(drop, "damaged.tar")
	if err := os.WriteFile(damaged, archive[:len(archive)/2], 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("the damaged one is refused", func() bool {
		_, err := os.Stat(filepath.Join(drop, "failed", "damaged.tar.error"))
		return err == nil
	})
	if err := w.client.RemoveImage(t.Context(), "busybox"); err != nil {
		t.Fatal(err)
	}
	// Written beside, and renamed.
	if err := os.WriteFile(filepath.Join(drop, ".busybox.part"), archive, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(drop, ".busybox.part"), filepath.Join(drop, "busybox.tar")); err != nil {
		t.Fatal(err)
	}
	w.eventually("the good one is taken in", func() bool {
		_, err := os.Stat(filepath.Join(drop, "done", "busybox.tar"))
		return err == nil
	})
	if job := w.wait(w.submit("exit 0").ID); job.State != "succeeded" {
		t.Errorf("job %+v", job)
	}
}

func TestImages(t *testing.T) {
	w := newWorld(t)
	if _, err := w.client.ImportImage(t.Context(), bytes.NewReader(archive[:1000]), "", false); client.Kind(err) != "bad-request" {
		t.Errorf("half an archive: %v", err)
	}
	if err := w.client.VerifyImage(t.Context(), "busybox"); err != nil {
		t.Error(err)
	}
	// A job that waits keeps its image.
	if _, err := w.client.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := w.submit("exit 0").ID
	if p, err := w.client.PruneImages(t.Context()); err != nil || len(p.Images) != 0 {
		t.Errorf("pruned %+v, %v", p, err)
	}
	if _, err := w.client.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wait(id)
	if err := w.client.RemoveImage(t.Context(), "busybox"); err != nil {
		t.Error(err)
	}
	if p, err := w.client.PruneImages(t.Context()); err != nil || len(p.Images) != 1 {
		t.Errorf("pruned %+v, %v", p, err)
	}
	if err := w.client.RemoveImage(t.Context(), "busybox"); client.Kind(err) != "no-such-image" {
		t.Errorf("removed twice: %v", err)
	}
}

// The service manager hears that the daemon is ready, alive and stopping.
func TestServiceManager(t *testing.T) {
	w := newWorld(t)
	w.stop()
	path := filepath.Join(w.dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	expect := func(want string) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(patience))
		buf := make([]byte, 1024)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("never heard %s: %v", want, err)
			}
			if strings.Contains(string(buf[:n]), want) {
				return
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "9000000") // a check may take two thirds of it, on however busy a disk
	w.start()
	expect("READY=1")
	expect("WATCHDOG=1")
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	expect("RELOADING=1")
	expect("READY=1")
	// A front that does not move is not reported as alive.
	front := w.front()
	if err := front.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// What was said until now is read until our own.
	ours, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	if _, err := ours.Write([]byte("stopped")); err != nil {
		t.Fatal(err)
	}
	expect("stopped")
	conn.SetReadDeadline(time.Now().Add(7 * time.Second)) // in which it would be heard twice
	buf := make([]byte, 1024)
	heard := 0
	for {
		n, err := conn.Read(buf)
		if err != nil {
			break
		}
		if strings.Contains(string(buf[:n]), "WATCHDOG=1") {
			heard++
		}
	}
	if heard > 1 { // one may have been on its way
		t.Errorf("heard %d times from a daemon that stands still", heard)
	}
	if err := w.cmd.Process.Signal(syscall.SIGTERM); err != nil { // before a check that has stood still ends it
		t.Fatal(err)
	}
	if err := front.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expect("STOPPING=1")
	w.waitExit()
}

// A socket that the service manager opened is taken, and left to it.
func TestSocketActivation(t *testing.T) {
	w := newWorld(t)
	w.stop()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.socket(), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	cmd := exec.Command("sh", "-ec", "exec env LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=girder-worker.socket "+binary+" daemon --config "+w.config)
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	log, err := os.OpenFile(filepath.Join(w.dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.Close()
	w.cmd, w.exited = cmd, make(chan struct{})
	go func() { w.err = cmd.Wait(); close(w.exited) }()
	if job := w.wait(w.submit("exit 0").ID); job.State != "succeeded" {
		t.Errorf("job %+v", job)
	}
	w.stop()
	if _, err := os.Lstat(w.socket()); err != nil {
		t.Errorf("the socket: %v", err)
	}
	if err := os.Remove(w.socket()); err != nil {
		t.Fatal(err)
	}
}

// Jobs that end at once, many at a time, none lost and none twice.
func TestManyShortJobs(t *testing.T) {
	w := newWorld(t)
	const jobs = 40
	ids := make([]string, jobs)
	for i := range ids {
		ids[i] = w.submit("echo x >> /data/"+strconv.Itoa(i), "binds", []map[string]string{{"source": w.shared(), "target": "/data"}}).ID
	}
	for i, id := range ids {
		if job := w.wait(id); job.State != "succeeded" {
			t.Errorf("job %+v", job)
		}
		if text, err := os.ReadFile(filepath.Join(w.shared(), strconv.Itoa(i))); err != nil || string(text) != "x\n" {
			t.Errorf("job %d wrote %q, %v", i, text, err)
		}
	}
}

// A full disk delays what was accepted, and loses or fails none of it.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.stop()
	if err := os.RemoveAll(w.state()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.state(), 0o711); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", w.state(), "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		w.stop()
		if err := unix.Unmount(w.state(), 0); err != nil {
			t.Error(err)
		}
		if err := os.Mkdir(filepath.Join(w.state(), "work"), 0o711); err != nil { // where leftovers are looked for
			t.Error(err)
		}
	}()
	w.start()
	if _, err := w.client.ImportImage(t.Context(), bytes.NewReader(archive), "", false); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := w.submit("exit 3", "retries", map[string]any{"max": 0}).ID
	ballast := filepath.Join(w.state(), "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	// The pause itself cannot be made to last; that is told, and it ends all the same.
	if _, err := w.client.Resume(t.Context()); err == nil {
		t.Error("a file was written to a full disk")
	}
	w.eventually("the full disk is told", func() bool {
		status, err := w.client.Status(t.Context())
		return err == nil && strings.Contains(strings.Join(status.Degraded, "\n"), "is full")
	})
	if job := w.job(id); job.ExitCode != nil {
		t.Errorf("job %+v", job)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(id); *job.ExitCode != 3 {
		t.Errorf("job %+v", job)
	}
}
