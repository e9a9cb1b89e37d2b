package daemon_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

// A submitter is refused what policy does not grant, and told so; a change counts
// at once, a bad one not at all; and all of it is in the audit log.
func TestPolicy(t *testing.T) {
	w := newWorld(t)
	w.stop()
	file := filepath.Join(filepath.Dir(w.config), "policy.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("[socket]\nwrite = []\nread = []\nmemory = \"100M\"\n")
	w.configure("slots = 4", "policy_file = "+file)
	w.start()
	refused := func(field, text string, fields ...any) {
		t.Helper()
		_, err := w.client.Submit(t.Context(), document("true", fields...))
		var api *client.Error
		if !errors.As(err, &api) || api.Kind != apitype.KindForbidden || api.Field != field || !strings.Contains(api.Text, text) {
			t.Errorf("%v, want %s: %s", err, field, text)
		}
	}
	binds := []map[string]any{{"source": "/home", "target": "/x", "read_only": true}}
	refused("binds", "with read or write in a section of policy.toml for you (yours: [socket])", "binds", binds)
	refused("network", "host is not allowed", "network", "host")
	refused("resources.memory", "more than 100.0 MiB", "resources", map[string]any{"memory": "200M"})
	if job := w.wait(w.submit("true").ID); job.State != "succeeded" {
		t.Errorf("a job that names nothing: %+v", job)
	}
	held := w.submit("true", "hold", "later", "resources", map[string]any{"memory": "90M"})

	write("[socket\n")
	w.eventually("a bad policy is told", func() bool {
		st, err := w.client.Status(t.Context())
		return err == nil && strings.Contains(strings.Join(st.Warnings, " "), "the policy on disk is bad and not in use")
	})
	refused("network", "host is not allowed", "network", "host")
	// What was accepted is judged again when it starts.
	write("[socket]\nmemory = \"50M\"\n")
	w.eventually("the new policy counts", func() bool {
		_, err := w.client.Submit(t.Context(), document("true", "hold", "x", "resources", map[string]any{"memory": "60M"}))
		return err != nil
	})
	if _, err := w.client.Release(t.Context(), held.ID); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(held.ID); job.State != "failed" || !strings.Contains(job.Error, "resources.memory: 90.0 MiB are more than 50.0 MiB") {
		t.Errorf("a job that policy allows no more: %+v", job)
	}
	for _, event := range []string{`"event":"start"`, `"event":"end"`, `"by":"front"`, "90.0 MiB are more than 50.0 MiB"} {
		w.eventually("the audit log has "+event, func() bool {
			audit, err := os.ReadFile(filepath.Join(w.state(), "audit.jsonl"))
			return err == nil && strings.Contains(string(audit), event)
		})
	}
}

// Nobody who may submit reads anything of anybody else's, or of the daemon's.
func TestHostileReader(t *testing.T) {
	w := newWorld(t)
	job := w.submit("echo secret; sleep 1000", "env", map[string]string{"TOKEN": "hush"})
	w.printed(job.ID, "secret")
	tried, refused := 0, 0
	for _, path := range []string{
		"jobs", "jobs/" + job.ID, "jobs/" + job.ID + "/1/log", "jobs/" + job.ID + "/1/request.json", "jobs/" + job.ID + "/1/events",
		"jobs/" + job.ID + "/1/lock", "jobs/" + job.ID + "/1/secrets.json", "work", "work/" + job.ID + "-1", "queue", "queue/queue.db", "spool",
		"seal.key", "ids.json", "audit.jsonl", "cache", "images/index.json", "lock",
	} {
		for _, verb := range []string{"cat", "ls", "touch"} {
			tried++
			cmd := exec.Command(verb, filepath.Join(w.state(), path))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: personUID, Gid: memberGID, Groups: []uint32{memberGID}}}
			out, err := cmd.CombinedOutput()
			// A name that can be seen in a directory that may be passed is no content.
			if err == nil && (verb != "ls" || strings.TrimSpace(string(out)) != filepath.Join(w.state(), path)) {
				t.Errorf("%s of %s: %q", verb, path, out)
				continue
			}
			refused++
		}
	}
	t.Logf("hostile: %d reads of the daemon's files tried, %d refused", tried, refused)
	if _, err := w.client.Cancel(t.Context(), job.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.wait(job.ID)
}
