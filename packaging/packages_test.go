package packaging_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// run runs a command at the top of the repository and returns what it said.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// needs ends the test where a program is missing.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("%s is not installed", p)
		}
	}
}

// version is that of what the tests pack.
const version = "1.2.3-dev"

// built is the directory of what all tests use, each made by whoever needs it first.
var built string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if built, err = os.MkdirTemp("", "girder-worker-packages-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(built)
		return m.Run()
	}())
}

var building sync.Mutex

// build makes a file of built with go build.
func build(t *testing.T, name string, args ...string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	path := filepath.Join(built, name)
	if _, err := os.Stat(path); err != nil {
		run(t, nil, "go", append([]string{"build", "-o", path}, args...)...)
	}
	return path
}

// binary is the program as a release.
func binary(t *testing.T, version string) string {
	t.Helper()
	return build(t, "girder-worker-"+version, "-tags", "seccomp netgo osusergo", "-ldflags", "-s -w -extldflags -static -X main.version="+version, ".")
}

// pack makes packages of one binary below out, one for each of formats.
func pack(t *testing.T, binary, out, version string, formats []string, more ...string) []string {
	t.Helper()
	if err := os.MkdirAll(out, 0o755); err != nil {
		t.Fatal(err)
	}
	var env, flags []string
	for _, m := range more {
		if strings.HasPrefix(m, "-") {
			flags = append(flags, m)
		} else {
			env = append(env, m)
		}
	}
	env = append(env, "SOURCE_DATE_EPOCH=1700000000")
	args := slices.Concat([]string{"-binary", binary, "-version", version, "-maintainer", "A Lab <lab@girder-worker.test>", "-out", out}, flags, formats)
	said := run(t, env, build(t, "pack", "./packaging/pack"), args...)
	paths := strings.Fields(said)
	if !slices.EqualFunc(paths, formats, strings.HasSuffix) {
		t.Fatalf("pack said %q", said)
	}
	return paths
}

// must are the files of both packages.
var must = strings.Fields(`
	/usr/bin/girder-worker /usr/bin/girder-worker-config
	/etc/girder-worker/worker.cfg /etc/girder-worker/policy.toml
	/usr/lib/systemd/system/girder-worker.service /usr/lib/systemd/system/girder-worker.socket /usr/lib/systemd/system/girder-worker.slice
	/usr/lib/sysusers.d/girder-worker.conf /usr/lib/tmpfiles.d/girder-worker.conf
	/usr/share/man/man1/girder-worker.1.gz /usr/share/man/man5/girder-worker-job.5.gz /usr/share/man/man8/girder-worker.8.gz
	/usr/share/bash-completion/completions/girder-worker /usr/share/fish/vendor_completions.d/girder-worker.fish
	/usr/share/man/man5/girder-worker-tasks.5.gz /etc/girder-worker/tasks.d /usr/share/girder-worker/tasks/hello.toml
	/usr/share/girder-worker/job.schema.json /usr/share/girder-worker/task.schema.json /usr/share/doc/girder-worker/changelog.gz`)

// TestPackages: both packages hold what they should, are the same bytes when
// made again, please lintian, and the .rpm installs into a root and leaves it.
func TestPackages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := binary(t, version)
	both := []string{"deb", "rpm"}
	packages := pack(t, program, filepath.Join(dir, "one"), version, both)
	deb, rpm := packages[0], packages[1]

	t.Run("reproducible", func(t *testing.T) {
		t.Parallel()
		again := pack(t, program, filepath.Join(dir, "two"), version, both, "TZ=Asia/Tokyo", "LC_ALL=C", "HOSTNAME=elsewhere")
		for i, first := range packages {
			a, err := os.ReadFile(first)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(again[i])
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a, b) {
				t.Errorf("%s is not the same bytes when it is made again", filepath.Base(first))
			}
		}
	})

	t.Run("deb", func(t *testing.T) {
		t.Parallel()
		needs(t, "dpkg-deb")
		var files []string
		for line := range strings.Lines(run(t, nil, "dpkg-deb", "--contents", deb)) {
			f := strings.Fields(line)
			if f[1] != "root/root" {
				t.Errorf("it belongs to %s: %s", f[1], line)
			}
			files = append(files, strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/"))
		}
		for _, name := range append(must, "/usr/share/zsh/vendor-completions/_girder-worker", "/etc/needrestart/conf.d/girder-worker.conf", "/usr/share/doc/girder-worker/copyright") {
			if !slices.Contains(files, name) {
				t.Errorf("it lacks %s", name)
			}
		}
		control := filepath.Join(dir, "control")
		run(t, nil, "dpkg-deb", "--control", deb, control)
		conffiles, err := os.ReadFile(filepath.Join(control, "conffiles"))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(string(conffiles)); len(got) != 3 {
			t.Errorf("conffiles are %q", got)
		}
		if got := run(t, nil, "dpkg-deb", "--field", deb, "Version", "Depends"); got != "Version: 1.2.3~dev-1\nDepends: e2fsprogs\n" {
			t.Errorf("fields are\n%s", got)
		}
		for _, name := range []string{"preinst", "postinst", "prerm", "postrm"} {
			script := filepath.Join(control, name)
			run(t, nil, "sh", "-n", script)
			if text, err := os.ReadFile(script); err != nil || regexp.MustCompile(`@[A-Z]+@`).Match(text) {
				t.Errorf("%s was not filled in, or is missing: %v", name, err)
			}
		}
	})

	t.Run("files", func(t *testing.T) {
		t.Parallel()
		needs(t, "dpkg-deb", "rpm")
		var debs []string
		for line := range strings.Lines(run(t, nil, "dpkg-deb", "--contents", deb)) {
			if name := strings.TrimPrefix(strings.Fields(line)[5], "."); !strings.HasSuffix(name, "/") || name == "/etc/girder-worker/tasks.d/" {
				debs = append(debs, strings.TrimSuffix(name, "/"))
			}
		}
		rpms := strings.Fields(run(t, nil, "rpm", "--dbpath", t.TempDir(), "--query", "--list", "--package", rpm))
		// Where the families have the same thing in two places, or one has no use for it.
		elsewhere := map[string]string{
			"/usr/share/zsh/vendor-completions/_girder-worker": "/usr/share/zsh/site-functions/_girder-worker",
			"/usr/share/doc/girder-worker/copyright":           "/usr/share/licenses/girder-worker/LICENSE",
			"/usr/share/doc/girder-worker/changelog.Debian.gz": "", "/usr/share/lintian/overrides/girder-worker": "", "/etc/needrestart/conf.d/girder-worker.conf": "",
		}
		for i, name := range debs {
			if other, ok := elsewhere[name]; ok {
				debs[i] = other
			}
		}
		debs = slices.DeleteFunc(debs, func(name string) bool { return name == "" })
		rpms = slices.DeleteFunc(rpms, func(name string) bool { // the .rpm lists directories of its own, too
			return slices.ContainsFunc(rpms, func(other string) bool { return strings.HasPrefix(other, name+"/") })
		})
		slices.Sort(debs)
		slices.Sort(rpms)
		if !slices.Equal(debs, rpms) {
			t.Errorf("the .deb has\n%q\nand the .rpm\n%q", debs, rpms)
		}
		pages, err := filepath.Glob("../man/*.md")
		if err != nil || len(pages) == 0 {
			t.Fatal(err)
		}
		wanted := []string{"/usr/share/man/man1/girder-worker-config.1.gz"}
		for _, page := range pages {
			page = strings.TrimSuffix(filepath.Base(page), ".md")
			wanted = append(wanted, "/usr/share/man/man"+page[len(page)-1:]+"/"+page+".gz")
		}
		for _, wheel := range []string{"girder_worker", "girder_worker_utils"} {
			wanted = append(wanted, "/usr/share/girder-worker/python/"+wheel+"-1.2.3+dev-py3-none-any.whl")
		}
		for _, name := range wanted {
			if !slices.Contains(debs, name) {
				t.Errorf("they lack %s", name)
			}
		}
		for _, name := range debs {
			if strings.HasSuffix(name, ".py") {
				t.Errorf("a program could import %s by mistake", name)
			}
		}
	})

	t.Run("install", func(t *testing.T) {
		t.Parallel()
		root := filepath.Join(dir, "installed")
		kept := filepath.Join(root, "etc/girder-worker/worker.cfg")
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kept, []byte("# an admin's\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, []string{"SOURCE_DATE_EPOCH=1700000000"}, build(t, "pack"), "-binary", program, "-version", version, "-maintainer", "A Lab <lab@girder-worker.test>",
			"-out", filepath.Join(dir, "three"), "-root", root, "-prefix", "/usr/local", "install")
		for _, name := range must {
			if _, err := os.Lstat(root + strings.Replace(name, "/usr/", "/usr/local/", 1)); err != nil {
				t.Errorf("it lacks %s", name)
			}
		}
		if text, err := os.ReadFile(kept); err != nil || string(text) != "# an admin's\n" {
			t.Errorf("it replaced a configuration: %q, %v", text, err)
		}
		unit, err := os.ReadFile(filepath.Join(root, "usr/local/lib/systemd/system/girder-worker.service"))
		if err != nil || !bytes.Contains(unit, []byte("\nExecStart=/usr/local/bin/girder-worker daemon\n")) {
			t.Errorf("the unit starts another program: %v", err)
		}
		if _, err := os.Lstat(filepath.Join(root, "usr/bin")); err == nil {
			t.Error("it did not keep to its prefix")
		}
	})

	t.Run("lintian", func(t *testing.T) {
		t.Parallel()
		needs(t, "lintian")
		if said := run(t, nil, "lintian", "--allow-root", "--fail-on=none", "--info", deb); strings.TrimSpace(said) != "" {
			t.Errorf("lintian says\n%s", said)
		}
	})

	t.Run("rpmlint", func(t *testing.T) {
		t.Parallel()
		needs(t, "rpmlint", "rpm2cpio", "cpio")
		// It unpacks what it looks at, and the names in there begin with a slash.
		bin := filepath.Join(dir, "bin")
		if err := os.Mkdir(bin, 0o755); err != nil {
			t.Fatal(err)
		}
		script := "#!/bin/sh\nPATH=${PATH#*:} exec cpio --no-absolute-filenames \"$@\"\n"
		if err := os.WriteFile(filepath.Join(bin, "cpio"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		said := run(t, []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, "rpmlint", "-c", "packaging/rpm/rpmlint.toml", rpm)
		for line := range strings.Lines(said) {
			if strings.Contains(line, ": W: ") || strings.Contains(line, ": E: ") {
				t.Errorf("rpmlint says %s", line)
			}
		}
		if !strings.Contains(said, "1 packages and 0 specfiles checked") {
			t.Errorf("rpmlint says\n%s", said)
		}
	})

	t.Run("rpm", func(t *testing.T) {
		t.Parallel()
		needs(t, "rpm")
		if os.Geteuid() != 0 {
			t.Skip("installing into a root needs root")
		}
		root := filepath.Join(dir, "root")
		makeRoot(t, root)
		inRoot := func(args ...string) string {
			t.Helper()
			return run(t, nil, "rpm", append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, args...)...)
		}
		inRoot("--initdb")
		// The root has no other package; and Debian's rpm does not like to be used.
		inRoot("--install", "--nodeps", "--force-debian", rpm)
		for _, name := range append(must, "/usr/share/zsh/site-functions/_girder-worker", "/usr/share/licenses/girder-worker/LICENSE") {
			if _, err := os.Lstat(root + name); err != nil {
				t.Errorf("it lacks %s", name)
			}
		}
		if got := inRoot("--query", "--configfiles", "girder-worker"); got != "/etc/girder-worker/policy.toml\n/etc/girder-worker/worker.cfg\n" {
			t.Errorf("configuration files are\n%s", got)
		}
		if said := inRoot("--verify", "--nodeps", "girder-worker"); said != "" {
			t.Errorf("it is not as it was packed:\n%s", said)
		}
		calls := func() string {
			t.Helper()
			text, err := os.ReadFile(filepath.Join(root, "calls"))
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		for _, want := range []string{"systemd-sysusers girder-worker.conf", "systemctl enable girder-worker.socket girder-worker.service", "systemctl start girder-worker.socket girder-worker.service"} {
			if !strings.Contains(calls(), want+"\n") {
				t.Errorf("its installation did not call %s, but\n%s", want, calls())
			}
		}
		// A queue of a release that is newer than the one to install.
		queue := filepath.Join(root, "var/lib/girder-worker/queue")
		if err := os.MkdirAll(queue, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(queue, "queue.db"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		newer := "#!/bin/sh\necho '  \"queue\": 1000000'\n"
		program := filepath.Join(root, "usr/bin/girder-worker")
		kept, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(program, []byte(newer), 0o755); err != nil {
			t.Fatal(err)
		}
		upgrade := []string{"rpm", "--root", root, "--dbpath", "/var/lib/rpm", "--upgrade", "--replacepkgs", "--nodeps", "--force-debian", rpm}
		if out, err := exec.CommandContext(t.Context(), upgrade[0], upgrade[1:]...).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("cannot go back to 1.2.3-dev")) {
			t.Errorf("over a newer queue it says %v\n%s", err, out)
		}
		if err := os.WriteFile(program, kept, 0o755); err != nil {
			t.Fatal(err)
		}
		inRoot("--erase", "girder-worker")
		for _, want := range []string{"systemctl stop girder-worker.socket girder-worker.service", "systemctl stop girder-worker-runner-*.service girder-worker-job-*.service girder-worker.slice", "systemctl disable girder-worker.socket girder-worker.service"} {
			if !strings.Contains(calls(), want+"\n") {
				t.Errorf("its removal did not call %s, but\n%s", want, calls())
			}
		}
		if _, err := os.Lstat(filepath.Join(queue, "queue.db")); err != nil {
			t.Errorf("its removal took the queue along: %v", err)
		}
	})
}

// TestDNF: as an admin without a network would, from files and with what they depend on
// there already: installed, upgraded and removed by dnf, below a root of its own.
func TestDNF(t *testing.T) {
	needs(t, "dnf", "rpmbuild")
	if os.Geteuid() != 0 {
		t.Skip("installing into a root needs root")
	}
	t.Parallel()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	makeRoot(t, root)
	const newer = version + ".1"
	first := pack(t, binary(t, version), filepath.Join(dir, "first"), version, []string{"rpm"})[0]
	next := pack(t, binary(t, newer), filepath.Join(dir, "next"), newer, []string{"rpm"})[0]
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// What a machine of that family has.
	spec := write("e2fsprogs.spec", "Name: e2fsprogs\nVersion: 1\nRelease: 1\nSummary: a stand-in\nLicense: none\nBuildArch: noarch\nProvides: /bin/sh\n%description\na stand-in\n%files\n")
	run(t, nil, "rpmbuild", "--quiet", "--define", "_topdir "+dir, "--define", "_dbpath "+filepath.Join(dir, "db"), "-bb", spec)
	config := write("dnf.conf", strings.ReplaceAll("[main]\nreposdir=@/none\ncachedir=@/cache\npersistdir=@/persist\nlogdir=@/log\ngpgcheck=0\nplugins=0\n", "@", dir))
	dnf := func(args ...string) (calls string) {
		t.Helper()
		at := filepath.Join(root, "calls")
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
		run(t, nil, "unshare", append([]string{"--net", "dnf", "--assumeyes", "--config", config, "--installroot", root, "--releasever", "9"}, args...)...)
		text, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, step := range []struct {
		args []string
		want []string
		not  string
	}{
		{[]string{"install", filepath.Join(dir, "RPMS/noarch/e2fsprogs-1-1.noarch.rpm"), first}, []string{"systemd-sysusers girder-worker.conf", "systemctl start girder-worker.socket girder-worker.service"}, "stop"},
		{[]string{"upgrade", next}, []string{"systemctl daemon-reload", "systemctl try-restart girder-worker.service"}, "stop"},
		{[]string{"remove", "girder-worker"}, []string{"systemctl stop girder-worker.socket girder-worker.service", "systemctl disable girder-worker.socket girder-worker.service"}, "start"},
	} {
		calls := dnf(step.args...)
		for _, want := range step.want {
			if !strings.Contains(calls, want+"\n") {
				t.Errorf("%s did not call %s, but\n%s", step.args[0], want, calls)
			}
		}
		if strings.Contains(calls, "systemctl "+step.not) {
			t.Errorf("%s called systemctl %s:\n%s", step.args[0], step.not, calls)
		}
		_, err := os.Lstat(filepath.Join(root, "usr/bin/girder-worker"))
		if gone := step.args[0] == "remove"; gone != errors.Is(err, os.ErrNotExist) {
			t.Errorf("after %s: %v", step.args[0], err)
		}
	}
}

// makeRoot makes a root in which scripts can run: busybox, and programs of
// systemd that write down how they were called.
func makeRoot(t *testing.T, root string) {
	t.Helper()
	for _, dir := range []string{"bin", "usr/bin", "usr/sbin", "var/lib/rpm", "run/systemd/system", "etc", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("busybox-static is not installed")
	}
	if err := os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "sed", "head", "echo", "cat"} {
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"systemctl", "systemd-sysusers", "systemd-tmpfiles"} {
		script := "#!/bin/sh\necho " + name + " \"$@\" >>/calls\n"
		if err := os.WriteFile(filepath.Join(root, "bin", name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnits: systemd knows every line of the units.
func TestUnits(t *testing.T) {
	needs(t, "systemd-analyze")
	units, err := filepath.Glob("systemd/girder-worker.*")
	if err != nil || len(units) != 3 {
		t.Fatal(units, err)
	}
	dir := t.TempDir()
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// A program that is installed here, or it would be the only complaint.
		text = bytes.ReplaceAll(text, []byte("ExecStart=/usr/bin/girder-worker daemon"), []byte("ExecStart=/bin/true"))
		text = regexp.MustCompile(`(?m)^Documentation=.*$`).ReplaceAll(text, nil)
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(unit)), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	said := run(t, []string{"SYSTEMD_UNIT_PATH=" + dir + ":"}, "systemd-analyze", "verify", "--man=no",
		filepath.Join(dir, "girder-worker.service"), filepath.Join(dir, "girder-worker.socket"), filepath.Join(dir, "girder-worker.slice"))
	for line := range strings.Lines(said) {
		if strings.Contains(line, "girder-worker") {
			t.Errorf("systemd says %s", line)
		}
	}
}
