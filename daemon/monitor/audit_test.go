package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

func readAudit(t *testing.T, path string) (records []map[string]any) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var r map[string]any
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		records = append(records, r)
	}
	return records
}

// Every start, end and refusal is told, and nothing secret.
func TestAudit(t *testing.T) {
	o := testOptions(t)
	o.Audit = filepath.Join(filepath.Dir(o.State), "log", "audit.jsonl")
	d := startDaemon(t, o)
	r := testRequest("job", 1, "exit")
	r.Plan.Env = []string{"TOKEN=hush"}
	r.Plan.Binds = []transforms.Bind{{Source: "/home/x", Target: "/x", ReadOnly: true}}
	r.Identity.PID, r.Identity.Submitter = 77, testJob
	if err := d.start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	waitEnded(t, d.client.Ended(Attempt{"job", 1}))
	r = testRequest("other", 1, "exit")
	r.Plan.Binds = []transforms.Bind{{Source: "/etc", Target: "/x"}}
	if err := d.start(t.Context(), r); !errors.Is(err, ErrRefused) {
		t.Errorf("a bind of /etc: %v", err)
	}
	// The front's word counts only for people who were here.
	for _, seal := range []string{"", "00", strings.Repeat("0", 32)} {
		forged := RefusedJob{Identity: attempt.Identity{UID: 5, Source: "socket", Submitter: 5, Seal: seal}, Reason: "forged"}
		if err := d.client.Refused(t.Context(), forged); err != nil {
			t.Error(err)
		}
	}
	true_ := RefusedJob{Identity: attempt.Identity{UID: 5, Source: "socket", Submitter: 5}, Reason: "no"}
	true_.Identity.Seal = d.seal.seal(&true_.Identity)
	if err := d.client.Refused(t.Context(), true_); err != nil {
		t.Error(err)
	}
	d.end(t)
	got := readAudit(t, o.Audit)
	var events []string
	for _, r := range got {
		events = append(events, r["event"].(string))
	}
	if strings.Join(events, " ") != "start end refused refused" {
		t.Fatalf("%v", got)
	}
	start, end, refused, told := got[0], got[1], got[2], got[3]
	if start["uid"] != float64(testJob) || start["pid"] != 77.0 || start["image_id"] != r.ImageID || start["network"] == nil ||
		!strings.Contains(mustJSON(t, start), `"mounts":[{"read_only":true,"source":"/home/x","target":"/x"}]`) {
		t.Errorf("start: %v", start)
	}
	if end["job"] != "job" || end["code"] != 3.0 || end["outcome"] != "exited" {
		t.Errorf("end: %v", end)
	}
	if !strings.Contains(refused["reason"].(string), "/etc") || refused["run_as"] != nil {
		t.Errorf("refused: %v", refused)
	}
	if told["by"] != "front" || told["uid"] != 5.0 {
		t.Errorf("told: %v", told)
	}
	if text, _ := os.ReadFile(o.Audit); bytes.Contains(text, []byte("hush")) {
		t.Error("the environment is in it")
	}
	if info, err := os.Stat(o.Audit); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func mustJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A file that was renamed is let go of; a link or a pipe in its place is not used.
func TestAuditRotation(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	l := newAuditLog(path, slog.New(slog.DiscardHandler))
	defer l.close()
	l.write(auditRecord{Event: auditStart, Job: "1"})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.write(auditRecord{Event: auditStart, Job: "2"})
	if a, b := readAudit(t, path+".1"), readAudit(t, path); len(a) != 1 || len(b) != 1 || b[0]["job"] != "2" {
		t.Errorf("%v, %v", a, b)
	}
	victim := filepath.Join(dir, "victim")
	for name, place := range map[string]func() error{
		"link": func() error { return os.Symlink(victim, path) },
		"pipe": func() error { return unix.Mkfifo(path, 0o600) },
	} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := place(); err != nil {
			t.Fatal(err)
		}
		l.write(auditRecord{Event: auditStart, Job: name})
	}
	if _, err := os.Lstat(victim); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it followed a link: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	// What was lost is told by the next that is not.
	l.write(auditRecord{Event: auditStart, Job: "3"})
	if r := readAudit(t, path); len(r) != 1 || r[0]["lost"] != 2.0 {
		t.Errorf("%v", r)
	}
}

// A full disk costs lines, no job, and no half lines.
func TestAuditFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Skip("cannot mount: ", err)
	}
	defer unix.Unmount(dir, 0)
	path := filepath.Join(dir, "audit.jsonl")
	l := newAuditLog(path, slog.New(slog.DiscardHandler))
	defer l.close()
	for range 100 {
		l.write(auditRecord{Event: auditStart, Job: strings.Repeat("x", 300)})
	}
	kept := len(readAudit(t, path))
	if kept == 0 || l.lost != 100-kept {
		t.Errorf("%d kept, %d lost", kept, l.lost)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	l.write(auditRecord{Event: auditStart})
	if r := readAudit(t, path); len(r) != 1 || r[0]["lost"] != float64(100-kept) {
		t.Errorf("%v", r)
	}
	l.close()
}

// Nobody fills the disk by being refused.
func TestAuditRefusals(t *testing.T) {
	l := newAuditLog("", nil)
	allowed := 0
	for range 3 * maxRefusals {
		if l.mayRefuse(7) {
			allowed++
		}
	}
	if allowed != maxRefusals || !l.mayRefuse(8) {
		t.Errorf("%d allowed", allowed)
	}
}
