package packaging_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// noSystemd is what vm/container ends with where it cannot boot one.
const noSystemd = 69

// TestService: the package's life under systemd, on this machine's own Debian
// below an overlay: installed, activated by its socket, restarted, upgraded,
// killed and hung under four running jobs, removed, purged. `make test-vm` does the
// same on pure cgroup v2, with a reboot.
func TestService(t *testing.T) {
	needs(t, "dpkg-deb", "systemd-nspawn")
	if os.Geteuid() != 0 {
		t.Skip("booting a container needs root")
	}
	t.Parallel()
	dir := t.TempDir()
	debs := filepath.Join(dir, "debs")
	if err := os.Mkdir(debs, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, version := range map[string]string{"first": version, "next": version + ".1"} {
		made := pack(t, binary(t, version), filepath.Join(dir, name), version, []string{"deb"}, "-compression=none")
		if err := os.Rename(made[0], filepath.Join(debs, name+".deb")); err != nil {
			t.Fatal(err)
		}
	}
	run(t, nil, "packaging/vm/older", filepath.Join(debs, "first.deb"), filepath.Join(debs, "older.deb"))
	run(t, nil, "cp", "packaging/vm/packages", debs)
	out, err := exec.CommandContext(t.Context(), "vm/container", debs, "bash", "/mnt/packages", "/mnt", "container").CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == noSystemd {
		t.Skipf("%s", out)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
