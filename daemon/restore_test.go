package daemon_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/daemon/client"
)

// restore runs the command as an admin would.
func (w *world) restore(args ...string) (said string, err error) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), binary, append([]string{"restore", "--config", w.config}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestRestoreDrill is what girder-worker(1) says to try before it is needed.
func TestRestoreDrill(t *testing.T) {
	w := newWorld(t)
	ended := w.wait(w.submit("echo done").ID)
	held := w.submit("exit 4", "hold", "to be restored")
	begun := w.submit("exit 0", "hold", "to be restored")
	file := filepath.Join(w.dir, "backup")
	if out, err := exec.CommandContext(t.Context(), binary, "--socket", w.socket(), "backup", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	later := w.submit("exit 0")
	w.wait(later.ID)
	if _, err := w.client.Release(t.Context(), begun.ID); err != nil {
		t.Fatal(err)
	}
	w.wait(begun.ID)

	if said, err := w.restore("--force", file); err == nil || !strings.Contains(said, "in use by another daemon") || !strings.Contains(said, "systemctl stop") {
		t.Errorf("with a daemon: %v: %s", err, said)
	}
	w.stop()
	if said, err := w.restore(file); err == nil || !strings.Contains(said, "not empty") || !strings.Contains(said, "--force") {
		t.Errorf("in place of jobs: %v: %s", err, said)
	}
	said, err := w.restore("--force", file)
	if err != nil || !strings.Contains(said, "2 held, 1 succeeded") || !strings.Contains(said, "before-restore") {
		t.Fatalf("%v: %s", err, said)
	}
	w.start()

	if job := w.job(ended.ID); job.State != "succeeded" || w.log(ended.ID) != "done\n" {
		t.Errorf("the job that had ended: %+v, log %q", job, w.log(ended.ID))
	}
	if _, err := w.client.Job(t.Context(), later.ID); client.Kind(err) != "not-found" {
		t.Errorf("the job that the backup lacks: %v", err)
	}
	for _, id := range []string{held.ID, begun.ID} {
		if _, err := w.client.Release(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if job := w.wait(held.ID); job.State != "failed" || *job.ExitCode != 4 {
		t.Errorf("the job that waited: %+v", job)
	}
	// It has run already, and does not twice by itself.
	if job := w.wait(begun.ID); job.State != "failed" || !strings.Contains(job.Error, "it was started before") {
		t.Errorf("the job that was started since: %+v", job)
	}
	again, err := w.client.Retry(t.Context(), begun.ID)
	if err != nil {
		t.Fatal(err)
	}
	if job := w.wait(again.ID); job.State != "succeeded" {
		t.Errorf("its copy: %+v", job)
	}

	// On a new machine the state directory is empty, and the backup comes by a pipe.
	w.stop()
	if err := os.RemoveAll(filepath.Join(w.state(), "queue")); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "restore", "--config", w.config, "-")
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "2 held, 1 succeeded") {
		t.Fatalf("%v: %s", err, out)
	}
	w.start()
	if job := w.job(held.ID); job.State != "held" {
		t.Errorf("after the second: %+v", job)
	}
}
