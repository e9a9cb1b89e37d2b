package runner

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// buildHostile makes the program that tries what a container must not be able to.
func buildHostile(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("not run: there is no gcc here to build the program with")
	}
	out, err := exec.Command("gcc", "-O1", "-static", "-o", path, "testdata/hostile.c").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// judge reads the lines of the hostile program and counts them.
func judge(t *testing.T, log string, atLeast int) {
	t.Helper()
	tried, refused := 0, 0
	for line := range strings.SplitSeq(log, "\n") {
		name, result, ok := strings.Cut(line, ": ")
		switch {
		case !ok || result != "refused" && result != "DONE":
			continue
		case result == "refused":
			refused++
		default:
			t.Errorf("a container could do this: %s", name)
		}
		tried++
	}
	t.Logf("hostile: %d tried from inside a container, %d refused", tried, refused)
	if tried < atLeast || t.Failed() {
		t.Errorf("%d tried, want at least %d; the log is\n%s", tried, atLeast, log)
	}
}

// What a container tries as its own root, with a directory of the host to write to.
func TestHostileContainer(t *testing.T) {
	w := newWorld(t, "/hostile")
	program := filepath.Join(w.files, "hostile")
	buildHostile(t, program)
	out, in := filepath.Join(w.files, "out"), filepath.Join(w.files, "in")
	for _, dir := range []string{out, in} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, submitter, group)); err != nil {
			t.Fatal(err)
		}
	}
	w.stream(transforms.StreamInput, "in", w.file("input", []byte("x")))
	w.request.Plan.Binds = []transforms.Bind{
		{Source: program, Target: "/hostile", ReadOnly: true}, {Source: in, Target: "/in", ReadOnly: true}, {Source: out, Target: "/out"},
	}
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	judge(t, w.log(), 60)
	// Whatever the program believes: what is there?
	err := filepath.WalkDir(w.files, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode()&(os.ModeSetuid|os.ModeDevice) != 0 {
			t.Errorf("%s is left with mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// A container that has files of its submitter stays the submitter: a file may
// have less for the submitter's group than for all others.
func TestHostileIdentity(t *testing.T) {
	w := newWorld(t, sh("/hostile identity; cat /out/not-for-the-group; true")...)
	program := filepath.Join(w.files, "hostile")
	buildHostile(t, program)
	denied := w.file("not-for-the-group", []byte("precious"))
	if err := errors.Join(os.Chown(denied, 0, group), os.Chmod(denied, 0o604)); err != nil {
		t.Fatal(err)
	}
	w.request.Grant.Withheld = []string{"CAP_SETUID", "CAP_SETGID"}
	w.request.Plan.Binds = []transforms.Bind{{Source: program, Target: "/hostile", ReadOnly: true}, {Source: w.files, Target: "/out"}}
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	judge(t, w.log(), 3)
	if strings.Contains(w.log(), "precious") {
		t.Error("it read a file that its submitter could not")
	}
}

// asSubmitter runs a shell command on the host as the submitter.
func asSubmitter(t testing.TB, script string) string {
	t.Helper()
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: submitter, Gid: group, Groups: []uint32{group}}}
	out, _ := cmd.CombinedOutput()
	return string(out)
}

// The process with the job's files and tokens is not its submitter's to look into.
func TestHostileSubmitter(t *testing.T) {
	tr, err := startTransfer(attempt.Identity{UID: submitter, GID: group, Groups: []int{group}}, &attempt.Grant{Roots: everywhere})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.end()
	f, err := tr.openBind(t.Context(), transforms.Bind{Source: "/etc"})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	tried, refused := 0, 0
	for name, script := range map[string]string{
		"memory":      "dd if=/proc/%d/mem bs=1 count=1",
		"descriptors": "ls /proc/%d/fd/",
		"environment": "cat /proc/%d/environ",
		"maps":        "cat /proc/%d/maps",
		"its root":    "ls /proc/%d/root/",
		"program":     "readlink /proc/%d/exe",
	} {
		tried++
		if out := asSubmitter(t, fmt.Sprintf(script, tr.process.Pid)+" && echo DONE"); strings.Contains(out, "DONE") {
			t.Errorf("%s: %q", name, out)
			continue
		}
		refused++
	}
	t.Logf("hostile: %d looks into the transfer process tried, %d refused", tried, refused)
}

// A submitter who renames and links while jobs start gets nothing that lies
// outside the roots, nor writes there.
func TestHostileRaces(t *testing.T) {
	const tries = 400
	base := t.TempDir()
	for dir := base; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, outside := filepath.Join(base, "root"), filepath.Join(base, "outside")
	inside := filepath.Join(root, "dir")
	for _, dir := range []string{root, inside, outside} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, submitter, group)); err != nil {
			t.Fatal(err)
		}
	}
	// The submitter may read what is outside: only policy says no.
	for _, dir := range []string{inside, outside} {
		name := filepath.Join(dir, "file")
		if err := errors.Join(os.WriteFile(name, []byte(dir), 0o644), os.Chown(name, submitter, group)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(root, "link")), os.Lchown(filepath.Join(root, "link"), submitter, group)); err != nil {
		t.Fatal(err)
	}
	inode := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	allowed := []uint64{inode(inside), inode(filepath.Join(inside, "file"))}

	o := newOpener([]attempt.Root{{Path: root, Write: true}}, nil)
	stop, swapped := make(chan struct{}), make(chan int)
	go func() { // the attacker, on the host
		n := 0
		defer func() { swapped <- n }()
		for {
			select {
			case <-stop:
				return
			default:
				// One and the same name is a directory and a link by turns.
				if unix.Renameat2(unix.AT_FDCWD, inside, unix.AT_FDCWD, filepath.Join(root, "link"), unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
		}
	}()
	got, refused := 0, 0
	check := func(f *os.File, err error) {
		t.Helper()
		if err != nil {
			refused++
			return
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		if st.Ino != allowed[0] && st.Ino != allowed[1] && !strings.HasPrefix(f.Name(), filepath.Join(root, "dir", "new")) {
			t.Errorf("%s led outside", f.Name())
		}
		got++
	}
	for i := range tries {
		f, err := o.open(inside, true)
		if err == nil {
			check(f.File, nil)
		} else {
			check(nil, err)
		}
		check(o.openRegular(filepath.Join(inside, "file"), unix.O_RDONLY))
		check(o.openRegular(filepath.Join(inside, "file"), unix.O_WRONLY))
		check(o.createRegular(filepath.Join(inside, fmt.Sprintf("new%d", i))))
		_ = o.makeDirectory(filepath.Join(inside, fmt.Sprintf("newdir%d", i)), 0o755)
	}
	close(stop)
	n := <-swapped
	t.Logf("hostile: %d opens against %d swaps: %d inside, %d refused, the others none", 4*tries, n, got, refused)
	if n == 0 || got == 0 || refused == 0 {
		t.Errorf("no race: %d swaps, %d opened, %d refused", n, got, refused)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("made outside: %v, %v", entries, err)
	}
}

// Somebody swaps directories and files of a volume for links while it is written to,
// read, listed and emptied: all stays within it.
func TestHostileTreeRaces(t *testing.T) {
	const tries = 400
	base := t.TempDir()
	volume, outside := filepath.Join(base, "volume"), filepath.Join(base, "outside")
	inside := filepath.Join(volume, "dir")
	for _, dir := range []string{volume, inside, outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{inside, outside} {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(filepath.Base(dir)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A directory and a file, each with a link to exchange it with.
	swaps := [][2]string{{inside, filepath.Join(volume, "link")}, {filepath.Join(volume, "out"), filepath.Join(volume, "out-link")}}
	err := errors.Join(os.Symlink(outside, swaps[0][1]), os.WriteFile(swaps[1][0], []byte("dir"), 0o644), os.Symlink(filepath.Join(outside, "file"), swaps[1][1]))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(volume)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	tree := &tree{dir: dir, name: "v"}
	stop, swapped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { swapped <- n }()
		for {
			for _, s := range swaps {
				if unix.Renameat2(unix.AT_FDCWD, s[0], unix.AT_FDCWD, s[1], unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	got, refused := 0, 0
	read := func(path string) {
		f, err := tree.open(path, unix.O_RDONLY, 0)
		if err != nil {
			refused++
			return
		}
		defer f.Close()
		if data, err := io.ReadAll(f); string(data) != "dir" {
			t.Errorf("%s gives %q, %v", path, data, err)
		}
		got++
	}
	for i := range tries {
		read("dir/file")
		read("out")
		if f, err := tree.create(fmt.Sprintf("dir/new%d", i)); err == nil {
			f.Close()
			got++
		} else {
			refused++
		}
		if err := tree.mkdirs(fmt.Sprintf("dir/d%d/e", i)); err != nil {
			refused++
		}
		if err := tree.remove(fmt.Sprintf("dir/d%d", i)); err != nil {
			refused++
		}
	}
	close(stop)
	n := <-swapped
	t.Logf("hostile: %d uses of a volume against %d swaps: %d inside, %d refused, the others none", 5*tries, n, got, refused)
	if n == 0 || got == 0 || refused == 0 {
		t.Errorf("no race: %d swaps, %d opened, %d refused", n, got, refused)
	}
	entries, err := os.ReadDir(outside)
	if data, _ := os.ReadFile(filepath.Join(outside, "file")); err != nil || len(entries) != 1 || string(data) != "outside" {
		t.Errorf("outside: %v, %q, %v", entries, data, err)
	}
}

// Paths that lead, or pretend to lead, elsewhere.
func TestHostilePaths(t *testing.T) {
	base := t.TempDir()
	root, other, archive, outside := filepath.Join(base, "root"), filepath.Join(base, "other"), filepath.Join(base, "root", "archive"), filepath.Join(base, "outside")
	for _, dir := range []string{root, other, archive, outside, filepath.Join(root, "closed")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"up": "../outside", "absolute": outside, "far": "archive", "other": other, "proc": "/proc/self/root" + outside,
		"fd": "/proc/self/fd/0", "self": "self", "nowhere": filepath.Join(outside, "new"), "closedlink": "closed", "etc": "/etc",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(unix.Mkfifo(filepath.Join(root, "fifo"), 0o600), os.WriteFile(filepath.Join(archive, "f"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	o := newOpener([]attempt.Root{{Path: root, Write: true}, {Path: archive}, {Path: other, Write: true}}, []string{filepath.Join(root, "closed")})
	tried, refused := 0, 0
	for _, tt := range []struct {
		name  string
		write bool
		ok    bool
	}{
		{"other", true, true}, {"far", false, true}, {"archive/f", false, true}, // and these are none
		{"up", false, false}, {"absolute", false, false}, {"proc", false, false}, {"fd", false, false}, {"self", false, false},
		{"far", true, false}, {"archive/f", true, false}, {"closed", false, false}, {"closedlink", false, false}, {"etc", false, false},
		{"etc/passwd", false, false}, {"nowhere", true, false}, {"absolute/../absolute", false, false}, {"", true, false},
	} {
		f, err := o.open(filepath.Join(root, tt.name), tt.write)
		if (err == nil) != tt.ok {
			t.Errorf("%q, write %v: %v", tt.name, tt.write, err)
		}
		if err == nil {
			f.Close()
		}
		if !tt.ok {
			tried++
			if err != nil {
				refused++
			}
		}
	}
	for _, name := range []string{"nowhere", "absolute/new", "archive/new", "fifo", "closed/new", "up/new"} {
		tried++
		if f, err := o.createRegular(filepath.Join(root, name)); err == nil {
			f.Close()
			t.Errorf("made %s", name)
			continue
		}
		refused++
	}
	t.Logf("hostile: %d paths tried, %d refused", tried, refused)
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("made outside: %v", entries)
	}
}
