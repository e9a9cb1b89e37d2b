package attempt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
	"girderworker/transforms"
)

// newDir is a fresh attempt's directory, made.
func newDir(t testing.TB) Dir {
	t.Helper()
	return newDirIn(t, t.TempDir())
}

func newDirIn(t testing.TB, state string) Dir {
	t.Helper()
	d, err := NewDir(state, "job-1", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(state, "jobs"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := d.Create(os.Getgid()); err != nil {
		t.Fatal(err)
	}
	return d
}

// tinyDisk is a tmpfs of so many bytes.
func tinyDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatalf("cannot mount a tmpfs (this test needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes until a disk is full.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

func goodRequest(d Dir) *Request {
	return &Request{
		Version: Version, Job: d.Job(), Attempt: d.Number(),
		Identity:  Identity{UID: 1000, GID: 1000, Groups: []int{1000, 27}},
		ImageID:   "sha256:" + strings.Repeat("0a", 32),
		Resources: Resources{CPUs: 1, Memory: 1 << 30, PIDs: 100, Shm: 1 << 20, Log: 1 << 20},
		Plan: transforms.Plan{
			Image: "busybox", Args: []string{"true"}, Env: []string{"A=b"},
			Binds: []transforms.Bind{{Source: "/data", Target: "/in", ReadOnly: true}},
			Streams: []transforms.Stream{
				{Name: "scan", Kind: transforms.StreamInput, File: "/data/scan.tif", Path: transforms.PipeDirectory + "/scan"},
				{Name: "stdin", Kind: transforms.StreamStdin, File: "/data/list"},
				{Name: "progress", Kind: transforms.StreamProgress, Path: transforms.PipeDirectory + "/progress"},
			},
		},
		Grant: Grant{
			UIDMappings: []sandbox.IDMapping{{ContainerID: 0, HostID: 1000, Size: 1}},
			WorkDir:     "/state/work/" + d.ID(), ImageDir: "/state/images", GroupID: os.Getgid(),
		},
	}
}

func TestDirNames(t *testing.T) {
	d, err := NewDir("/var/lib/x", "a.b_c-1", 12)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := d.Path(), "/var/lib/x/jobs/a.b_c-1/12"; got != want {
		t.Errorf("Path() = %s, want %s", got, want)
	}
	if got, want := d.ID(), "a.b_c-1-12"; got != want {
		t.Errorf("ID() = %s, want %s", got, want)
	}
	back, err := ParseDir(d.Path())
	if err != nil || back != d {
		t.Errorf("ParseDir(Path()) = %+v, %v", back, err)
	}
	work, err := WorkDir("/var/lib/x", "a.b_c-1", 12)
	if want := "/var/lib/x/work/a.b_c-1-12"; err != nil || work != want {
		t.Errorf("WorkDir = %s, %v, want %s", work, err, want)
	}
	for _, job := range []string{"", ".", "..", "-a", ".a", "_a", "a/b", "a\x00", "a b", "ä", strings.Repeat("a", 81)} {
		if _, err := NewDir("/s", job, 1); !errors.Is(err, ErrInvalid) {
			t.Errorf("job id %q: %v, want ErrInvalid", job, err)
		}
	}
	for _, path := range []string{"", "/", "/s/jobs/a", "/s/jobs/a/0", "/s/jobs/a/01", "/s/jobs/a/-1", "/s/jobs/a/1/", "/s/work/a/1", "s/jobs/a/1", "/s/jobs/../jobs/a/1"} {
		if _, err := ParseDir(path); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseDir(%q): %v, want ErrInvalid", path, err)
		}
	}
}

func TestCreateTwice(t *testing.T) {
	d := newDir(t)
	if err := d.Create(os.Getgid()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v, want ErrExist", err)
	}
}

func TestRequest(t *testing.T) {
	d := newDir(t)
	want := goodRequest(d)
	if err := d.WriteRequest(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.ReadRequest()
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if !bytes.Equal(a, b) {
		t.Errorf("read %s\nwrote %s", b, a)
	}

	for name, change := range map[string]func(*Request){
		"version":         func(r *Request) { r.Version = 0 },
		"other job":       func(r *Request) { r.Job = "other" },
		"root":            func(r *Request) { r.Identity.UID = 0 },
		"negative group":  func(r *Request) { r.Identity.Groups[1] = -1 },
		"image id":        func(r *Request) { r.ImageID = "sha256:../x" },
		"work dir":        func(r *Request) { r.Grant.WorkDir = "/state/work/../work/job-1-1" },
		"other work dir":  func(r *Request) { r.Grant.WorkDir = "/state/work/job-2-1" },
		"negative limit":  func(r *Request) { r.Limits.Idle = -1 },
		"negative memory": func(r *Request) { r.Resources.Memory = -1 },
		"relative bind":   func(r *Request) { r.Plan.Binds[0].Source = "data" },
		"bind over root":  func(r *Request) { r.Plan.Binds[0].Target = "/" },
		"dotted bind":     func(r *Request) { r.Plan.Binds[0].Target = "/a/../b" },
		"NUL in args":     func(r *Request) { r.Plan.Args = []string{"a\x00b"} },
		"environment":     func(r *Request) { r.Plan.Env = []string{"=x"} },
		"stream name":     func(r *Request) { r.Plan.Streams[0].Name = "../x" },
		"stream path":     func(r *Request) { r.Plan.Streams[0].Path = transforms.PipeDirectory + "/other" },
		"stream kind":     func(r *Request) { r.Plan.Streams[0].Kind = "other" },
		"stream file":     func(r *Request) { r.Plan.Streams[0].File = "scan.tif" },
		"no stream file":  func(r *Request) { r.Plan.Streams[0].File = "" },
		"progress file":   func(r *Request) { r.Plan.Streams[2].File = "/x" },
		"twice a name":    func(r *Request) { r.Plan.Streams = append(r.Plan.Streams, r.Plan.Streams[0]) },
		"mapping":         func(r *Request) { r.Grant.UIDMappings[0].Size = 0 },
		"signal":          func(r *Request) { r.Plan.StopSignal = 65 },
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRequest(d)
			change(r)
			if err := d.WriteRequest(r); !errors.Is(err, ErrInvalid) {
				t.Errorf("WriteRequest: %v, want ErrInvalid", err)
			}
		})
	}
}

func TestRequestIsStrict(t *testing.T) {
	d := newDir(t)
	good, _ := json.Marshal(goodRequest(d))
	for _, test := range []struct {
		name, content string
		want          error
	}{
		{"unknown field", strings.Replace(string(good), `{"version":1`, `{"version":1,"no_new_privs":false`, 1), ErrInvalid},
		{"newer", strings.Replace(string(good), `{"version":1`, `{"version":2,"new":1`, 1), ErrVersion},
		{"two documents", string(good) + "{}", ErrInvalid},
		{"cut", string(good[:len(good)-1]), ErrInvalid},
		{"empty", "", ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := os.WriteFile(d.file(requestName), []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := d.ReadRequest(); !errors.Is(err, test.want) {
				t.Errorf("ReadRequest: %v, want %v", err, test.want)
			}
		})
	}
}

func TestLock(t *testing.T) {
	d := newDir(t)
	if locked, err := d.Locked(); locked || err != nil {
		t.Fatalf("Locked before any = %v, %v", locked, err)
	}
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	if locked, err := d.Locked(); !locked || err != nil {
		t.Errorf("Locked = %v, %v, want true", locked, err)
	}
	if _, err := d.Lock(); !errors.Is(err, ErrLocked) {
		t.Errorf("second Lock: %v, want ErrLocked", err)
	}
	// A copy of the descriptor holds the lock on its own.
	fd, err := unix.FcntlInt(lock.File().Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	copied, err := d.AdoptLock(os.NewFile(uintptr(fd), "copy"))
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if locked, _ := d.Locked(); !locked {
		t.Error("the lock went with the first of two copies")
	}
	copied.Close()
	if locked, _ := d.Locked(); locked {
		t.Error("the lock outlived both copies")
	}

	// A descriptor of the right file that does not hold the lock is refused
	// while another holds it; one of another file always.
	holder, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	f, err := os.OpenFile(d.file(lockName), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.AdoptLock(f); !errors.Is(err, ErrLocked) {
		t.Errorf("adopting a descriptor without the lock: %v, want ErrLocked", err)
	}
	other, err := os.Create(filepath.Join(t.TempDir(), "other"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.AdoptLock(other); !errors.Is(err, ErrInvalid) {
		t.Errorf("adopting another file: %v, want ErrInvalid", err)
	}
}

func TestExit(t *testing.T) {
	d := newDir(t)
	if _, err := d.ReadExit(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("ReadExit before: %v, want ErrNotExist", err)
	}
	if err := d.SyncExit(); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("SyncExit before: %v, want ErrNotExist", err)
	}
	f, err := d.ReserveExit(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	if ended, err := d.Ended(); ended || err != nil {
		t.Errorf("Ended while reserved = %v, %v", ended, err)
	}
	if _, err := d.ReserveExit(os.Getgid()); !errors.Is(err, ErrBegun) {
		t.Errorf("ReserveExit twice: %v, want ErrBegun", err)
	}
	want := Exit{
		Outcome: OutcomeExited, Code: 3, Error: strings.Repeat("é", maxErrorText),
		Container: &sandbox.Exit{Code: 3, Usage: sandbox.Usage{CPU: time.Second}},
	}
	if err := f.Commit(want); err != nil {
		t.Fatal(err)
	}
	if err := d.SyncExit(); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(d.file(exitName), &st); err != nil || st.Blocks*512 >= exitReserve {
		t.Errorf("exit.json still takes %d bytes of the disk, %v", st.Blocks*512, err)
	}
	got, err := d.ReadExit()
	if err != nil {
		t.Fatal(err)
	}
	if got.Code != 3 || got.Job != "job-1" || got.Attempt != 1 || got.Version != Version || got.Container.Usage.CPU != time.Second {
		t.Errorf("read %+v", got)
	}
	if len(got.Error) > maxErrorText || !strings.HasSuffix(got.Error, "é [...]") {
		t.Errorf("long error became %d bytes ending in %q", len(got.Error), got.Error[len(got.Error)-10:])
	}
	if _, err := d.ReserveExit(os.Getgid()); !errors.Is(err, ErrEnded) {
		t.Errorf("ReserveExit after the end: %v, want ErrEnded", err)
	}
}

// A loss of power right after exit.json got its name leaves any part of its content,
// and zeros of its reserve after it.
func TestExitTorn(t *testing.T) {
	d := newDir(t)
	f, err := d.ReserveExit(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Commit(Exit{Outcome: OutcomeExited, Code: 3}), f.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(d.file(exitName))
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, exitReserve)
	for name, torn := range map[string][]byte{
		"empty":             {},
		"zeros":             zeros,
		"cut":               whole[:len(whole)-1],
		"zeros for its end": append(slices.Clone(whole[:len(whole)/2]), zeros[:len(whole)-len(whole)/2]...),
		"zeros behind it":   append(slices.Clone(whole), zeros[len(whole):]...),
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(d.file(exitName), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			if ended, err := d.Ended(); ended || err != nil {
				t.Errorf("Ended = %v, %v", ended, err)
			}
			if _, err := d.ReadExit(); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("ReadExit: %v, want ErrNotExist", err)
			}
		})
	}
}

func TestExitOnAFullDisk(t *testing.T) {
	state := tinyDisk(t, 1<<20)
	d := newDirIn(t, state)
	f, err := d.ReserveExit(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	fill(t, state)
	exit := Exit{Outcome: OutcomeExited, Code: 7}
	for i := range maxStreams {
		exit.Streams = append(exit.Streams, StreamResult{Name: fmt.Sprint(i), Error: strings.Repeat("x", 2*maxErrorText)})
	}
	if err := f.Commit(exit); err != nil {
		t.Fatal(err)
	}
	if got, err := d.ReadExit(); err != nil || got.Code != 7 || len(got.Streams) != maxStreams {
		t.Errorf("read %d with %d streams, %v", got.Code, len(got.Streams), err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCannotReserve(t *testing.T) {
	state := tinyDisk(t, 1<<20)
	d := newDirIn(t, state)
	fill(t, state)
	if _, err := d.ReserveExit(os.Getgid()); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("ReserveExit on a full disk: %v, want ENOSPC", err)
	}
	if _, err := os.Lstat(d.file(exitTemp)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a failed reservation left its file: %v", err)
	}
}

func TestEventsReserve(t *testing.T) {
	state := tinyDisk(t, 1<<20)
	d := newDirIn(t, state)
	w, err := d.CreateEvents(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fill(t, state)
	for _, e := range []Event{{Stage: "running"}, {Started: &Started{PID: 1}}, {Done: &Done{}}} {
		if err := w.Append(e); err != nil {
			t.Errorf("cannot append %+v on a full disk: %v", e, err)
		}
	}
}

func TestCancels(t *testing.T) {
	d := newDir(t)
	ctx, stop := context.WithCancel(t.Context())
	cancels := d.Cancels(ctx)
	next := func(want Cancel) {
		t.Helper()
		for c := range cancels {
			if c == want {
				return
			}
		}
		t.Fatalf("the channel closed without %+v", want)
	}
	for _, c := range []Cancel{
		{Outcome: OutcomeCanceled, Reason: "by alice", Grace: time.Minute},
		{Outcome: OutcomeCanceled, Reason: "now", Grace: -1},
	} {
		if err := d.WriteCancel(c); err != nil {
			t.Fatal(err)
		}
		next(c)
	}
	// One that was there before the runner looks.
	next2 := d.Cancels(ctx)
	if c := <-next2; c.Reason != "now" {
		t.Errorf("first cancel = %+v", c)
	}
	// One that cannot be read cancels as well.
	if err := replaceFile(d.file(cancelName), []byte("{"), -1); err != nil {
		t.Fatal(err)
	}
	for c := range cancels {
		if c.Reason != "now" {
			if c.Outcome != OutcomeCanceled || c.Reason == "" {
				t.Errorf("unreadable cancel = %+v", c)
			}
			break
		}
	}
	stop()
	for range cancels {
	}
	for range next2 {
	}
}

func TestWarm(t *testing.T) {
	d := newDir(t)
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	monitor, runner, err := WarmPair()
	if err != nil {
		t.Fatal(err)
	}
	defer runner.Close()
	type result struct {
		dir  Dir
		lock *Lock
		err  error
	}
	got := make(chan result)
	go func() {
		dir, lock, err := ReceiveStart(runner)
		got <- result{dir, lock, err}
		dir, lock, err = ReceiveStart(runner)
		got <- result{dir, lock, err}
	}()
	sent := make(chan error)
	go func() { sent <- SendStart(monitor, d, lock) }()
	r := <-got
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if r.err != nil || r.dir != d {
		t.Fatalf("received %+v", r)
	}
	lock.Close()
	if locked, err := d.Locked(); !locked || err != nil {
		t.Errorf("the lock did not go over: %v, %v", locked, err)
	}
	r.lock.Close()

	// The socket's end is the runner's end, without an error of its own.
	monitor.Close()
	if r := <-got; !errors.Is(r.err, io.EOF) {
		t.Errorf("after the socket closed: %v, want EOF", r.err)
	}
}

func TestWarmRefuses(t *testing.T) {
	d := newDir(t)
	lock, err := d.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	good := fmt.Sprintf(`{"version":1,"directory":%q}`, d.Path())
	for _, test := range []struct {
		name, msg string
		rights    []int
		want      error
	}{
		{"no lock", good, nil, ErrInvalid},
		{"two descriptors", good, []int{int(lock.f.Fd()), int(lock.f.Fd())}, ErrInvalid},
		{"another file", good, []int{0}, ErrInvalid},
		{"newer", `{"version":2}`, []int{int(lock.f.Fd())}, ErrVersion},
		{"not JSON", `x`, []int{int(lock.f.Fd())}, ErrInvalid},
		{"path", `{"version":1,"directory":"/etc"}`, []int{int(lock.f.Fd())}, ErrInvalid},
		{"too long", strings.Repeat(" ", maxStart+1), []int{int(lock.f.Fd())}, ErrInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			monitor, runner, err := WarmPair()
			if err != nil {
				t.Fatal(err)
			}
			defer runner.Close()
			defer monitor.Close()
			var rights []byte
			if test.rights != nil {
				rights = unix.UnixRights(test.rights...)
			}
			if err := unix.Sendmsg(int(monitor.Fd()), []byte(test.msg), rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			if _, _, err := ReceiveStart(runner); !errors.Is(err, test.want) {
				t.Errorf("ReceiveStart: %v, want %v", err, test.want)
			}
		})
	}
}

func TestRemoveWork(t *testing.T) {
	outside := t.TempDir()
	keep := filepath.Join(outside, "keep")
	if err := os.WriteFile(keep, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	work := filepath.Join(t.TempDir(), "work")
	make := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	make(os.MkdirAll(filepath.Join(work, "a", "b"), 0o755))
	make(os.Symlink(outside, filepath.Join(work, "a", "link")))
	make(os.Symlink("/", filepath.Join(work, "root")))
	make(unix.Mkfifo(filepath.Join(work, "a", "fifo"), 0o600))
	make(os.WriteFile(filepath.Join(work, "a", "b", "f"), nil, 0))
	make(os.Chmod(filepath.Join(work, "a", "b"), 0))
	for i := range 3000 { // more than one batch of names
		make(os.WriteFile(filepath.Join(work, "a", fmt.Sprintf("a-rather-long-name-%d", i)), nil, 0o600))
	}
	// Deeper than any path name or descriptor table allows.
	makeDeep(t, work, 20000)

	if err := RemoveWork(work); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(work); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the work directory is still there: %v", err)
	}
	if _, err := os.Lstat(keep); err != nil {
		t.Errorf("a file beyond a link is gone: %v", err)
	}
	if err := RemoveWork(work); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
}

// makeDeep makes a directory in a directory in a directory.
func makeDeep(t *testing.T, dir string, levels int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range levels {
		if err == nil {
			err = unix.Mkdirat(fd, "deep", 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
		var next int
		next, err = unix.Openat(fd, "deep", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		fd = next
	}
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
}

// TestRemoveWorkInterrupted: a signal, as the runtime sends itself, cuts short what is
// read of a directory, and that is not its end.
func TestRemoveWorkInterrupted(t *testing.T) {
	work := filepath.Join(t.TempDir(), "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	makeDeep(t, work, 2000)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, tid := os.Getpid(), unix.Gettid()
	stop, stopped := context.WithCancel(t.Context())
	var signals sync.WaitGroup
	signals.Go(func() {
		for ; stop.Err() == nil; time.Sleep(20 * time.Microsecond) {
			_ = unix.Tgkill(pid, tid, unix.SIGURG)
		}
	})
	err := RemoveWork(work)
	stopped()
	signals.Wait()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRemoveWorkLeavesMounts(t *testing.T) {
	work := filepath.Join(t.TempDir(), "work")
	inner := filepath.Join(work, "mounted")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(inner, 0)
	if err := os.WriteFile(filepath.Join(inner, "keep"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RemoveWork(work); err == nil {
		t.Error("removed a tree with a mount in it")
	}
	if _, err := os.Lstat(filepath.Join(inner, "keep")); err != nil {
		t.Errorf("a file on another mount is gone: %v", err)
	}
}

// TestOwnedFromBirth: the front finds nothing closed to it that it will read, in
// directories of this release and of those whose files do not inherit their group.
func TestOwnedFromBirth(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can give files away")
	}
	const gid = 54321
	for _, mode := range []os.FileMode{dirMode, 0o750} {
		state := t.TempDir()
		if err := os.Mkdir(filepath.Join(state, "jobs"), 0o700); err != nil {
			t.Fatal(err)
		}
		d, err := NewDir(state, "job", 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Create(gid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d.path, mode); err != nil {
			t.Fatal(err)
		}
		f, err := createOwned(d.file(eventsName), gid)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if err := replaceFile(d.file(cancelName), nil, gid); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]os.FileMode{"..": os.ModeDir | dirMode, ".": os.ModeDir | mode, eventsName: fileMode, cancelName: fileMode} {
			info, err := os.Stat(d.file(name))
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); info.Mode() != want || st.Uid != 0 || st.Gid != gid {
				t.Errorf("in a directory of %v: %s is %v of %d:%d, want %v of 0:%d", mode, name, info.Mode(), st.Uid, st.Gid, want, gid)
			}
		}
	}
}
