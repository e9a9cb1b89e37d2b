package daemon_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/client"
)

type finding struct{ Check, Level, Text, Hint string }

// doctor runs the command as a user, and returns what it found by check.
func (w *world) doctor(uid int, args ...string) (found map[string][]finding, code int) {
	w.t.Helper()
	cmd := exec.Command(binary, append([]string{"doctor", "--json", "--config", w.config}, args...)...)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: memberGID}}
	}
	cmd.Dir = "/"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	code = exitCode(err)
	var answer struct {
		OK       bool
		Findings []finding
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		w.t.Fatalf("%v, exit code %d\n%s%s", err, code, out, &stderr)
	}
	if answer.OK != (code == 0) {
		w.t.Errorf("ok is %v, and the exit code %d", answer.OK, code)
	}
	found = map[string][]finding{}
	for _, f := range answer.Findings {
		found[f.Check] = append(found[f.Check], f)
	}
	return found, code
}

func level(t *testing.T, found map[string][]finding, check, want, text string) {
	t.Helper()
	for _, f := range found[check] {
		if f.Level == want && strings.Contains(f.Text, text) {
			return
		}
	}
	t.Errorf("%s: %q, want %s with %q", check, found[check], want, text)
}

// TestDoctor: root and an ordinary user have a container run, and nothing of it
// is left.
func TestDoctor(t *testing.T) {
	w := newWorld(t)
	found, _ := w.doctor(0)
	for check, text := range map[string]string{
		"container": "through the daemon", "daemon": "up for", "overlay": "mounted", "sync": "a write", "images": "1,", "socket": w.socket(),
		"seccomp": "errno", "configuration": w.config,
	} {
		level(t, found, check, "ok", text)
	}
	found, _ = w.doctor(personUID)
	level(t, found, "container", "ok", "through the daemon")
	level(t, found, "overlay", "skipped", "only root")
	level(t, found, "sync", "skipped", "only root")
	if jobs, err := w.client.Jobs(t.Context(), client.JobFilter{}); err != nil || len(jobs.Jobs) != 0 {
		t.Errorf("jobs are left: %v, %v", jobs.Jobs, err)
	}
	// The layer of the built-in image, always the same, stays without a name until the
	// next prune.
	images, err := w.client.Images(t.Context())
	if err != nil || len(images) > 2 {
		t.Errorf("images are left: %v, %v", images, err)
	}
	for _, i := range images {
		if len(i.Names) > 0 && i.Names[0] != "busybox:latest" {
			t.Errorf("an image is left: %v", i)
		}
	}

	if _, err := w.client.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, _ = w.doctor(0)
	level(t, found, "container", "skipped", "paused")
	level(t, found, "daemon", "warning", "paused")
	w.stop()
	found, code := w.doctor(0)
	level(t, found, "daemon", "failure", "not running")
	if code != 1 {
		t.Errorf("exit code %d", code)
	}
	// A line that means nothing, and a broker that is not there.
	w.configure("slots = none", "[celery]", "broker = amqp://"+freeAddress(t))
	found, _ = w.doctor(0)
	level(t, found, "configuration", "failure", w.config+":")
	w.configure("api_url = http://"+freeAddress(t)+"/api/v1", "[celery]", "broker = amqp://u:geheim@"+freeAddress(t))
	found, _ = w.doctor(0)
	level(t, found, "broker", "failure", "nothing listens")
	level(t, found, "girder", "failure", "cannot reach")
	if strings.Contains(fmt.Sprint(found), "geheim") {
		t.Error("a password is told")
	}
}

// TestDoctorAirgap: what is configured outside is not asked, a container runs where
// there is no network, and a socket that counts connections hears of none.
func TestDoctorAirgap(t *testing.T) {
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	called := make(chan struct{})
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				close(called)
				return
			}
			c.Close()
			t.Error("somebody connected")
		}
	}()
	w.configure("api_url = http://"+listener.Addr().String()+"/api/v1", "[celery]", "broker = amqp://"+listener.Addr().String(),
		"[images]", "registries = "+listener.Addr().String())
	found, code := w.doctor(0, "--airgap")
	level(t, found, "container", "ok", "a daemon of its own")
	level(t, found, "airgap", "ok", "nothing tried")
	for _, check := range []string{"broker", "girder", "registry"} {
		level(t, found, check, "skipped", "another machine")
	}
	if found["airgap"] == nil || code == 125 {
		t.Errorf("exit code %d: %v", code, found)
	}
	// As an ordinary user there is still a proof of what doctor itself does, where
	// people may make namespaces.
	found, _ = w.doctor(personUID, "--airgap")
	level(t, found, "airgap", "ok", "says nothing")
	level(t, found, "container", "ok", "through the daemon")
	listener.Close()
	<-called
}
