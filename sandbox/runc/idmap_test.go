//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// A machine without mounts that map ids runs the same containers, slower.
func TestWithoutIDMap(t *testing.T) {
	for _, noIDMap := range []bool{false, true} {
		r := testRunner(t)
		r.options.NoIDMap = noIDMap
		layer := busyboxLayer(t)
		upper := t.TempDir()
		write := func(dir, name string, uid, gid int, mode os.FileMode) {
			t.Helper()
			path := filepath.Join(dir, name)
			err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(name+"\n"), 0o600), os.Lchown(path, uid, gid), os.Chmod(path, mode))
			if err != nil {
				t.Fatal(err)
			}
		}
		write(layer, "srv/roots", 0, 0, 0o600)
		write(layer, "srv/users", 1000, 1001, 0o640)
		write(layer, "srv/setuid", 0, 42, 0o755|os.ModeSetuid|os.ModeSetgid)
		write(upper, "srv/over", 7, 8, 0o644)
		if err := os.Symlink("/nowhere", filepath.Join(upper, "srv", "link")); err != nil {
			t.Fatal(err)
		}
		before := owners(t, layer)
		got := script(t, r, func(s *sandbox.Spec) { s.Rootfs.Layers = []string{layer, upper} },
			"stat -c '%n %u %g %a' /srv/* /etc/hostname /",
			"cat /srv/roots && echo x >> /srv/users && chown 5 /srv/over && rm /srv/link && mkdir /new && stat -c %u /new",
		)
		want := "/srv/link 0 0 777\n/srv/over 7 8 644\n/srv/roots 0 0 600\n/srv/setuid 0 42 6755\n/srv/users 1000 1001 640\n" +
			"/etc/hostname 0 0 644\n/ 0 0 755\nsrv/roots\n0\n"
		if got != want {
			t.Errorf("without maps %v:\n%swant\n%s", noIDMap, got, want)
		}
		if now := owners(t, layer); now != before {
			t.Errorf("without maps %v: the layer was changed", noIDMap)
		}
	}
}

// owners is who has what in a layer.
func owners(t *testing.T, dir string) (sum uint64) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		sum = sum*31 + uint64(st.Uid)<<32 + uint64(st.Gid) + uint64(st.Mode)<<16 + uint64(st.Mtim.Nano())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
