package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// machine is a directory for CDI files and nodes that only root can write to.
func machine(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("files of root's are needed")
	}
	dir, err := os.MkdirTemp("/run", "gpu-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := unix.Mknod(fmt.Sprintf("%s/node%d", dir, i), unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(5+i)))); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const kind = "example.com/gpu"

// vendor is what a vendor's tool writes: each device under its index and its
// UUID, and all of them.
func vendor(dir string) string {
	device := func(name string, nodes ...int) string {
		text := "- name: \"" + name + "\"\n  containerEdits:\n    deviceNodes:\n"
		for _, n := range nodes {
			text += fmt.Sprintf("    - path: /dev/example%d\n      hostPath: %s/node%d\n", n, dir, n)
		}
		return text
	}
	return "cdiVersion: 0.6.0\nkind: " + kind + "\ndevices:\n" +
		device("10", 2) + device("2", 1) + device("GPU-aaaa", 1) + device("GPU-bbbb", 2) + device("all", 1, 2) +
		"containerEdits:\n  env: [EXAMPLE_VISIBLE_DEVICES=void]\n  deviceNodes:\n  - path: /dev/examplectl\n    hostPath: " + dir + "/node0\n    permissions: rw\n" +
		"  mounts:\n  - {hostPath: " + dir + "/vendor.yaml, containerPath: /usr/lib/example.so, options: [ro, bind]}\n"
}

func TestDevices(t *testing.T) {
	dir := machine(t)
	write(t, dir+"/vendor.yaml", vendor(dir))
	write(t, dir+"/nic.json", `{"cdiVersion":"0.6.0","kind":"example.com/nic","devices":[{"name":"0","containerEdits":{"env":["A=b"]}}]}`)
	inv := Read([]string{dir, "/nonexistent"}, []string{kind})
	if len(inv.Problems) > 0 || strings.Join(inv.Devices, " ") != kind+"=2 "+kind+"=10" {
		t.Fatalf("devices %v, problems %v", inv.Devices, inv.Problems)
	}
	for name, want := range map[string]string{"2": "=2", "GPU-bbbb": "=10", kind + "=GPU-aaaa": "=2", kind + "=10": "=10"} {
		if got, err := inv.Find(name); err != nil || got != kind+want {
			t.Errorf("%s is %s, %v", name, got, err)
		}
	}
	for name, says := range map[string]string{"all": "there is no GPU", "1": "there are example.com/gpu=2, example.com/gpu=10", "other.com/gpu=2": "there is no GPU"} {
		if got, err := inv.Find(name); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s is %s, %v", name, got, err)
		}
	}
	write(t, dir+"/other.yaml", strings.ReplaceAll(vendor(dir), kind, "other.com/gpu"))
	if _, err := Read([]string{dir}, []string{kind, "other.com/gpu"}).Find("2"); err == nil || !strings.Contains(err.Error(), "example.com/gpu=2 or other.com/gpu=2; name it in full") {
		t.Errorf("2 of two kinds: %v", err)
	}
	spec := &sandbox.Spec{Env: []string{"EXAMPLE_VISIBLE_DEVICES=all", "X=y"}}
	err := inv.Apply(spec, inv.Devices, nil)
	for _, m := range spec.Mounts {
		defer m.Source.Close()
	}
	if err != nil || len(spec.Mounts) != 1 || !spec.Mounts[0].ReadOnly || strings.Join(spec.Env, " ") != "EXAMPLE_VISIBLE_DEVICES=void X=y" {
		t.Errorf("%+v, %v", spec, err)
	}
	var nodes []string
	for _, d := range spec.Resources.Devices {
		nodes = append(nodes, d.Path+"="+filepath.Base(d.HostPath)+":"+d.Access)
	}
	if got := strings.Join(nodes, " "); got != "/dev/examplectl=node0:rw /dev/example1=node1:rwm /dev/example2=node2:rwm" {
		t.Errorf("nodes %s", got)
	}
	// A device whose node is gone is none, whatever its file says.
	if err := os.Remove(dir + "/node1"); err != nil {
		t.Fatal(err)
	}
	inv = Read([]string{dir}, []string{kind})
	if strings.Join(inv.Devices, " ") != kind+"=10" || len(inv.Problems) == 0 {
		t.Errorf("devices %v, problems %v", inv.Devices, inv.Problems)
	}
	if err := inv.Apply(&sandbox.Spec{}, []string{kind + "=2"}, nil); err == nil || !strings.Contains(err.Error(), "not there any more") {
		t.Errorf("a device that is gone: %v", err)
	}
}

// TestRefused: files and hooks that must not have a say.
func TestRefused(t *testing.T) {
	hook := func(stage, path string) string {
		return fmt.Sprintf(`{"cdiVersion":"0.6.0","kind":%q,"devices":[{"name":"0","containerEdits":{"hooks":[{"hookName":%q,"path":%q,"args":["x"]}]}}]}`, kind, stage, path)
	}
	for _, c := range []struct {
		name   string
		text   string // in which DIR is the directory
		change func(t *testing.T, dir string)
		want   string // of the problem, or of applying
	}{
		{"of another user", `{}`, func(t *testing.T, dir string) { chown(t, dir+"/a.json", 1000) }, "belongs to user 1000"},
		{"writable by others", `{}`, func(t *testing.T, dir string) { chmod(t, dir+"/a.json", 0o666) }, "others than root may write"},
		{"writable by a group", `{}`, func(t *testing.T, dir string) { chmod(t, dir+"/a.json", 0o664) }, "others than root may write"},
		{"in a directory of others", `{}`, func(t *testing.T, dir string) { chmod(t, dir, 0o777) }, "others than root may write"},
		{"a link to what others write", `{}`, func(t *testing.T, dir string) {
			os.Remove(dir + "/a.json")
			if err := os.Symlink(filepath.Join(t.TempDir(), "x"), dir+"/a.json"); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		{"nonsense", `{"cdiVersion":"0.6.0","kind":"example.com/gpu","devices":[{"name":"../x","containerEdits":{}}]}`, nil, "cannot read the GPUs"},
		{"an unknown field", `{"cdiVersion":"0.6.0","kind":"example.com/gpu","privileged":true,"devices":[]}`, nil, "cannot read the GPUs"},
		{"a hook as root", hook("prestart", "/usr/bin/true"), nil, "machine's privileges"},
		{"a later hook as root", hook("poststop", "/usr/bin/true"), nil, "machine's privileges"},
		{"a hook of the image", hook("startContainer", "/usr/bin/true"), nil, "machine's privileges"},
		{"a hook that is not listed", hook("createContainer", "/usr/bin/env"), nil, "not among those"},
		{"a hook that others write", hook("createContainer", "DIR/hook"), func(t *testing.T, dir string) {
			write(t, dir+"/hook", "#!/bin/sh")
			chmod(t, dir+"/hook", 0o777)
		}, "not safe"},
		{"more than devices", `{"cdiVersion":"1.1.0","kind":"example.com/gpu","devices":[{"name":"0","containerEdits":{"netDevices":[{"hostInterfaceName":"eth0","name":"eth0"}]}}]}`, nil, "asks for more"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := machine(t)
			write(t, dir+"/a.json", strings.ReplaceAll(c.text, "DIR", dir))
			if c.change != nil {
				c.change(t, dir)
			}
			inv := Read([]string{dir}, []string{kind})
			got := fmt.Sprint(inv.Problems)
			if len(inv.Problems) == 0 && len(inv.Devices) > 0 {
				got = fmt.Sprint(inv.Apply(&sandbox.Spec{}, inv.Devices, []string{"/usr/bin/true", dir + "/hook"}))
			}
			if !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %q", got, c.want)
			}
		})
	}
}

func chown(t *testing.T, name string, uid int) {
	t.Helper()
	if err := os.Chown(name, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, name string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}
