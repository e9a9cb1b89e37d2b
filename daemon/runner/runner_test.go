package runner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

func TestExitCode(t *testing.T) {
	w := newWorld(t, sh("echo out; echo err >&2; exit 3")...)
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 3, "")
	if exit.Container == nil || exit.Container.Started.IsZero() || exit.Container.Usage.CPU == 0 {
		t.Errorf("container's end is %+v", exit.Container)
	}
	if got := w.log(); got != "out\n[2:err\n]" {
		t.Errorf("log is %q", got)
	}
	if exit.LogBytes != 8 {
		t.Errorf("log of %d bytes", exit.LogBytes)
	}
	var stages []string
	for _, e := range w.events() {
		if e.Stage != "" {
			stages = append(stages, e.Stage)
		}
	}
	if fmt.Sprint(stages) != "[preparing running finishing]" {
		t.Errorf("stages are %v", stages)
	}
}

// TestOutputOrder: lines to both streams come in their order, as far as two
// pipes can tell: each waits until the one before was seen.
func TestOutputOrder(t *testing.T) {
	w := newWorld(t, sh(`for i in 1 2 3 4 5; do echo out$i; while [ ! -e /in/o$i ]; do usleep 1000; done; echo err$i >&2; while [ ! -e /in/e$i ]; do usleep 1000; done; done`)...)
	w.request.Plan.Binds = []transforms.Bind{{Source: w.files, Target: "/in", ReadOnly: true}}
	p := w.start()
	var want strings.Builder
	for i := 1; i <= 5; i++ {
		w.waitLog(fmt.Sprintf("out%d\n", i))
		w.file(fmt.Sprintf("o%d", i), nil)
		w.waitLog(fmt.Sprintf("err%d\n", i))
		w.file(fmt.Sprintf("e%d", i), nil)
		fmt.Fprintf(&want, "out%d\n[2:err%d\n]", i, i)
	}
	w.want(w.end(p), attempt.OutcomeExited, 0, "")
	if got := w.log(); got != want.String() {
		t.Errorf("log is %q, want %q", got, want.String())
	}
}

func TestCommandFailures(t *testing.T) {
	for _, test := range []struct {
		name string
		args []string
		code int
		text string
	}{
		{"not found", []string{"no-such-program"}, attempt.CodeNotFound, "no-such-program"},
		{"not executable", []string{"/etc/passwd"}, attempt.CodeNotExecutable, "/etc/passwd"},
		{"empty", []string{""}, attempt.CodeError, "empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, test.args...)
			w.want(w.run(), attempt.OutcomeError, test.code, test.text)
		})
	}
}

func TestKilledBySignal(t *testing.T) {
	w := newWorld(t, sh("sh -c 'kill -SEGV $$'; exit $?")...)
	w.want(w.run(), attempt.OutcomeExited, 128+11, "")
}

func TestOutOfMemory(t *testing.T) {
	w := newWorld(t, sh("exec tail /dev/zero")...)
	w.request.Resources.Memory = 48 << 20
	w.want(w.run(), attempt.OutcomeOOM, attempt.CodeOOM, "limit of 48 MiB")
}

func TestTimeouts(t *testing.T) {
	long := sh("trap 'echo got TERM; exit 0' TERM; echo up; while :; do usleep 10000; done")
	t.Run("hard", func(t *testing.T) {
		w := newWorld(t, long...)
		w.request.Limits.Hard = time.Second
		w.want(w.run(), attempt.OutcomeTimeout, attempt.CodeTimeout, "time limit of 1s")
		if strings.Contains(w.log(), "TERM") {
			t.Error("the hard limit asked before it killed")
		}
	})
	t.Run("soft", func(t *testing.T) {
		var w *world
		// On a slow machine the limit may come before the program does.
		for soft := time.Second; w == nil || soft < time.Minute && !strings.Contains(w.log(), "up"); soft *= 4 {
			w = newWorld(t, long...)
			w.request.Limits.Soft = soft
			w.request.Plan.StopGrace = time.Minute
			w.want(w.run(), attempt.OutcomeTimeout, attempt.CodeTimeout, "soft time limit of "+soft.String())
		}
		if !strings.Contains(w.log(), "got TERM") {
			t.Errorf("the soft limit did not ask: log is %q", w.log())
		}
	})
	t.Run("idle", func(t *testing.T) {
		// On a slow machine more lies between two lines than the job waits.
		w := newWorld(t, sh("echo a; sleep 2; echo b; sleep 2; echo c; sleep 1000")...)
		w.request.Limits.Idle = 3500 * time.Millisecond
		w.want(w.run(), attempt.OutcomeTimeout, attempt.CodeTimeout, "no output for 3.5s")
		if got := w.log(); got != "a\nb\nc\n" {
			t.Errorf("log is %q", got)
		}
	})
}

func (w *world) cancel(c attempt.Cancel) {
	w.t.Helper()
	if err := w.dir.WriteCancel(c); err != nil {
		w.t.Fatal(err)
	}
}

func TestCancel(t *testing.T) {
	canceled := attempt.Cancel{Outcome: attempt.OutcomeCanceled, Reason: "by alice"}
	t.Run("before the start", func(t *testing.T) {
		w := newWorld(t, "true")
		w.cancel(canceled)
		p := w.start()
		exit := w.end(p)
		// It may still be faster than the cancel, and has ended well then.
		if exit.Outcome != attempt.OutcomeExited {
			w.want(exit, attempt.OutcomeCanceled, attempt.CodeCanceled, "by alice")
		}
	})
	t.Run("asked", func(t *testing.T) {
		w := newWorld(t, sh("trap 'echo bye; exit 9' TERM; echo up; while :; do usleep 10000; done")...)
		w.request.Plan.StopGrace = time.Minute
		p := w.start()
		w.waitLog("up")
		w.cancel(canceled)
		exit := w.end(p)
		w.want(exit, attempt.OutcomeCanceled, attempt.CodeCanceled, "by alice")
		if exit.Container.Code != 9 || !strings.Contains(w.log(), "bye") {
			t.Errorf("the container's own end: %+v, log %q", exit.Container, w.log())
		}
	})
	t.Run("deaf", func(t *testing.T) {
		w := newWorld(t, sh("trap '' TERM; echo up; while :; do usleep 10000; done")...)
		p := w.start()
		w.waitLog("up")
		w.cancel(canceled)
		exit := w.end(p)
		w.want(exit, attempt.OutcomeCanceled, attempt.CodeCanceled, "by alice")
		if exit.Container.Signal != int(unix.SIGKILL) {
			t.Errorf("the container's own end: %+v", exit.Container)
		}
	})
	t.Run("again with less grace", func(t *testing.T) {
		w := newWorld(t, sh("trap 'echo no' TERM; echo up; while :; do usleep 10000; done")...)
		w.request.Plan.StopGrace = time.Hour
		p := w.start()
		w.waitLog("up")
		w.cancel(canceled)
		w.waitLog("no")
		w.cancel(attempt.Cancel{Outcome: attempt.OutcomeCanceled, Grace: -1})
		w.want(w.end(p), attempt.OutcomeCanceled, attempt.CodeCanceled, "by alice")
	})
	t.Run("flooding", func(t *testing.T) {
		w := newWorld(t, sh("cat /dev/zero & cat /dev/zero >&2")...)
		w.request.Resources.Log = 1 << 20
		p := w.start()
		w.waitLog("\x00")
		w.cancel(canceled)
		exit := w.end(p)
		w.want(exit, attempt.OutcomeCanceled, attempt.CodeCanceled, "by alice")
		if exit.LogBytes > 1<<20 {
			t.Errorf("%d bytes of log", exit.LogBytes)
		}
	})
	t.Run("streams that nobody uses", func(t *testing.T) {
		w := newWorld(t, sh("trap '' TERM; echo up; while :; do usleep 10000; done")...)
		w.stream(transforms.StreamInput, "in", w.file("in", make([]byte, 4<<20)))
		w.stream(transforms.StreamOutput, "out", filepath.Join(w.files, "out"))
		w.stream(transforms.StreamStdin, "stdin", w.file("stdin", make([]byte, 4<<20)))
		p := w.start()
		w.waitLog("up")
		w.cancel(canceled)
		exit := w.end(p)
		w.want(exit, attempt.OutcomeCanceled, attempt.CodeCanceled, "by alice")
		for name, partial := range map[string]bool{"in": true, "stdin": true, "out": false} {
			s := streamNamed(t, exit, name)
			// Who canceled it waits for no stream longer than cancelGrace.
			late := s.Partial && strings.Contains(s.Error, "the attempt was ended before")
			if !late && (s.Partial != partial || s.Error != "") {
				t.Errorf("stream %+v", s)
			}
		}
	})
}

// TestShutdown: an orderly end of the machine is told as such.
func TestShutdown(t *testing.T) {
	w := newWorld(t, sh("trap 'echo saved; exit 0' TERM; echo up; while :; do usleep 10000; done")...)
	w.request.Plan.StopGrace = time.Minute
	p := w.start()
	w.waitLog("up")
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.want(w.end(p), attempt.OutcomeInterrupted, attempt.CodeError, "shutting down")
	if !strings.Contains(w.log(), "saved") {
		t.Errorf("log is %q", w.log())
	}
}

// TestRunnerKilled: what is left is for the monitor; the lock tells it so.
func TestRunnerKilled(t *testing.T) {
	w := newWorld(t, sh("echo up; sleep 1000")...)
	p := w.start()
	w.waitLog("up")
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	if locked, err := w.dir.Locked(); locked || err != nil {
		t.Errorf("Locked = %v, %v", locked, err)
	}
	if _, err := w.dir.ReadExit(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadExit: %v", err)
	}
	// A second runner must not begin it again.
	p = w.start()
	if err := p.Wait(); err == nil {
		t.Error("an attempt was begun twice")
	}
	if !strings.Contains(p.stderr.String(), attempt.ErrBegun.Error()) {
		t.Errorf("the second runner says %q", p.stderr.String())
	}
}

// TestHugePages: the daemon does without them, as this process does that starts
// the runner; a job has them as the machine hands them out.
func TestHugePages(t *testing.T) {
	if status, err := os.ReadFile("/proc/self/status"); err != nil || !strings.Contains(string(status), "THP_enabled:\t0\n") {
		t.Errorf("this process has huge pages: %v", err)
	}
	w := newWorld(t, "grep", "THP_enabled", "/proc/self/status")
	w.end(w.start())
	w.waitLog("THP_enabled:\t1")
}

// TestScratchIsClosed: a container's files have whatever modes it gives them,
// and on the host nobody may come near them, the submitter included: there a
// setuid file is one.
func TestScratchIsClosed(t *testing.T) {
	w := newWorld(t, sh("echo secret > /file && chmod 666 /file && echo up && sleep 1000")...)
	p := w.start()
	w.waitLog("up")
	work := w.request.Grant.WorkDir
	if err := os.Chmod(work, 0o711); err != nil { // scratch must not rely on it
		t.Fatal(err)
	}
	file := filepath.Join(work, "space", "scratch", "upper", "file")
	// The runner alone has it mounted.
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", p.Process.Pid, file)); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(work, "space")); err != nil || len(left) > 0 {
		t.Errorf("the machine sees %v, %v", left, err)
	}
	for _, dir := range []string{work + "/space", work + "/space/scratch"} {
		if fi, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", p.Process.Pid, dir)); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
	for _, uid := range []uint32{submitter, submitter + 1} {
		cmd := exec.Command("/bin/cat", file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("user %d reads it: %q", uid, out)
		}
	}
	w.cancel(attempt.Cancel{Outcome: attempt.OutcomeCanceled})
	w.end(p)
}

func TestLockedAttempt(t *testing.T) {
	w := newWorld(t, "true")
	lock, err := w.dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	p := w.start()
	if err := p.Wait(); err == nil || !strings.Contains(p.stderr.String(), attempt.ErrLocked.Error()) {
		t.Errorf("a runner ran a locked attempt: %v, %s", err, p.stderr.String())
	}
}

func TestBadRequest(t *testing.T) {
	w := newWorld(t, "true")
	if err := os.WriteFile(filepath.Join(w.dir.Path(), "request.json"), []byte(`{"version":1,"surprise":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", Command, "--directory", w.dir.Path())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	exit, err := w.dir.ReadExit()
	if err != nil {
		t.Fatal(err)
	}
	w.want(exit, attempt.OutcomeError, attempt.CodeError, "surprise")
}

func TestLogCap(t *testing.T) {
	w := newWorld(t, sh("head -c 3000000 /dev/zero; echo done >&2")...)
	w.request.Resources.Log = 100000
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	if exit.LogBytes != 100000 || exit.LogDropped != 3000000+5-100000 {
		t.Errorf("log of %d bytes, %d dropped", exit.LogBytes, exit.LogDropped)
	}
	if !strings.HasSuffix(w.log(), fmt.Sprintf("[3:[the log is full at 100000 bytes: %d bytes of output were dropped]\n]", exit.LogDropped)) {
		t.Errorf("no marker at the end of the log")
	}
}

// TestFullDisk: the state directory is full while the container writes. It is
// drained all the same, and how it ended is on the disk.
func TestFullDisk(t *testing.T) {
	w := newWorld(t, sh("echo before; while [ ! -e /in/full ]; do usleep 1000; done; head -c 3000000 /dev/zero; exit 4")...)
	disk := filepath.Join(w.state, "jobs")
	if err := os.RemoveAll(disk); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	if err := w.dir.Create(0); err != nil {
		t.Fatal(err)
	}
	w.request.Plan.Binds = []transforms.Bind{{Source: w.files, Target: "/in"}}
	p := w.start()
	w.waitLog("before")
	f, err := os.Create(filepath.Join(disk, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	f.Close()
	w.file("full", nil)
	exit := w.end(p)
	w.want(exit, attempt.OutcomeExited, 4, "")
	if exit.LogBytes+exit.LogDropped != 3000007 || exit.LogDropped == 0 {
		t.Errorf("log of %d bytes, %d dropped", exit.LogBytes, exit.LogDropped)
	}
}

func TestWarm(t *testing.T) {
	w := newWorld(t, sh("echo warm")...)
	if err := w.dir.WriteRequest(w.request); err != nil {
		t.Fatal(err)
	}
	lock, err := w.dir.Lock()
	if err != nil {
		t.Fatal(err)
	}
	p, socket := startWarm(t)
	if err := attempt.SendStart(socket, w.dir, lock); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	socket.Close()
	w.want(w.end(p), attempt.OutcomeExited, 0, "")
	if w.log() != "warm\n" {
		t.Errorf("log is %q", w.log())
	}
}

func TestWarmNotNeeded(t *testing.T) {
	for name, end := range map[string]func(*process, *os.File) error{
		"socket closed": func(_ *process, socket *os.File) error { return socket.Close() },
		"shutdown":      func(p *process, _ *os.File) error { return p.Process.Signal(syscall.SIGTERM) },
	} {
		t.Run(name, func(t *testing.T) {
			p, socket := startWarm(t)
			defer socket.Close()
			p.waitUntilWarm(t)
			if err := end(p, socket); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(); err != nil || p.stderr.Len() > 0 {
				t.Errorf("a runner that was not needed: %v, %q", err, p.stderr.String())
			}
		})
	}
}

// waitUntilWarm returns when the runner has given its socket to the poller,
// which comes after it catches signals.
func (p *process) waitUntilWarm(t testing.TB) {
	t.Helper()
	for {
		descriptors, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.Process.Pid))
		for _, d := range descriptors {
			if to, _ := os.Readlink(d); to != "anon_inode:[eventpoll]" {
				continue
			}
			watched, _ := os.ReadFile(strings.Replace(d, "/fd/", "/fdinfo/", 1))
			if regexp.MustCompile(`(?m)^tfd: +3 `).Match(watched) {
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func TestStreams(t *testing.T) {
	w := newWorld(t, sh(`cat > /tmp/stdin; cd `+transforms.PipeDirectory+`; cat in1 in2 > out1; cat /tmp/stdin > out2; echo a > out3; echo b > out3`)...)
	data := map[string][]byte{"in1": random(5<<20 + 17), "in2": random(300), "stdin": random(2<<20 + 3)}
	w.stream(transforms.StreamInput, "in1", w.file("in1", data["in1"]))
	w.stream(transforms.StreamInput, "in2", w.file("in2", data["in2"]))
	w.stream(transforms.StreamStdin, "stdin", w.file("stdin", data["stdin"]))
	data["out1"] = append(bytes.Clone(data["in1"]), data["in2"]...)
	data["out2"] = data["stdin"]
	data["out3"] = []byte("a\nb\n")
	w.file("out2", random(9<<20)) // an older file, and longer
	for _, name := range []string{"out1", "out2", "out3"} {
		w.stream(transforms.StreamOutput, name, filepath.Join(w.files, name))
	}
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	for name, want := range data {
		sum := sha256.Sum256(want)
		s := streamNamed(t, exit, name)
		if s.Bytes != int64(len(want)) || s.SHA256 != hex.EncodeToString(sum[:]) || s.Partial || s.Error != "" {
			t.Errorf("stream %+v, want %d bytes", s, len(want))
		}
		if strings.HasPrefix(name, "out") {
			path := filepath.Join(w.files, name)
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
			}
			var st unix.Stat_t
			if err := unix.Stat(path, &st); err != nil || st.Uid != submitter || st.Gid != group {
				t.Errorf("%s belongs to %d:%d", name, st.Uid, st.Gid)
			}
			if name != "out2" && st.Mode&0o777 != 0o644 {
				t.Errorf("%s has mode %o", name, st.Mode&0o777)
			}
		}
	}
}

// TestBrokenInput: a source that fails must not look to the container like its
// end. The speed of the loopback interface can be opened and not read.
func TestBrokenInput(t *testing.T) {
	w := newWorld(t, sh("cat "+transforms.PipeDirectory+"/in && echo complete; sleep 1000")...)
	w.stream(transforms.StreamInput, "in", "/sys/class/net/lo/speed")
	w.want(w.run(), attempt.OutcomeError, attempt.CodeError, "input in broke off")
	if strings.Contains(w.log(), "complete") {
		t.Error("the container took a broken input for a whole one")
	}
}

// TestTransferKilled: whoever kills the process that moves the data, the
// kernel's OOM killer first of all, must not leave a job that waits for ever, or
// one that counts as well without its data.
func TestTransferKilled(t *testing.T) {
	for _, kind := range []transforms.StreamKind{transforms.StreamInput, transforms.StreamOutput} {
		t.Run(string(kind), func(t *testing.T) {
			pipe := transforms.PipeDirectory + "/pipe"
			w := newWorld(t, sh("echo up; while :; do usleep 10000; cat "+pipe+" || exit 0; done")...)
			if kind == transforms.StreamOutput {
				w.request.Plan.Args = sh("echo up; while :; do usleep 10000; echo more > " + pipe + "; done")
			}
			w.stream(kind, "pipe", w.file("file", random(10)))
			w.request.Limits.Hard = time.Minute // lest the test wait for ever
			p := w.start()
			w.waitLog("up")
			if err := unix.Kill(transferOf(t, p.Process.Pid), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			exit := w.end(p)
			w.want(exit, attempt.OutcomeInterrupted, attempt.CodeError, "the process for the job's files died")
			if !exit.Lost {
				t.Error("it does not count as lost")
			}
			if s := streamNamed(t, exit, "pipe"); !s.Partial || s.Error == "" {
				t.Errorf("stream %+v", s)
			}
		})
	}
}

// transferOf finds the transfer process of a runner.
func transferOf(t *testing.T, runner int) int {
	t.Helper()
	pid := childOf(t, runner, TransferCommand)
	if pid == 0 {
		t.Fatal("the runner has no transfer process")
	}
	return pid
}

func TestPartialInput(t *testing.T) {
	w := newWorld(t, sh("head -c 10 "+transforms.PipeDirectory+"/in >/dev/null")...)
	w.stream(transforms.StreamInput, "in", w.file("in", random(8<<20)))
	w.stream(transforms.StreamInput, "unused", w.file("unused", random(10)))
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	for _, name := range []string{"in", "unused"} {
		if s := streamNamed(t, exit, name); !s.Partial || s.Error != "" {
			t.Errorf("stream %+v", s)
		}
		if !strings.Contains(w.notes(), "input "+name+": the container did not read all of it") {
			t.Errorf("notes are %q", w.notes())
		}
	}
}

func TestPipesAreSafe(t *testing.T) {
	w := newWorld(t, sh(`cd `+transforms.PipeDirectory+`
rm -f out && echo removed
mv out other && echo moved
mkfifo new && echo made
chmod 777 . && echo changed
echo fine > out`)...)
	out := filepath.Join(w.files, "out")
	w.stream(transforms.StreamOutput, "out", out)
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	if got, _ := os.ReadFile(out); string(got) != "fine\n" {
		t.Errorf("output is %q", got)
	}
	for _, did := range []string{"removed", "moved", "made", "changed"} {
		if strings.Contains(w.log(), did) {
			t.Errorf("the container %s: %s", did, w.log())
		}
	}
}

// TestFullOutput: an output that cannot be stored fails the job, and lets the
// container go on.
func TestFullOutput(t *testing.T) {
	w := newWorld(t, sh("head -c 5000000 /dev/zero > "+transforms.PipeDirectory+"/out && echo through")...)
	disk := filepath.Join(w.files, "disk")
	if err := os.Mkdir(disk, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	}()
	w.stream(transforms.StreamOutput, "out", filepath.Join(disk, "out"))
	exit := w.run()
	w.want(exit, attempt.OutcomeError, attempt.CodeError, "no space left on device")
	if w.log() != "through\n" {
		t.Errorf("log is %q", w.log())
	}
}

func TestProgress(t *testing.T) {
	w := newWorld(t, sh(`for i in 1 2 3; do echo "{\"total\":3,\"current\":$i,\"message\":\"step $i\"}" > "$GIRDER_WORKER_PROGRESS"; done; echo junk > "$GIRDER_WORKER_PROGRESS"`)...)
	w.stream(transforms.StreamProgress, "progress", "")
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	var last *attempt.Progress
	for _, e := range w.events() {
		if e.Progress != nil {
			last = e.Progress
		}
	}
	if last == nil || *last != (attempt.Progress{Total: 3, Current: 3, Message: "step 3"}) {
		t.Errorf("last progress is %+v", last)
	}
	if !strings.Contains(w.notes(), "1 lines were not progress") {
		t.Errorf("notes are %q", w.notes())
	}
}

// TestProgressIsLive: progress is told while the container runs.
func TestProgressIsLive(t *testing.T) {
	w := newWorld(t, sh(`echo '{"total":2,"current":1}' > "$GIRDER_WORKER_PROGRESS"; while [ ! -e /in/seen ]; do usleep 1000; done`)...)
	w.request.Plan.Binds = []transforms.Bind{{Source: w.files, Target: "/in"}}
	w.stream(transforms.StreamProgress, "progress", "")
	p := w.start()
	watcher, err := attempt.NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	r, err := w.dir.Events(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for e, err := range r.Follow(t.Context(), watcher) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Progress != nil {
			if e.Progress.Current != 1 {
				t.Errorf("progress is %+v", e.Progress)
			}
			w.file("seen", nil)
		}
	}
	w.want(w.end(p), attempt.OutcomeExited, 0, "")
}

// TestStreamsAreNoIdleness: a job that only writes its output pipe is at work.
func TestStreamsAreNoIdleness(t *testing.T) {
	w := newWorld(t, sh(`for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo $i; usleep 250000; done > `+transforms.PipeDirectory+`/out`)...)
	w.request.Limits.Idle = 2 * time.Second
	w.stream(transforms.StreamOutput, "out", filepath.Join(w.files, "out"))
	w.want(w.run(), attempt.OutcomeExited, 0, "")
}

// TestBadFiles: what cannot be a stream's file is refused before the container
// starts, by name and with the reason.
func TestBadFiles(t *testing.T) {
	for _, test := range []struct {
		name string
		kind transforms.StreamKind
		make func(w *world) string
		text string
	}{
		{"no input", transforms.StreamInput, func(w *world) string { return filepath.Join(w.files, "missing") }, "missing: there is no such file"},
		{"directory as input", transforms.StreamInput, func(w *world) string { return w.files }, "it is a directory"},
		{"directory as output", transforms.StreamOutput, func(w *world) string { return w.files }, "it is a directory"},
		{"FIFO as input", transforms.StreamInput, func(w *world) string { return w.fifo("pipe") }, "it is a named pipe"},
		{"FIFO as output", transforms.StreamOutput, func(w *world) string { return w.fifo("pipe") }, "it is a named pipe"},
		{"FIFO as stdin", transforms.StreamStdin, func(w *world) string { return w.fifo("pipe") }, "it is a named pipe"},
		{"device as input", transforms.StreamInput, func(*world) string { return "/dev/zero" }, "it is a device"},
		{"device as output", transforms.StreamOutput, func(*world) string { return "/dev/null" }, "it is a device"},
		{"socket as input", transforms.StreamInput, func(w *world) string { return w.socket("sock") }, "it is a socket"},
		{"link to a FIFO", transforms.StreamInput, func(w *world) string {
			link := filepath.Join(w.files, "link")
			if err := os.Symlink(w.fifo("pipe"), link); err != nil {
				w.t.Fatal(err)
			}
			return link
		}, "it is a named pipe"},
		{"root's input", transforms.StreamInput, func(*world) string { return "/etc/shadow" }, "no permission"},
		{"root's output", transforms.StreamOutput, func(*world) string { return "/etc/passwd" }, "no permission"},
		{"output in root's directory", transforms.StreamOutput, func(*world) string { return "/etc/runner-test" }, "no permission"},
		{"the process's own descriptors", transforms.StreamInput, func(*world) string { return "/proc/self/fd/3" }, "cannot read input"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, sh("echo started")...)
			w.stream(test.kind, "s", test.make(w))
			exit := w.run()
			w.want(exit, attempt.OutcomeError, attempt.CodeError, test.text)
			if exit.Container != nil || w.log() != "" {
				t.Error("the container started")
			}
		})
	}
}

func (w *world) fifo(name string) string {
	w.t.Helper()
	p := filepath.Join(w.files, name)
	if err := unix.Mkfifo(p, 0o666); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Chmod(p, 0o666); err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) socket(name string) string {
	w.t.Helper()
	p := filepath.Join(w.files, name)
	if err := unix.Mknod(p, unix.S_IFSOCK|0o666, 0); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// TestSameFile: an output that is also an input is not emptied.
func TestSameFile(t *testing.T) {
	for _, first := range []transforms.StreamKind{transforms.StreamInput, transforms.StreamOutput} {
		w := newWorld(t, sh("echo started")...)
		file := w.file("data", []byte("precious"))
		w.stream(first, "a", file)
		if err := os.Link(file, file+"-link"); err != nil {
			t.Fatal(err)
		}
		w.stream(transforms.StreamOutput, "b", file+"-link")
		w.want(w.run(), attempt.OutcomeError, attempt.CodeError, "it is also the file of stream a")
		if got, _ := os.ReadFile(file); string(got) != "precious" {
			t.Errorf("the file is %q", got)
		}
	}
}

func TestBinds(t *testing.T) {
	w := newWorld(t, sh("cat /in; echo more > /out/made; echo x > /in && echo wrote")...)
	out := filepath.Join(w.files, "out")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(out, submitter, group); err != nil {
		t.Fatal(err)
	}
	w.request.Plan.Binds = []transforms.Bind{
		{Source: w.file("in", []byte("content\n")), Target: "/in", ReadOnly: true},
		{Source: out, Target: "/out"},
	}
	w.want(w.run(), attempt.OutcomeExited, 1, "")
	if got := w.log(); !strings.HasPrefix(got, "content\n") || strings.Contains(got, "wrote") {
		t.Errorf("log is %q", got)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(out, "made"), &st); err != nil || st.Uid != submitter || st.Gid != group {
		t.Errorf("the file made is %d:%d's, %v", st.Uid, st.Gid, err)
	}
}

func TestBindRefused(t *testing.T) {
	w := newWorld(t, sh("echo started")...)
	closed := filepath.Join(w.files, "closed")
	if err := os.Mkdir(closed, 0o700); err != nil { // root's
		t.Fatal(err)
	}
	inner := filepath.Join(closed, "inner")
	if err := os.Mkdir(inner, 0o777); err != nil {
		t.Fatal(err)
	}
	w.request.Plan.Binds = []transforms.Bind{{Source: inner, Target: "/in"}}
	w.want(w.run(), attempt.OutcomeError, attempt.CodeError, "no permission")
}

// TestUser: whoever the container runs as is the submitter on the host.
func TestUser(t *testing.T) {
	for _, user := range []string{"", "lab", "1234", "1234:77", "root"} {
		t.Run(user, func(t *testing.T) {
			w := newWorld(t, sh("id -u; id -g; echo $HOME; touch /out/made")...)
			w.request.Plan.User = user
			w.request.Plan.Binds = []transforms.Bind{{Source: w.files, Target: "/out"}}
			w.want(w.run(), attempt.OutcomeExited, 0, "")
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(w.files, "made"), &st); err != nil || st.Uid != submitter || st.Gid != group {
				t.Errorf("the file made is %d:%d's, %v; container says %q", st.Uid, st.Gid, err, w.log())
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	w := newWorld(t, sh("echo $A $PATH $(pwd) $(hostname)")...)
	w.request.Plan.Env = []string{"A=one", "PATH=/bin:/else"}
	w.request.Plan.Cwd = "/made/for/it"
	w.request.Plan.Hostname = "box"
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	if got, want := w.log(), "one /bin:/else /made/for/it box\n"; got != want {
		t.Errorf("log is %q, want %q", got, want)
	}
}

// TestHostileTree: what a container leaves in its root is removed.
func TestHostileTree(t *testing.T) {
	w := newWorld(t, sh("cd /tmp; mkdir a; ln -s / a/root; mkfifo a/p; touch a/f; chmod 0 a/f; i=0; while [ $i -lt 300 ]; do mkdir d; cd d; i=$((i+1)); done; chmod 0 /tmp/a; chmod 0 /tmp/d")...)
	w.want(w.run(), attempt.OutcomeExited, 0, "")
}

func TestMissingImage(t *testing.T) {
	w := newWorld(t, "true")
	w.request.ImageID = "sha256:" + strings.Repeat("0", 64)
	w.want(w.run(), attempt.OutcomeError, attempt.CodeError, "cannot use image busybox")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"--directory", "/x", "--warm-fd", "3"}, {"--nonsense"}, {"--directory", "relative"}, {"--directory", "/a/jobs/b/1", "more"}} {
		cmd := exec.Command("/proc/self/exe", append([]string{Command}, args...)...)
		if err := cmd.Run(); err == nil {
			t.Errorf("runner %v succeeded", args)
		}
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}
