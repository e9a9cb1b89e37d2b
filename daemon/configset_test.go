package daemon_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestConfigSet: what the command writes is read, and applied, by a daemon whose
// unprivileged half is nobody that a password may be shown to otherwise.
func TestConfigSet(t *testing.T) {
	w := newWorld(t)
	config := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), binary, append([]string{"config", "--config", w.config}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	if said := config("set", "girder_worker", "slots", "3"); !strings.Contains(said, "applies it now") {
		t.Errorf("it says %s", said)
	}
	slots := func(n int) func() bool {
		return func() bool {
			s, err := w.client.Status(t.Context())
			return err == nil && int(s.Capacity["slots"]) == n
		}
	}
	w.eventually("the daemon has 3 slots", slots(3))
	local := filepath.Join(filepath.Dir(w.config), "worker.local.cfg")
	if info, err := os.Stat(local); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("%v, %v: everybody can read it", info, err)
	}
	if said := config("set", "celery", "queues", "gpu,celery"); !strings.Contains(said, "restart the daemon") {
		t.Errorf("it says %s", said)
	}
	w.eventually("the daemon tells of the restart", func() bool {
		s, err := w.client.Status(t.Context())
		return err == nil && strings.Contains(strings.Join(s.Warnings, "\n"), "celery.queues")
	})
	config("rm", "girder_worker", "slots")
	w.eventually("the daemon has 4 slots again", slots(4))
}
