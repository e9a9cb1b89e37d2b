package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/daemon/policy/policytest"
)

// TestRootsAlone: each step of a path counts, beyond links, too.
func TestRootsAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := policytest.RootsDir(t)
	p := func(name string) string { return filepath.Join(dir, name) }
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"venv/bin", "venv/lib/python3.99/site-packages", "open/bin", "theirs", "group", "outside"} {
		do(os.MkdirAll(p(name), 0o755))
	}
	for _, name := range []string{"venv/bin/real", "open/bin/python3", "theirs/python3", "group/python3"} {
		do(os.WriteFile(p(name), nil, 0o755))
	}
	do(os.WriteFile(p("venv/pyvenv.cfg"), nil, 0o644))
	do(os.Chmod(p("open"), 0o777))
	do(os.Chmod(p("group/python3"), 0o775))
	do(os.Chown(p("theirs"), 4711, 0))
	for name, to := range map[string]string{
		"venv/bin/python3": "python3.99", "venv/bin/python3.99": "real", "venv/bin/away": "../../open/bin/python3",
		"venv/bin/absolute": p("theirs/python3"), "venv/bin/round": "round", "venv/bin/gone": "nothing", "venv/bin/home": "/root/no-such-python/bin/python3",
	} {
		do(os.Symlink(to, p(name)))
	}
	for name, want := range map[string]string{
		"venv/bin/python3":  "",
		"venv/bin/away":     p("open") + " can be changed by others than root (it belongs to user 0, mode 0777)",
		"venv/bin/absolute": p("theirs") + " can be changed by others than root (it belongs to user 4711, mode 0755)",
		"group/python3":     "chmod go-w " + p("group/python3"),
		"venv/bin/round":    "too many levels",
		"venv/bin/gone":     "no such file",
		"venv/bin/home":     "cannot look at /root/no-such-python, where " + p("venv/bin/home") + " leads: no such file or directory; a service sees no home directories",
	} {
		if err := RootsAlone(p(name)); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want …%s…", name, err, want)
		}
	}
	python := p("venv/bin/python3")
	if err := CheckPython(python, []string{p("outside")}); err != nil {
		t.Error(err)
	}
	if err := CheckPython(python, []string{p("theirs")}); err == nil {
		t.Error("a load path of somebody else's is taken")
	}
	do(os.Chmod(p("venv/lib/python3.99/site-packages"), 0o775))
	if err := CheckPython(python, nil); err == nil || !strings.Contains(err.Error(), "site-packages can be changed") {
		t.Errorf("got %v", err)
	}
	if err := CheckPython("/var/lib/venv/bin/python3", nil); err == nil || !strings.Contains(err.Error(), "beneath /var, which functions do not see") {
		t.Errorf("got %v", err)
	}
}
