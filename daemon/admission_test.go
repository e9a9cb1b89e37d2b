package daemon_test

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/client"
)

// TestDiskAdmission: of two jobs that ask for more of the disk than there is, the
// second waits, is told why, and is in nobody's way.
func TestDiskAdmission(t *testing.T) {
	w := newWorld(t)
	var st unix.Statfs_t
	if err := unix.Statfs(w.state(), &st); err != nil {
		t.Fatal(err)
	}
	free, all := int64(st.Bavail)*st.Bsize, int64(st.Blocks)*st.Bsize
	ask := min(free/10*7, all/2) &^ 4095
	if 2*ask < free+free/10 {
		t.Skipf("%d of %d bytes of the disk are free: two jobs fit in any case", free, all)
	}
	scratch := map[string]any{"scratch": ask}
	first := w.submit("echo up; "+endless, "resources", scratch)
	w.printed(first.ID, "up")
	second := w.submit("echo second", "resources", scratch)
	third := w.submit("echo third")
	if job := w.wait(third.ID); job.State != "succeeded" {
		t.Errorf("a job that asks for none: %+v", job)
	}
	why, err := w.client.Why(t.Context(), second.ID)
	if err != nil || !strings.Contains(fmt.Sprint(why), "scratch: it needs ") || !strings.Contains(fmt.Sprint(why), "of the disk are free") {
		t.Errorf("why: %+v, %v", why, err)
	}
	if job := w.job(second.ID); job.State != "queued" {
		t.Errorf("the second job: %+v", job)
	}
	w.cancel(first.ID)
	if job := w.wait(second.ID); job.State != "succeeded" {
		t.Errorf("when there is room: %+v", job)
	}
}

// TestSwapAdmission: swap beyond the machine's is refused at once.
func TestSwapAdmission(t *testing.T) {
	w := newWorld(t)
	_, err := w.client.Submit(t.Context(), document("x", "resources", map[string]any{"memory": "16m", "swap": "1024t"}))
	if client.Kind(err) != "bad-request" || !strings.Contains(err.Error(), "resources.swap: the job asks for") || !strings.Contains(err.Error(), "at most") {
		t.Errorf("more than the machine has: %v", err)
	}
}
