package monitor

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
)

func TestBounds(t *testing.T) {
	ids := IDRange{Base: 0x70000000, Size: 8 * sliceSize}
	p, err := newBounds(&Options{State: t.TempDir(), UID: 998, GID: 998, IDs: ids})
	if err != nil {
		t.Fatal(err)
	}
	good := testRequest("job", 1, "x")
	if err := p.check(&good); err != nil {
		t.Errorf("a good request: %v", err)
	}
	anonymous := testRequest("job", 1, "x")
	anonymous.Identity = attempt.Identity{UID: ids.Base, GID: ids.Base}
	if err := p.check(&anonymous); err != nil {
		t.Errorf("the unprivileged identity: %v", err)
	}
	for name, spoil := range map[string]func(*attempt.Request){
		"root":                  func(r *attempt.Request) { r.Identity.UID = 0 },
		"root's group":          func(r *attempt.Request) { r.Identity.GID = 0 },
		"root among the groups": func(r *attempt.Request) { r.Identity.Groups = []int{7, 0} },
		"negative":              func(r *attempt.Request) { r.Identity.UID = -1 },
		"overflow":              func(r *attempt.Request) { r.Identity.UID = 1<<32 - 1 },
		"the front":             func(r *attempt.Request) { r.Identity.UID = 998 },
		"another's container":   func(r *attempt.Request) { r.Identity.UID = ids.Base + sliceSize },
		"no processors":         func(r *attempt.Request) { r.Resources.CPUs = 0 },
		"NaN processors":        func(r *attempt.Request) { r.Resources.CPUs = math.NaN() },
		"infinite processors":   func(r *attempt.Request) { r.Resources.CPUs = math.Inf(1) },
		"more memory":           func(r *attempt.Request) { r.Resources.Memory = p.memory + 1 },
		"no memory limit":       func(r *attempt.Request) { r.Resources.Memory = 0 },
		"no process limit":      func(r *attempt.Request) { r.Resources.PIDs = 0 },
		"endless scratch":       func(r *attempt.Request) { r.Resources.Scratch = math.MaxInt64 },
		"scratch of all":        func(r *attempt.Request) { r.Resources.Scratch = p.disk/2 + 1 },
		"log of all":            func(r *attempt.Request) { r.Resources.Log = p.disk/2 + 1 },
		"no log limit":          func(r *attempt.Request) { r.Resources.Log = 0 },
		"negative time":         func(r *attempt.Request) { r.Limits.Hard = -1 },
	} {
		r := testRequest("job", 1, "x")
		spoil(&r)
		if err := p.check(&r); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The front is not trusted with names: they become paths.
func TestNamesAreChecked(t *testing.T) {
	o := testOptions(t)
	d := startDaemon(t, o)
	defer d.end(t)
	for _, job := range []string{"", ".", "..", "../x", "a/b", "/etc", "a\x00b", "-x", strings.Repeat("a", 300)} {
		if err := d.start(t.Context(), testRequest(job, 1, "exit")); !errors.Is(err, ErrRefused) {
			t.Errorf("start of %q: %v", job, err)
		}
		if err := d.client.RemoveJob(t.Context(), job); !errors.Is(err, ErrRefused) {
			t.Errorf("removal of %q: %v", job, err)
		}
	}
	if err := d.start(t.Context(), testRequest("a", 0, "exit")); !errors.Is(err, ErrRefused) {
		t.Errorf("attempt 0: %v", err)
	}
	if err := d.client.Notify(t.Context(), "MAINPID=1"); !errors.Is(err, ErrRefused) {
		t.Errorf("a notification that is not the front's: %v", err)
	}
}

func TestKeepID(t *testing.T) {
	for _, tt := range []struct {
		name            string
		inside, outside int
		keep            []int
		want            []sandbox.IDMapping
	}{
		{"root", 0, 1000, nil, []sandbox.IDMapping{{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 900001, Size: 65535}}},
		{"user", 5, 1000, nil, []sandbox.IDMapping{
			{ContainerID: 0, HostID: 900000, Size: 5}, {ContainerID: 5, HostID: 1000, Size: 1}, {ContainerID: 6, HostID: 900006, Size: 65530}}},
		{"groups", 0, 1000, []int{1000, 20, 100000, 20}, []sandbox.IDMapping{
			{ContainerID: 0, HostID: 1000, Size: 1}, {ContainerID: 1, HostID: 900001, Size: 19},
			{ContainerID: 20, HostID: 20, Size: 1}, {ContainerID: 21, HostID: 900021, Size: 65515},
			{ContainerID: 100000, HostID: 100000, Size: 1}}},
		{"last", 65535, 7, nil, []sandbox.IDMapping{{ContainerID: 0, HostID: 900000, Size: 65535}, {ContainerID: 65535, HostID: 7, Size: 1}}},
	} {
		if got := keepID(tt.inside, tt.outside, 900000, tt.keep); !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n%v, want\n%v", tt.name, got, tt.want)
		}
	}
}

func TestIDRangeFree(t *testing.T) {
	r := IDRange{Base: 1000000, Size: 4 * sliceSize}
	for _, tt := range []struct {
		file, line string
		taken      bool
	}{
		{"passwd", "root:x:0:0::/:/bin/sh", false},
		{"passwd", "alice:x:1000001:100::/:/bin/sh", true},
		{"group", "staff:x:1000000:", true},
		{"subuid", "bob:900000:65536", false},
		{"subuid", "bob:900000:100001", true},
		{"subgid", "bob:1200000:65536", true},
		{"subgid", "bob:1262144:65536", false},
		{"subuid", "nonsense", false},
	} {
		etc := t.TempDir()
		if err := os.WriteFile(filepath.Join(etc, tt.file), []byte(tt.line+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := r.free(etc); (err != nil) != tt.taken {
			t.Errorf("%s %q: %v", tt.file, tt.line, err)
		}
	}
}

func TestMountsBelow(t *testing.T) {
	const info = `1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:5 / /var/w/a-1/root rw - overlay overlay rw
3 1 0:5 / /var/w/a-10/root rw - overlay overlay rw
4 2 0:6 / /var/w/a-1/root/with\040space rw - tmpfs tmpfs rw
`
	got, err := mountsBelow(strings.NewReader(info), "/var/w/a-1")
	if err != nil || !slices.Equal(got, []string{"/var/w/a-1/root", "/var/w/a-1/root/with space"}) {
		t.Errorf("%q, %v", got, err)
	}
}
