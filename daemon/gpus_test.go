package daemon_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/client"
	"girderworker/sandbox/image/imagetest"
)

// gpuWorld is a daemon on a machine with two devices of a made-up vendor.
func gpuWorld(t *testing.T) (w *world, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "gpu-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeGPUs(t, dir, 0, 1)
	w = newWorld(t)
	w.stop()
	w.configureGPUs(dir, 1)
	w.start()
	return w, dir
}

func (w *world) configureGPUs(dir string, share int) {
	w.t.Helper()
	w.configure("slots = 8")
	f, err := os.OpenFile(w.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintf(f, "[gpus]\ncdi_dirs = %s\nkinds = example.com/gpu\nshare = %d\n", dir, share); err != nil {
		w.t.Fatal(err)
	}
}

func writeGPUs(t *testing.T, dir string, numbers ...int) {
	t.Helper()
	text := "cdiVersion: 0.6.0\nkind: example.com/gpu\ndevices:\n"
	for _, n := range numbers {
		node := fmt.Sprintf("%s/node%d", dir, n)
		// The number of /dev/full, which every container has.
		if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 7))); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
		text += fmt.Sprintf("- name: \"%d\"\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/example%d, hostPath: %s}\n", n, n, node)
	}
	temporary := filepath.Join(dir, "new")
	if err := os.WriteFile(temporary, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(dir, "vendor.yaml")); err != nil {
		t.Fatal(err)
	}
}

var oneGPU = map[string]any{"gpus": 1}

// gpuStatus is who has which, as status says.
func (w *world) gpuStatus() string {
	w.t.Helper()
	st, err := w.client.Status(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var text []string
	for _, g := range st.GPUs {
		text = append(text, strings.TrimPrefix(g.Name, "example.com/gpu=")+":"+strings.Join(g.Jobs, "+"))
		if g.Missing {
			text = append(text, "missing")
		}
	}
	return strings.Join(text, " ")
}

const holdGPU = "ls /dev | grep example; " + endless

// TestGPUs: each device is one job's at a time, through restarts of the daemon;
// a job that needs one which is not there waits, and is told why.
func TestGPUs(t *testing.T) {
	w, dir := gpuWorld(t)
	if _, err := w.client.Submit(t.Context(), document("x", "resources", map[string]any{"gpus": 3})); client.Kind(err) != "bad-request" || !strings.Contains(err.Error(), "at most 2") {
		t.Errorf("a job of 3 GPUs: %v", err)
	}
	first := w.submit(holdGPU, "resources", oneGPU)
	w.printed(first.ID, "example0\nup")
	second := w.submit(holdGPU, "resources", oneGPU)
	w.printed(second.ID, "example1\nup")
	third := w.submit(holdGPU, "resources", oneGPU)
	none := w.submit("ls /dev | grep -c example")
	if job := w.wait(none.ID); w.log(job.ID) != "0\n" {
		t.Errorf("a job without GPUs: %q", w.log(job.ID))
	}
	if got, want := w.gpuStatus(), "0:"+first.ID+" 1:"+second.ID; got != want {
		t.Errorf("status %s, want %s", got, want)
	}
	if job := w.job(third.ID); job.State != "queued" {
		t.Errorf("a job beyond the GPUs: %+v", job)
	}

	// A front that is killed, and one that is stopped, leave their holders to the next.
	if err := w.front().Kill(); err != nil {
		t.Fatal(err)
	}
	w.waitExit()
	w.start()
	if got, want := w.gpuStatus(), "0:"+first.ID+" 1:"+second.ID; got != want {
		t.Errorf("status after a crash %s, want %s", got, want)
	}
	w.cancel(first.ID)
	w.printed(third.ID, "example0\nup")
	if got, want := w.gpuStatus(), "0:"+third.ID+" 1:"+second.ID; got != want {
		t.Errorf("status %s, want %s", got, want)
	}

	// The device disappears, with a job on it and one that waits.
	fourth := w.submit(holdGPU, "resources", oneGPU)
	writeGPUs(t, dir, 1)
	w.eventually("the device is missed", func() bool { return w.gpuStatus() == "1:"+second.ID+" 0:"+third.ID+" missing" })
	w.cancel(third.ID)
	w.eventually("it is nobody's", func() bool { return w.gpuStatus() == "1:"+second.ID })
	why, err := w.client.Why(t.Context(), fourth.ID)
	if err != nil || !strings.Contains(fmt.Sprint(why), "gpus: it needs 1, 0 of 1 are free") {
		t.Errorf("why: %+v, %v", why, err)
	}
	writeGPUs(t, dir)
	w.eventually("both are missed", func() bool { return w.gpuStatus() == "1:"+second.ID+" missing" })
	if why, err := w.client.Why(t.Context(), fourth.ID); err != nil || !strings.Contains(fmt.Sprint(why), "gpus: it needs 1") {
		t.Errorf("why: %+v, %v", why, err)
	}
	if _, err := w.client.Submit(t.Context(), document("x", "resources", oneGPU)); client.Kind(err) != "bad-request" {
		t.Errorf("a job on a machine without: %v", err)
	}
	writeGPUs(t, dir, 0, 1)
	w.printed(fourth.ID, "example0\nup")
	for _, id := range []string{second.ID, fourth.ID} {
		w.cancel(id)
	}
}

// TestGPUShare: several jobs on a device where the configuration says so. Two
// shares of one device are not two devices.
func TestGPUShare(t *testing.T) {
	w, dir := gpuWorld(t)
	w.stop()
	w.configureGPUs(dir, 2)
	w.start()
	var ids []string
	for _, want := range []string{"example0", "example1", "example0"} {
		job := w.submit(holdGPU, "resources", oneGPU)
		w.printed(job.ID, want+"\nup")
		ids = append(ids, job.ID)
	}
	w.cancel(ids[1]) // now one share of the first and both of the second are taken or free
	fourth := w.submit(holdGPU, "resources", oneGPU)
	w.printed(fourth.ID, "example1\nup")
	w.cancel(ids[2])
	both := w.submit(holdGPU, "resources", map[string]any{"gpus": 2})
	w.printed(both.ID, "example0\nexample1\nup")
	waits := w.submit(holdGPU, "resources", oneGPU)
	if job := w.job(waits.ID); job.State != "queued" {
		t.Errorf("a job beyond all shares: %+v", job)
	}
	for _, id := range []string{waits.ID, both.ID, fourth.ID, ids[0]} {
		w.cancel(id)
	}
}

// TestGPUWait: a claimed job whose GPUs are not free can be canceled.
func TestGPUWait(t *testing.T) {
	w, dir := gpuWorld(t)
	w.stop()
	w.configureGPUs(dir, 2)
	w.start()
	var ids []string
	for range 4 {
		job := w.submit(holdGPU, "resources", oneGPU)
		w.printed(job.ID, "up")
		ids = append(ids, job.ID)
	}
	// Two shares are free, both of one device.
	w.cancel(ids[0])
	w.cancel(ids[2])
	both := w.submit(holdGPU, "resources", map[string]any{"gpus": 2})
	w.eventually("it waits for a GPU", func() bool { return w.job(both.ID).Stage == "waiting for a GPU" })
	// It is in nobody's way.
	if job := w.wait(w.submit("exit 0").ID); job.State != "succeeded" {
		t.Errorf("another job: %+v", job)
	}
	w.cancel(both.ID)
	for _, id := range []string{ids[1], ids[3]} {
		w.cancel(id)
	}
}

// TestGPUNames: a job gets the devices that it names, waits for them and keeps those
// who do not care off them; all are those that policy grants.
func TestGPUNames(t *testing.T) {
	w, dir := gpuWorld(t)
	w.stop()
	policy := filepath.Join(w.dir, "policy.toml")
	if err := os.WriteFile(policy, []byte("[socket]\ngpus = 2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure("slots = 8\npolicy_file = " + policy + "\n[gpus]\ncdi_dirs = " + dir + "\nkinds = example.com/gpu,other.example/gpu")
	writeGPUs(t, dir, 0, 1, 2)
	w.start()
	for devices, says := range map[string]string{
		"7":                             `there is no GPU "7"; there are example.com/gpu=0, example.com/gpu=1, example.com/gpu=2`,
		"0,example.com/gpu=0":           "a second name of example.com/gpu=0",
		"0,1,2":                         "3 are not allowed: gpus of the policy allows 2",
		"nvidia.com/gpu=0":              "there is no GPU",
		"example.com/gpu=0/../../dev/x": "no name of a GPU",
	} {
		_, err := w.client.Submit(t.Context(), document("x", "resources", map[string]any{"gpu_devices": devices}))
		if client.Kind(err) != "bad-request" || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "resources.gpu_devices") {
			t.Errorf("%s: %v", devices, err)
		}
	}
	w.eventually("the audit log tells of what policy refused", func() bool {
		log, err := os.ReadFile(filepath.Join(w.state(), "audit.jsonl"))
		return err == nil && strings.Contains(string(log), "resources.gpus: 3 are not allowed: gpus of the policy allows 2")
	})
	all := w.submit(holdGPU, "resources", map[string]any{"gpus": -1})
	w.printed(all.ID, "example0\nexample1\nup")
	w.cancel(all.ID)

	first := w.submit(holdGPU, "resources", map[string]any{"gpu_devices": "1"})
	w.printed(first.ID, "example1\nup")
	again := w.submit(holdGPU, "resources", map[string]any{"gpu_devices": "example.com/gpu=1"})
	w.eventually("it waits for its device", func() bool { return w.job(again.ID).Stage == "waiting for a GPU" })
	other := w.submit(holdGPU, "resources", oneGPU)
	w.printed(other.ID, "example0\nup")
	last := w.submit(holdGPU, "resources", oneGPU)
	if job := w.job(last.ID); job.State != "queued" {
		t.Errorf("a fourth job of three devices: %+v", job)
	}
	w.cancel(first.ID)
	w.printed(again.ID, "example1\nup")
	w.printed(last.ID, "example2\nup")
	if got, want := w.gpuStatus(), "0:"+other.ID+" 1:"+again.ID+" 2:"+last.ID; got != want {
		t.Errorf("status %s, want %s", got, want)
	}
	for _, id := range []string{again.ID, other.ID, last.ID} {
		w.cancel(id)
	}
	// Policy that no longer grants the kind is asked again.
	if err := os.WriteFile(policy, []byte("[socket]\ngpu_kinds = [\"other.example/gpu\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("policy refuses it", func() bool {
		_, err := w.client.Submit(t.Context(), document("x", "hold", "not to run", "resources", map[string]any{"gpu_devices": "1"}))
		return err != nil && strings.Contains(err.Error(), "example.com/gpu=1 is not allowed by gpu_kinds")
	})
}

func (w *world) cancel(id string) {
	w.t.Helper()
	if _, err := w.client.Cancel(w.t.Context(), id, ""); err != nil {
		w.t.Fatal(err)
	}
	if job := w.wait(id); job.State != "canceled" {
		w.t.Errorf("canceled job: %+v", job)
	}
}

// TestGPULabel: an image that says it wants a GPU gets one, or is refused.
func TestGPULabel(t *testing.T) {
	w, dir := gpuWorld(t)
	busybox, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	busybox.Refs = []string{"labelled:1"}
	busybox.Labels = map[string]string{"com.nvidia.volumes.needed": "nvidia_driver"}
	var b bytes.Buffer
	if err := imagetest.DockerArchive(&b, busybox); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.ImportImage(t.Context(), &b, "", false); err != nil {
		t.Fatal(err)
	}
	held := w.submit(holdGPU, "image", "labelled:1")
	w.printed(held.ID, "example0\nup")
	if got := w.gpuStatus(); got != "0:"+held.ID+" 1:" {
		t.Errorf("status %s", got)
	}
	declined := w.submit("ls /dev | grep -c example", "image", "labelled:1", "env", map[string]string{"NVIDIA_VISIBLE_DEVICES": "void"})
	if job := w.wait(declined.ID); w.log(job.ID) != "0\n" {
		t.Errorf("declined: %q", w.log(job.ID))
	}
	w.cancel(held.ID)
	writeGPUs(t, dir)
	w.eventually("there is none", func() bool { return w.gpuStatus() == "" })
	if _, err := w.client.Submit(t.Context(), document("x", "image", "labelled:1")); client.Kind(err) != "bad-request" || !strings.Contains(err.Error(), "has none") {
		t.Errorf("without a GPU: %v", err)
	}
}
