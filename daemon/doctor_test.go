package daemon_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"girderworker/daemon/client"
)

type finding struct{ Check, Level, Text, Hint string }

// doctor runs the command as a user, and returns what it found by check.
func (w *world) doctor(uid int, args ...string) (found map[string][]finding, code int) {
	w.t.Helper()
	attr := &syscall.SysProcAttr{}
	if uid != 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: memberGID}
	}
	return w.doctorIn(attr, args...)
}

func (w *world) doctorIn(attr *syscall.SysProcAttr, args ...string) (found map[string][]finding, code int) {
	w.t.Helper()
	cmd := exec.Command(binary, append([]string{"doctor", "--json", "--config", w.config}, args...)...)
	cmd.SysProcAttr = attr
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
	w.configure("api_url = http://u:geheim@127.0.0.1/api/v1")
	credential := filepath.Join(filepath.Dir(w.config), "broker")
	if err := os.WriteFile(credential, []byte("amqp://u:geheim@"+freeAddress(t)+"/\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	found, _ = w.doctor(0)
	level(t, found, "configuration", "failure", "api_url")
	level(t, found, "broker", "failure", "nothing listens")
	level(t, found, "broker", "warning", "others than root may read "+credential)
	if strings.Contains(fmt.Sprint(found), "geheim") {
		t.Error("a password is told")
	}
	w.configure("api_url = http://"+freeAddress(t)+"/api/v1", "[celery]", "broker = amqp://u:geheim@"+freeAddress(t))
	found, _ = w.doctor(0)
	level(t, found, "broker", "failure", "nothing listens")
	level(t, found, "girder", "failure", "cannot reach")
	if strings.Contains(fmt.Sprint(found), "geheim") {
		t.Error("a password is told")
	}
}

// TestDoctorJobs: what jobs would miss is told before the first of them does.
func TestDoctorJobs(t *testing.T) {
	w := newWorld(t)
	w.stop()
	etc := filepath.Dir(w.config)
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(etc, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rules := write("policy.toml", "[amqp]\ntransfers = [\"nowhere.invalid:443\", \"192.0.2.0/24\"]\n[group.4]\ngirder_key = true\n", 0o644)
	key := filepath.Join(etc, "girder.key")
	outside := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET} // the name is asked of nobody
	look := func(lines ...string) map[string][]finding {
		t.Helper()
		w.configure(append([]string{"policy_file = " + rules}, lines...)...)
		found, _ := w.doctorIn(outside)
		return found
	}

	found := look("slots = 4", "[limits]", "scratch = 1MiB")
	level(t, found, "transfers", "ok", "[socket] of the policy: a task's own Girder, and *, local")
	level(t, found, "transfers", "ok", "192.0.2.0/24")
	level(t, found, "transfers", "warning", "nowhere.invalid, a name that leads nowhere")
	level(t, found, "girder key", "warning", "this machine has none")
	level(t, found, "python", "ok", "no interpreter")
	level(t, found, "room", "ok", "0.5 cpus, 64.0 MiB of memory and 1.0 MiB to write to: 4 slots")
	level(t, found, "tasks", "skipped", "does not answer")
	found, _ = w.doctor(0, "--airgap")
	level(t, found, "transfers", "skipped", "nowhere.invalid")
	level(t, found, "airgap", "ok", "nothing tried")

	lend := []string{"girder_url = http://127.0.0.1:9/api/v1", "girder_key_file = " + key}
	level(t, look(lend...), "girder key", "failure", "there is no "+key)
	write("girder.key", "k0123456789", 0o644)
	level(t, look(lend...), "girder key", "failure", "mode 0644")
	write("girder.key", "two words", 0o600)
	level(t, look(lend...), "girder key", "failure", "more than a key")
	write("girder.key", "k0123456789", 0o600)
	found = look(lend...)
	level(t, found, "girder key", "ok", "http://127.0.0.1:9/api/v1")
	if strings.Contains(fmt.Sprint(found), "k0123456789") {
		t.Error("the key is told")
	}
	person, _ := w.doctor(personUID)
	level(t, person, "girder key", "skipped", "only root")
	write("policy.toml", "[amqp]\ntransfers = []\n", 0o644)
	found = look(lend...)
	level(t, found, "girder key", "warning", "lends it to nobody")
	level(t, found, "transfers", "ok", "[amqp] of the policy: to a task's own Girder alone")

	level(t, look("memory = 160MiB", "slots = 4", "[limits]", "scratch = 1MiB"), "room", "warning", "2 fit into 160.0 MiB of memory")
	level(t, look("memory = 32MiB", "slots = 4", "[limits]", "scratch = 1MiB"), "room", "failure", "not one fits into 32.0 MiB of memory")

	// Below the tests' own directory, which is below /tmp, and which is not everybody's.
	level(t, look("python = /usr/bin/python3,"+filepath.Join(etc, "venv")), "python", "failure", "no such file")
	write("venv/bin/python3", "#!/bin/sh\n", 0o755)
	level(t, look("python = "+filepath.Join(etc, "venv")), "python", "failure", "functions do not see")
	level(t, look("python = /etc/passwd"), "python", "failure", "no program that everybody may run")
	level(t, look("python = /bin/sh"), "python", "ok", "/bin/sh")

	if err := os.MkdirAll(w.tasksDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.tasksDir(), "bad.toml"), []byte("name = \"lab.bad\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure()
	w.start()
	found, _ = w.doctor(0)
	level(t, found, "tasks", "warning", "bad.toml: image: missing")
	level(t, found, "tasks", "ok", "0, of "+w.tasksDir())
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
