package monitor

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/daemon/peer"
	"girderworker/daemon/policy/policytest"
	"girderworker/transforms"
)

// TestForgedCommand: a front that was taken over cannot have a program of the host run
// that no task file has, nor put anything where a program or what it needs would be.
func TestForgedCommand(t *testing.T) {
	o := testOptions(t)
	o.TasksDir = policytest.RootsDir(t)
	task := filepath.Join(o.TasksDir, "true.toml")
	if err := os.WriteFile(task, []byte("name = \"true\"\ncommand = [\"true\", \"-x\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, o)
	defer d.end(t)
	good := testRequest("job", 1, "exit")
	good.Identity, _ = d.identify(peer.Credentials{UID: 1234, GID: 1234, PID: 9, Groups: []int{1234}})
	good.Plan, good.ImageID = transforms.Plan{Command: []string{"true", "-x"}, Args: []string{"exit"}}, ""
	tried, refused := 0, 0
	for name, forge := range map[string]func(*attempt.Request){
		"another program":   func(r *attempt.Request) { r.Plan.Command = []string{"/bin/sh"} },
		"found elsewhere":   func(r *attempt.Request) { r.Plan.Command[0] = "/bin/true" },
		"fewer arguments":   func(r *attempt.Request) { r.Plan.Command = r.Plan.Command[:1] },
		"more arguments":    func(r *attempt.Request) { r.Plan.Command = append(r.Plan.Command, "-y") },
		"an entrypoint":     func(r *attempt.Request) { r.Plan.Entrypoint = []string{"/bin/sh"} },
		"root":              func(r *attempt.Request) { r.Plan.User = "0" },
		"an image":          func(r *attempt.Request) { r.Plan.Image, r.ImageID = "i", testRequest("x", 1, "").ImageID },
		"a function":        func(r *attempt.Request) { r.Plan.Python = &transforms.Python{Interpreter: "/bin/sh", Module: "m"} },
		"over the machine":  func(r *attempt.Request) { r.Plan.Volumes = []transforms.Volume{{Name: "v", Target: "/usr/bin"}} },
		"over it by a link": func(r *attempt.Request) { r.Plan.Volumes = []transforms.Volume{{Name: "v", Target: "/mnt/../usr/bin"}} },
		"a pipe over it": func(r *attempt.Request) {
			r.Plan.Streams = []transforms.Stream{{Name: "s", Kind: transforms.StreamInput, File: "/tmp/x", Path: "/bin/true"}}
		},
		"an empty command": func(r *attempt.Request) { r.Plan.Command = []string{""} },
	} {
		tried++
		r := good
		r.Plan.Command = slices.Clone(good.Plan.Command)
		forge(&r)
		if err := d.client.Start(t.Context(), r, transforms.Secrets{}); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		refused++
	}
	t.Logf("hostile: %d forged commands tried, %d refused", tried, refused)
	if err := d.client.Start(t.Context(), good, transforms.Secrets{}); err != nil {
		t.Fatalf("the true one: %v", err)
	}
	waitEnded(t, d.client.Ended(Attempt{"job", 1}))
	dir, err := attempt.NewDir(o.State, "job", 1)
	if err != nil {
		t.Fatal(err)
	}
	// The runner looks for no program.
	if r, err := dir.ReadRequest(); err != nil || !filepath.IsAbs(r.Plan.Command[0]) || filepath.Base(r.Plan.Command[0]) != "true" || !slices.Equal(r.Plan.Command[1:], []string{"-x"}) {
		t.Errorf("the request is %+v, %v", r, err)
	}
	// What is taken from the files is taken from those who would start now.
	if err := os.Remove(task); err != nil {
		t.Fatal(err)
	}
	good.Job = "later"
	if err := d.client.Start(t.Context(), good, transforms.Secrets{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "true -x is what no task file in "+o.TasksDir+" says (any more)") {
		t.Errorf("got %v", err)
	}
}
