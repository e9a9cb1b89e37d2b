package plugin

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestReadDir: whatever is wrong with some files, the others are there.
func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	good := "name = \"%s\"\nimage = \"i\"\n"
	for i, name := range []string{"a", "z"} {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.toml", 9*i)), fmt.Sprintf(good, name))
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("1.toml"), "name = \"b\"\nimage = [")
	write(t, at("2.toml"), "name = \"b\"\nimage = \"i\"\nimag = 1")
	write(t, at("3.toml"), fmt.Sprintf(good, "a"))
	write(t, at("4.toml"), strings.Repeat("#", MaxFile+1))
	write(t, at("5.toml"), fmt.Sprintf(good, "c"))
	for name, mode := range map[string]os.FileMode{"5.toml": 0o664} {
		if err := os.Chmod(at(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("0.toml", at("6.toml")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(at("7.toml"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("8.toml"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, at(".hidden.toml"), "nonsense")
	write(t, at("README"), "nonsense")
	write(t, at("0.toml~"), "nonsense")

	var r Registry
	tasks, problems := ReadDir(dir, os.Geteuid())
	r.Set("files", tasks, problems)
	if names := strings.Join(r.Names(), " "); names != "a z" {
		t.Errorf("the tasks are %q", names)
	}
	_, problems = r.Tasks()
	var all strings.Builder
	for _, err := range problems {
		fmt.Fprintln(&all, strings.ReplaceAll(err.Error(), dir+"/", ""))
	}
	for _, want := range []string{
		"1.toml:2:", "2.toml:3:1: imag: unknown field", "3.toml: left out, because 0.toml has a task a already",
		"4.toml: it has more than 65536 bytes", "5.toml: it is not used: it must belong to root, and nobody else may write it", "mode 0664",
		"6.toml: it is not used, because it is a symbolic link", "7.toml: it is not used, because it is no regular file", "8.toml: it is not used, because it is no regular file",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("lacking: %s in\n%s", want, all.String())
		}
	}
	if strings.Contains(all.String(), "nonsense") || strings.Contains(all.String(), "hidden") {
		t.Errorf("other files are read:\n%s", all.String())
	}
}

func TestReadDirUnreadable(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to read as somebody else")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for parent := filepath.Dir(dir); parent != os.TempDir(); parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(dir, "a.toml"), "name = \"a\"\nimage = \"i\"\n")
	write(t, filepath.Join(dir, "b.toml"), "name = \"b\"\nimage = \"i\"\n")
	if err := os.Chmod(filepath.Join(dir, "a.toml"), 0o600); err != nil {
		t.Fatal(err)
	}
	tasks, problems := asNobody(t, func() ([]Task, []error) { return ReadDir(dir, 0) })
	if len(tasks) != 1 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "a.toml: cannot open it: permission denied") {
		t.Errorf("%d tasks, %v", len(tasks), problems)
	}
	// Files of somebody else are not read.
	if err := os.Chown(filepath.Join(dir, "b.toml"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if tasks, problems := ReadDir(dir, 0); len(tasks) != 1 || len(problems) != 1 || !strings.Contains(problems[0].Error(), "user 65534") {
		t.Errorf("%d tasks, %v", len(tasks), problems)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if tasks, problems := ReadDir(dir, 0); len(tasks) != 0 || len(problems) != 1 {
		t.Errorf("from a directory that anybody may write: %d tasks, %v", len(tasks), problems)
	}
}

// asNobody calls from a thread without privilege, which ends with its goroutine.
func asNobody(t *testing.T, read func() ([]Task, []error)) (tasks []Task, problems []error) {
	t.Helper()
	done := make(chan error)
	go func() {
		done <- func() error {
			runtime.LockOSThread() // and never unlocked
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 65534, 65534, 65534); errno != 0 {
				return errno
			}
			tasks, problems = read()
			return nil
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return tasks, problems
}

func TestReadDirWithoutOne(t *testing.T) {
	if tasks, problems := ReadDir(filepath.Join(t.TempDir(), "none"), 0); len(tasks)+len(problems) != 0 {
		t.Errorf("%v, %v", tasks, problems)
	}
}

// BenchmarkDiscovery reads a hundred tasks of seven parameters.
func BenchmarkDiscovery(b *testing.B) {
	dir := b.TempDir()
	for i := range 100 {
		write(b, filepath.Join(dir, fmt.Sprintf("%d.toml", i)), strings.Replace(full, "lab.segment", fmt.Sprintf("lab.segment%d", i), 1))
	}
	for b.Loop() {
		if tasks, problems := ReadDir(dir, os.Geteuid()); len(tasks) != 100 {
			b.Fatal(len(tasks), problems)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte("name = \"t\"\nimage = \"i\"\nargs = [{if = \"x\", args = [\"{x}\"]}]\n[[parameters]]\nname = \"x\"\ntype = \"new-folder\"\nrequired = false"))
	f.Add([]byte("[[a.b]]\n[[a.b.c]]\nd.e = {f = [{g = 1}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		task, problems := Parse("t.toml", data)
		if len(problems) == 0 && task.Name == "" {
			t.Error("a task without a name")
		}
	})
}
