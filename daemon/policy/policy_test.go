package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/transforms"
)

var names = Names{
	User:  lookUp(map[string]int{"alice": 1001}),
	Group: lookUp(map[string]int{"imaging": 2001, "students": 2002}),
}

func lookUp(known map[string]int) func(string) (int, error) {
	return func(name string) (int, error) {
		if id, ok := known[name]; ok {
			return id, nil
		}
		var id int
		if _, err := fmt.Sscanf(name, "%d", &id); err != nil {
			return 0, errors.New("unknown")
		}
		return id, nil
	}
}

func parse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse("policy.toml", []byte(text), names)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every field that a plan can have must have been thought of: adding one fails
// here until rules says what policy makes of it.
func TestEveryFieldHasARule(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var look func(reflect.Type)
	look = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct || seen[typ] || !strings.HasPrefix(typ.PkgPath(), "girderworker/") {
			return
		}
		seen[typ] = true
		for i := range typ.NumField() {
			name := typ.Name() + "." + typ.Field(i).Name
			if _, ok := rules[name]; !ok {
				t.Errorf("%s has no rule: decide in check.go what policy makes of it", name)
			}
			look(typ.Field(i).Type)
		}
	}
	for _, v := range []any{transforms.Plan{}, attempt.Resources{}, attempt.Limits{}} {
		look(reflect.TypeOf(v))
	}
	for name := range rules {
		if !slices.ContainsFunc(slices.Collect(func(yield func(reflect.Type) bool) {
			for typ := range seen {
				if !yield(typ) {
					return
				}
			}
		}), func(typ reflect.Type) bool {
			field, ok := strings.CutPrefix(name, typ.Name()+".")
			_, has := typ.FieldByName(field)
			return ok && has
		}) {
			t.Errorf("there is a rule for %s, which does not exist", name)
		}
	}
}

// Every key of the built-in policy is in both sections, once, and a job of a person may
// have what a program of theirs could connect to.
func TestBuiltInSections(t *testing.T) {
	_, text, _ := strings.Cut(DefaultText(), "\n[socket]")
	socket, amqp, ok := strings.Cut(text, "\n[amqp]")
	if !ok {
		t.Fatal("a section is missing")
	}
	for key := range new(section).listKeys() {
		if key == "signed_by" {
			continue
		}
		for name, part := range map[string]string{Socket: socket, AMQP: amqp} {
			if n := strings.Count("\n"+part, "\n"+key+" = "); n != 1 {
				t.Errorf("[%s] has %s %d times", name, key, n)
			}
		}
	}
	p, err := Parse("none", nil, SystemNames())
	if err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]string{Socket: "* local", AMQP: "*"} {
		if got := strings.Join(p.For(Subject{Source: source}).Transfers(), " "); got != want {
			t.Errorf("%s: transfers are %s, want %s", source, got, want)
		}
	}
}

// What nobody thought of is refused.
func TestUnknownFieldIsRefused(t *testing.T) {
	rule := rules["Plan.Hostname"]
	delete(rules, "Plan.Hostname")
	defer func() { rules["Plan.Hostname"] = rule }()
	j := job(func(p *transforms.Plan) { p.Hostname = "x" })
	err := Default().For(Subject{Source: Socket, UID: 1}).Check(j)
	if err == nil || !strings.Contains(err.Error(), "hostname: the policy of this release has no rule for it") {
		t.Errorf("a field without a rule: %v", err)
	}
}

func job(spoil func(*transforms.Plan)) *Job {
	p := &transforms.Plan{Image: "docker.io/lab/tool:1.2", Args: []string{"x"}}
	if spoil != nil {
		spoil(p)
	}
	return &Job{Plan: p, ImageID: "sha256:" + strings.Repeat("ab", 32), Closed: SystemPaths("/var/lib/girder-worker"),
		Resources: attempt.Resources{CPUs: 2, Memory: 4 << 30, PIDs: 100, Shm: 1 << 20, Scratch: 1 << 30, Log: 1 << 20},
		Limits:    attempt.Limits{Hard: time.Hour}}
}

func bind(source string, readOnly bool) func(*transforms.Plan) {
	return func(p *transforms.Plan) {
		p.Binds = []transforms.Bind{{Source: source, Target: "/x", ReadOnly: readOnly}}
	}
}

func TestCheck(t *testing.T) {
	const lab = `
[socket]
images = ["docker.io/lab/*"]
write = ["/data", "/"]
read = ["/data/archive", "/opt"]
cpus = 4
memory = "8G"
time = "12h"

[group.imaging]
images = ["*"]
signed_by = ["lab"]
networks = ["host"]
write = ["/data/archive"]
memory = "64GiB"

[group.students]
memory = 1024

[user.alice]
images = ["sha256:abab*"]
cpus = 16

[keys]
lab = "/etc/girder-worker/lab.pem"
`
	outputs := func(file string) func(*transforms.Plan) {
		return func(p *transforms.Plan) {
			p.Streams = []transforms.Stream{{Name: "o", Kind: transforms.StreamOutput, File: file}}
		}
	}
	for _, tt := range []struct {
		name, policy string
		who          Subject
		job          *Job
		want         string // part of the refusal; empty: granted
	}{
		{"nothing asked", "", Subject{Source: Socket, UID: 7}, job(nil), ""},
		{"home", "", Subject{Source: Socket}, job(bind("/home/u/x", false)), ""},
		{"system", "", Subject{Source: Socket}, job(bind("/etc", true)), "binds: /etc: it is beneath none"},
		{"like a root", "", Subject{Source: Socket}, job(bind("/homes", true)), "beneath none"},
		{"host's root", "", Subject{Source: Socket}, job(bind("/", true)), "binds: /: it is, or holds, /proc, which is the system's own"},
		{"read-only root", "", Subject{Source: Socket}, job(bind("/opt/x", false)), "jobs may only read beneath /opt"},
		{"read-only root, read", "", Subject{Source: Socket}, job(bind("/opt/x", true)), ""},
		{"binds of AMQP", "", Subject{Source: AMQP}, job(bind("/home/u", true)), "there are none"},
		{"unknown source", "", Subject{Source: "telepathy"}, job(nil), "image: "},
		{"host network", "", Subject{Source: Socket}, job(func(p *transforms.Plan) { p.Network = sandbox.NetworkHost }), "network: host is not allowed; the machine's admin can allow it with networks in a section of policy.toml for you (yours: [socket])"},
		{"private network", "", Subject{Source: AMQP}, job(func(p *transforms.Plan) { p.Network = sandbox.NetworkPrivate }), ""},
		{"network of another word", "", Subject{Source: Socket}, job(func(p *transforms.Plan) { p.Network = "container:1" }), "network: container:1"},
		{"volume", "", Subject{Source: Socket}, job(func(p *transforms.Plan) { p.Volumes = []transforms.Volume{{Name: "v", HostDir: "/var/lib"}} }), "volumes: /var/lib"},
		{"volume of ours", "", Subject{Source: AMQP}, job(func(p *transforms.Plan) { p.Volumes = []transforms.Volume{{Name: "v"}} }), ""},
		{"output", "", Subject{Source: Socket}, job(outputs("/etc/cron.d/x")), "outputs: /etc/cron.d/x"},

		{"images", lab, Subject{Source: Socket}, job(func(p *transforms.Plan) { p.Image = "busybox" }), "image: busybox is not among"},
		{"unsigned", lab, Subject{Source: Socket, Groups: []int{2001}}, job(func(p *transforms.Plan) { p.Image = "busybox" }), "image: busybox has no signature"},
		{"signed", lab, Subject{Source: Socket, Groups: []int{2001}}, func() *Job {
			j := job(func(p *transforms.Plan) { p.Image = "busybox" })
			j.SignedBy = []string{"lab"}
			return j
		}(), ""},
		{"by digest", lab, Subject{Source: Socket, UID: 1001}, job(func(p *transforms.Plan) { p.Image = "busybox" }), ""},
		{"holds one read-only", lab, Subject{Source: Socket}, job(bind("/data", false)), "it holds /data/archive"},
		{"holds one, read", lab, Subject{Source: Socket}, job(bind("/data", true)), ""},
		{"below it", lab, Subject{Source: Socket}, job(bind("/data/archive/x", false)), "only read beneath /data/archive"},
		{"below it, by group", lab, Subject{Source: Socket, Groups: []int{2001}}, job(bind("/data/archive/x", false)), ""},
		{"closed although granted", lab, Subject{Source: Socket}, job(bind("/sys/fs/cgroup", true)), "system's own"},
		{"the state directory", lab, Subject{Source: Socket}, job(bind("/var/lib", true)), "/var/lib/girder-worker, which is the system's own"},
		{"group's network", lab, Subject{Source: Socket, Groups: []int{5, 2001}}, job(func(p *transforms.Plan) { p.Network = sandbox.NetworkHost }), ""},
		{"more of several", lab, Subject{Source: Socket, Groups: []int{2002, 2001}}, func() *Job { j := job(nil); j.Resources.Memory = 32 << 30; return j }(), ""},
		{"memory", lab, Subject{Source: Socket, Groups: []int{2002}}, func() *Job { j := job(nil); j.Resources.Memory = 32 << 30; return j }(), "resources.memory: "},
		{"cpus", lab, Subject{Source: Socket}, func() *Job { j := job(nil); j.Resources.CPUs = 5; return j }(), "resources.cpus: 5 are more than 4"},
		{"cpus of a user", lab, Subject{Source: Socket, UID: 1001}, func() *Job { j := job(nil); j.Resources.CPUs = 5; return j }(), ""},
		{"time", lab, Subject{Source: Socket}, func() *Job { j := job(nil); j.Limits.Hard = 13 * time.Hour; return j }(), "timeout: 13h0m0s is more"},
		{"for ever", lab, Subject{Source: Socket}, func() *Job { j := job(nil); j.Limits.Hard = 0; return j }(), "timeout: "},
		{"a uid of AMQP is nobody's", lab, Subject{Source: AMQP, UID: 1001, Groups: []int{2001}}, job(func(p *transforms.Plan) { p.Network = sandbox.NetworkHost }), "network"},
	} {
		err := parse(t, tt.policy).For(tt.who).Check(tt.job)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s:\n%v, want\n%s", tt.name, err, tt.want)
		}
	}
}

// All that is wrong is named at once, with its line.
func TestProblems(t *testing.T) {
	_, err := Parse("p.toml", []byte(`images = ["*"]

[socket]
image = ["*"]
write = ["data", "/x/../y"]
cpus = "many"
networks = ["bridge"]
ulimits = ["nofile"]
signed_by = ["lost"]

[group.nobody-here]
gpus = -1

[soket]
switch_user = 1

[user.alice]
switch_user = 1
[user.1001]
`), names)
	want := []string{
		`p.toml: [socket]: signed_by names the key "lost"`,
		`p.toml:1: images stands in no section`,
		`p.toml:4: [socket]: image: unknown key; a section may have capabilities, commands, cpus,`,
		`p.toml:5: [socket]: write: "data": want an absolute path`,
		`"/x/../y": want`,
		`p.toml:6: [socket]: cpus: want a number of processors`,
		`p.toml:7: [socket]: networks: "bridge": want one of none, private, host`,
		`p.toml:8: [socket]: ulimits: "nofile": want NAME=NUMBER`,
		`p.toml:11: [group.nobody-here]: there is no group "nobody-here"`,
		`p.toml:12: [group.nobody-here]: gpus: want a whole number`,
		`p.toml:14: unknown section [soket]`,
		`p.toml:18: [user.alice]: switch_user: want true or false`,
		`[user.alice] and [user.1001] are the same user`,
	}
	if err == nil {
		t.Fatal("accepted")
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("not told: %s", w)
		}
	}
	if n := strings.Count(err.Error(), "\n"); n != len(want)-1 || t.Failed() {
		t.Errorf("%d lines:\n%v", n+1, err)
	}
	for _, text := range []string{"[socket", "[socket]\nimages = [\"*\"]\nimages = []", "[socket]\n[socket]", "a = \x00"} {
		var invalid *Invalid
		if _, err := Parse("p.toml", []byte(text), names); !errors.As(err, &invalid) || invalid.Problems[0].Line == 0 {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"*b", "ba", false},
		{"a*c*e", "abcde", true}, {"a*c*e", "abde", false}, {"docker.io/*/x", "docker.io/a/b/x", true}, {"a*a", "a", false}, {"a**b", "ab", true},
	} {
		if got := match(tt.pattern, tt.s); got != tt.want {
			t.Errorf("match(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
	id := "sha256:" + strings.Repeat("0", 64)
	for pattern, want := range map[string]bool{
		"lab/tool": true, "lab/tool:1": true, "lab/*": true, id: true, "sha256:1*": false, "lab": false, "tool": false,
	} {
		if got := matchImage([]string{pattern}, "lab/tool:1", id); got != want {
			t.Errorf("image by %q: %v", pattern, got)
		}
	}
	if matchImage([]string{"host"}, "host:5000/x", id) {
		t.Error("a registry's port was taken for a tag")
	}
}

// A file that somebody else can write is no policy.
func TestRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "policy.toml")
	if data, err := Read(file); data != nil || err != nil {
		t.Errorf("no file: %q, %v", data, err)
	}
	if err := os.WriteFile(file, []byte("[socket]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(file); string(data) != "[socket]\n" || err != nil {
		t.Errorf("a file: %q, %v", data, err)
	}
	spoil := map[string]func() error{
		"group may write":            func() error { return os.Chmod(file, 0o664) },
		"all may write":              func() error { return os.Chmod(file, 0o646) },
		"another's":                  func() error { return os.Chown(file, 4242, 0) },
		"directory all may write in": func() error { return os.Chmod(dir, 0o777) },
		"another's directory":        func() error { return os.Chown(dir, 4242, 0) },
	}
	for name, change := range spoil {
		if err := errors.Join(change()); err != nil {
			t.Fatal(err)
		}
		var invalid *Invalid
		if _, err := Read(file); !errors.As(err, &invalid) {
			t.Errorf("%s: %v", name, err)
		}
		if err := errors.Join(os.Chown(dir, 0, 0), os.Chmod(dir, 0o755), os.Chown(file, 0, 0), os.Chmod(file, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// What is said of rights can be put into a file and means the same.
func TestExplain(t *testing.T) {
	r := Default().For(Subject{Source: Socket})
	again := parse(t, "[socket]\n"+strings.Join(r.Explain(), "\n")).For(Subject{Source: Socket})
	if !reflect.DeepEqual(r, again) {
		t.Errorf("%+v\n%+v", r, again)
	}
}

func TestClip(t *testing.T) {
	r := parse(t, "[socket]\ntime = \"1h\"\nmemory = \"1G\"").For(Subject{Source: Socket})
	d := r.Clip(transforms.Defaults{Timeout: 24 * time.Hour, Resources: transforms.Resources{Memory: 1 << 20, CPUs: 3}})
	if d.Timeout != time.Hour || d.Resources.Memory != 1<<20 || d.Resources.CPUs != 3 {
		t.Errorf("%+v", d)
	}
	if d := r.Clip(transforms.Defaults{}); d.Timeout != time.Hour || d.Resources.Memory != 1<<30 {
		t.Errorf("nothing named: %+v", d)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(DefaultText())
	f.Add("[socket]\nulimits = [\"a=1\"]\n[user.alice]\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse("p", []byte(text), names)
		if err == nil {
			// Only rights that can be asked are rights.
			_ = p.For(Subject{Source: Socket, UID: 1001, Groups: []int{2001}}).Check(job(bind("/home", false)))
		}
	})
}

// The example says what holds anyway, and what it comments out would be valid.
func TestExample(t *testing.T) {
	data, err := os.ReadFile("../../contrib/policy.toml")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("not run: the sources are not here")
	} else if err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{Socket, AMQP} {
		want, got := Default().For(Subject{Source: source}), parse(t, string(data)).For(Subject{Source: source})
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n%v, want\n%v", source, got.Explain(), want.Explain())
		}
	}
	setting := regexp.MustCompile(`^# (\[[a-z].*\]|[a-z_]+ = .*)$`)
	lines := strings.Split(string(data), "\n")
	n := 0
	for i, line := range lines {
		if m := setting.FindStringSubmatch(line); m != nil {
			lines[i] = m[1]
			n++
		}
	}
	if n < 15 {
		t.Errorf("%d settings are commented out", n)
	}
	parse(t, strings.Join(lines, "\n"))
}
