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
	"girderworker/daemon/policy"
	"girderworker/sandbox"
	"girderworker/transforms"
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

// What a front that an attacker has taken over may ask: none of it comes to an
// attempt, although the one who is named has connected and policy is generous.
func TestHostileFront(t *testing.T) {
	o := testOptions(t)
	generous := "[socket]\ndevices = [\"/dev/dri/*\"]\nsysctls = [\"net.*\"]\nwrite = [\"/srv\"]\n"
	if err := os.WriteFile(o.Policy, []byte(generous), 0o600); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, o)
	defer d.end(t)
	stream := func(s transforms.Stream) func(*attempt.Request) {
		return func(r *attempt.Request) { r.Plan.Streams = []transforms.Stream{s} }
	}
	volume := func(v transforms.Volume) func(*attempt.Request) {
		return func(r *attempt.Request) { r.Plan.Volumes = []transforms.Volume{v} }
	}
	bind := func(source, target string) func(*attempt.Request) {
		return func(r *attempt.Request) { r.Plan.Binds = []transforms.Bind{{Source: source, Target: target}} }
	}
	device := func(source string) func(*attempt.Request) {
		return func(r *attempt.Request) { r.Plan.Options.Devices = []transforms.Device{{Source: source}} }
	}
	sysctl := func(name string) func(*attempt.Request) {
		return func(r *attempt.Request) { r.Plan.Options.Sysctls = map[string]string{name: "1"} }
	}
	tried, refused := 0, 0
	for name, ask := range map[string]func(*attempt.Request){
		"a volume outside the work directory": volume(transforms.Volume{Name: "../../../../etc/cron.x", Target: "/v"}),
		"a volume that is the directory":      volume(transforms.Volume{Name: "..", Target: "/v"}),
		"a volume over the root":              volume(transforms.Volume{Name: "v", Target: "/"}),
		"a volume in a host directory":        volume(transforms.Volume{Name: "v", Target: "/v", HostDir: "/etc"}),
		"a volume by way of one":              volume(transforms.Volume{Name: "v", Target: "/v", HostDir: "/srv/../etc"}),
		"a volume with a setuid mode":         volume(transforms.Volume{Name: "v", Target: "/v", Mode: 0o104755}),
		"a pipe outside":                      stream(transforms.Stream{Name: "../x", Kind: transforms.StreamInput, Path: "/p"}),
		"a pipe over the root":                stream(transforms.Stream{Name: "x", Kind: transforms.StreamInput, Path: "/"}),
		"a pipe in another's place":           stream(transforms.Stream{Name: "x", Kind: transforms.StreamInput, Path: transforms.PipeDirectory + "/y"}),
		"a pipe of no kind":                   stream(transforms.Stream{Name: "x", Kind: "device", Path: "/p"}),
		"a file of the machine":               stream(transforms.Stream{Name: "x", Kind: transforms.StreamInput, File: "/etc/shadow", Path: "/p"}),
		"a file by way of a root":             stream(transforms.Stream{Name: "x", Kind: transforms.StreamInput, File: "/proc/self/fd/3", Path: "/p"}),
		"a bind of the machine":               bind("/", "/m"),
		"a bind by way of a root":             bind("/srv/../etc", "/m"),
		"a bind of the state":                 bind(o.State, "/m"),
		"a bind with a NUL":                   bind("/srv/a\x00b", "/m"),
		"a bind over the root":                bind("/srv", "/"),
		"a bind over a target with dots":      bind("/srv", "/a/../../b"),
		"a device by way of a pattern":        device("/dev/dri/../sda"),
		"a device that is none":               device("/srv/dri/x"),
		"a kernel setting by way of one":      sysctl("net./../../kernel/core_pattern"),
		"a kernel setting with dots":          sysctl("net...kernel.core_pattern"),
		"a kernel setting of the machine":     sysctl("kernel.core_pattern"),
		"an image that is a path":             func(r *attempt.Request) { r.ImageID = "../../../etc" },
		"an image with a path behind":         func(r *attempt.Request) { r.ImageID = "sha256:" + strings.Repeat("ab", 30) + "/../" },
		"a stop signal that is none":          func(r *attempt.Request) { r.Plan.StopSignal = 65 },
		"capabilities":                        func(r *attempt.Request) { r.Plan.Options.CapAdd = []string{"CAP_SYS_ADMIN"} },
		"no filter":                           func(r *attempt.Request) { r.Plan.Options.Seccomp = sandbox.SeccompUnconfined },
		"the machine's network":               func(r *attempt.Request) { r.Plan.Network = sandbox.NetworkHost },
		"real time": func(r *attempt.Request) {
			r.Plan.Options.Ulimits = []transforms.Ulimit{{Name: "rtprio", Soft: 9, Hard: 9}}
		},
		"a Girder that is a file": func(r *attempt.Request) { r.Plan.Girders = []transforms.Girder{{Name: "g", URL: "file:///etc/shadow"}} },
		"a fetch into no volume": func(r *attempt.Request) {
			r.Plan.Fetches = []transforms.Fetch{{Name: "f", Kind: transforms.FetchFile, Into: ".."}}
		},
		"a token in a place that is none": func(r *attempt.Request) { r.Plan.Inserts = []transforms.Insertion{{Arg: 99, At: -1, Token: "t"}} },
	} {
		tried++
		r := testRequest("job", 1, "exit")
		r.Identity.Source = policy.Socket
		r.Identity.Seal = d.seal.seal(&r.Identity)
		ask(&r)
		// What the front says it was granted is not what it gets.
		r.Grant = attempt.Grant{WorkDir: "/etc", Roots: []attempt.Root{{Path: "/", Write: true}}}
		if err := d.client.Start(t.Context(), r, transforms.Secrets{}); err == nil {
			t.Errorf("%s was started", name)
			continue
		}
		refused++
		for _, place := range []string{"work", "jobs"} {
			if left, err := os.ReadDir(filepath.Join(o.State, place)); err != nil || place == "work" && len(left) > 0 {
				t.Errorf("%s: left in %s: %v, %v", name, place, left, err)
			}
		}
		_ = d.client.RemoveJob(t.Context(), "job")
	}
	t.Logf("hostile: %d requests of a front tried, %d refused", tried, refused)
	honest := testRequest("honest", 1, "exit")
	device("/dev/dri/card0")(&honest)
	sysctl("net.ipv4.ip_unprivileged_port_start")(&honest)
	if err := d.start(t.Context(), honest); err != nil {
		t.Fatalf("what policy allows: %v", err)
	}
	waitEnded(t, d.client.Ended(Attempt{"honest", 1}))
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
