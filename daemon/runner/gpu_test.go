package runner

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/cgroup"
)

// The real devices that the made-up ones are: a container has no right to them
// otherwise, and opening them does nothing.
var realDevices = []uint64{unix.Mkdev(10, 229), unix.Mkdev(10, 237)} // fuse, loop-control

const gpuKind = "example.com/gpu"

// gpuMachine describes two devices of a made-up vendor. Only root can write there.
func gpuMachine(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "gpu-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "cdiVersion: 0.6.0\nkind: " + gpuKind + "\ndevices:\n"
	for i, number := range realDevices {
		if err := unix.Mknod(fmt.Sprintf("%s/node%d", dir, i), unix.S_IFCHR|0o600, int(number)); err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("- name: \"%d\"\n  containerEdits:\n    env: [EXAMPLE_DEVICE_%d=yes]\n    deviceNodes:\n    - {path: /dev/example%d, hostPath: %s/node%d, permissions: rw}\n", i, i, i, dir, i)
	}
	text += fmt.Sprintf(`containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  mounts:
  - {hostPath: %[1]s/library, containerPath: /usr/lib/libexample.so.1.2.3, options: [ro, nosuid, nodev, bind]}
  hooks:
  - {hookName: createContainer, path: %[1]s/hook, args: [hook, "/usr/lib/libexample.so"]}
`, dir)
	// Like a vendor's: it makes a link in the container's root, which it finds by the bundle.
	hook := `#!/bin/sh -e
state=$(cat)
bundle=${state#*\"bundle\":\"} bundle=${bundle%%\"*}
config=$(cat "$bundle/config.json")
root=${config#*\"path\":\"} root=${root%%\"*}
ln -s libexample.so.1.2.3 "$root$1"
id -u > "$root/hook-ran-as"
cat /proc/self/uid_map > "$root/hook-uid-map"
env > "$root/hook-env"
`
	for name, content := range map[string]string{"library": "code\n", "vendor.yaml": text, "hook": hook} {
		mode := os.FileMode(0o644)
		if name == "hook" {
			mode = 0o755
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func gpuWorld(t *testing.T, dir, script string, names ...string) *world {
	w := newWorld(t, sh(script)...)
	w.request.Resources.GPUs = names
	w.request.Grant.GPUs = &attempt.GPUs{Dirs: []string{dir}, Kinds: []string{gpuKind}, Hooks: []string{dir + "/hook"}}
	return w
}

// TestGPU: a container has the device that it was given, usable by any of its
// users, and what its file says beside it; and not the other device.
func TestGPU(t *testing.T) {
	dir := gpuMachine(t)
	w := gpuWorld(t, dir, strings.Join([]string{
		"exec 2>/dev/null",
		"(exec 3<>/dev/example1) && echo opened",
		"ls -l /dev/example1 | cut -c1-10; ls /dev | grep example",
		"echo $EXAMPLE_DEVICE_0$EXAMPLE_DEVICE_1 $NVIDIA_VISIBLE_DEVICES",
		"cat /usr/lib/libexample.so /hook-ran-as; grep -c " + fmt.Sprint(submitter) + " /hook-uid-map; grep SECRET /hook-env",
		"echo x > /usr/lib/libexample.so.1.2.3 && echo GOT the library",
		"mknod /tmp/other c 10 237 && echo GOT a node; mknod /dev/other c 10 229 && echo GOT another",
		"echo ---; touch /in/up; while [ ! -e /in/end ]; do usleep 10000; done",
	}, "\n"), gpuKind+"=1")
	w.request.Plan.Binds = append(w.request.Plan.Binds, bindOf(w.files, "/in"))
	w.request.Plan.Binds[0].ReadOnly = false
	w.request.Plan.Env = []string{"NVIDIA_VISIBLE_DEVICES=all", "LD_PRELOAD=/SECRET.so"}
	p := w.start()
	w.waitLog("---\n")

	// The cgroup's rules, whoever has a node: from a process that is put into it.
	for i := range realDevices {
		err := openWithin(t, w.request.Grant.Cgroup, fmt.Sprintf("%s/node%d", dir, i))
		if granted := i == 1; granted != (err == nil) {
			t.Errorf("device %d, granted %v: open from within the cgroup: %v", i, granted, err)
		}
	}
	w.file("end", nil)
	w.want(w.end(p), attempt.OutcomeExited, 0, "")
	var lines []string
	for line := range strings.Lines(w.log()) {
		if line = strings.TrimLeft(strings.TrimSpace(line), "]"); !strings.HasPrefix(line, "[2:") {
			lines = append(lines, line)
		}
	}
	if got, want := strings.Join(lines, "|"), "opened|crw-rw-rw-|example1|yes void|code|0|1|---"; got != want {
		t.Errorf("got  %s\nwant %s\nin %s", got, want, w.log())
	}
	if strings.Contains(w.log(), "GOT") {
		t.Error(w.log())
	}
}

// openWithin opens a device from a process of root's in a container's cgroup.
func openWithin(t *testing.T, group, node string) error {
	t.Helper()
	procs := filepath.Join("/sys/fs/cgroup/devices", group, "cgroup.procs")
	if cgroup.Unified() {
		procs = filepath.Join("/sys/fs/cgroup", group, "cgroup.procs")
	}
	// /run lets nobody use a node.
	script := `mount -t tmpfs x /mnt; cp -a "$2" /mnt/node; exec 3<>/mnt/node 3>&-; echo $$ > "$1"; exec 3<>/mnt/node`
	out, err := exec.Command("unshare", "-m", "sh", "-ec", script, "sh", procs, node).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
		if !strings.Contains(string(out), "not permitted") {
			t.Errorf("not what was to be tried: %v", err)
		}
	}
	return err
}

// TestGPUGone: a device that disappeared between claim and start is the reason.
func TestGPUGone(t *testing.T) {
	dir := gpuMachine(t)
	if err := os.Remove(dir + "/node0"); err != nil {
		t.Fatal(err)
	}
	w := gpuWorld(t, dir, "echo ran", gpuKind+"=0")
	w.want(w.run(), attempt.OutcomeError, attempt.CodeError, "not there any more")
}

// TestGPUNotGranted: what an image or a job says of GPUs gives it none.
func TestGPUNotGranted(t *testing.T) {
	w := newWorld(t, sh("ls /dev | grep -c -e nvidia -e example -e dri -e fuse; env | grep VISIBLE; mknod /tmp/fuse c 10 229 && echo GOT it")...)
	w.request.Plan.Env = []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"}
	w.run()
	if log := w.log(); !strings.HasPrefix(log, "0\n") || strings.Contains(log, "GOT") {
		t.Errorf("log: %s", log)
	}
}
