package main_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// arrows is who may import whom among the packages of this module, directly.
// A package that is not listed here may not exist: a new one starts by saying
// what it needs and why that is all.
var arrows = map[string]struct {
	may []string
	why string
}{
	"":                       {[]string{"daemon/cli", "daemon/runner/embedded", "sandbox/runc"}, "main maps errors to exit codes, gives libcontainer its re-exec, and has the program of runners in it; everything else is somebody's room"},
	"queue":                  {nil, "the queue keeps jobs whatever they run and wherever they came from: it knows no room"},
	"sandbox":                {nil, "the words for a container are used by everyone, so they may depend on no one"},
	"sandbox/cgroup":         {[]string{"sandbox"}, "control groups by their paths, in the words of the sandbox: the monitor and the runtime both end what is in one"},
	"sandbox/fifo":           {nil, "named pipes know nothing of jobs"},
	"sandbox/gpu":            {[]string{"sandbox"}, "devices of the machine in the words of the sandbox; who has which is decided elsewhere"},
	"sandbox/image":          {[]string{"sandbox", "sandbox/image/provenance"}, "the image store serves the sandbox; it knows neither jobs nor the daemon"},
	"sandbox/scratch":        {nil, "disks of a fixed size know nothing of what is written to them"},
	"sandbox/runc":           {[]string{"sandbox", "sandbox/cgroup"}, "the only package that links libcontainer and cgo: nothing may be pulled in beside it"},
	"sandbox/network":        {[]string{"sandbox"}, "what is behind a container's network runs as the submitter and talks to the world: it knows the words for its rules and nothing of jobs"},
	"transforms":             {[]string{"sandbox", "transforms/jsonpickle"}, "decoding a job's document or a task opens nothing and runs nothing: only the words of the sandbox, and a decoder that knows nothing"},
	"transforms/jsonpickle":  {nil, "a decoder of foreign bytes: the less it can reach, the less it can do"},
	"transforms/girder":      {nil, "a client of one server: what is done with its files and jobs is decided elsewhere"},
	"daemon":                 {[]string{"daemon/amqp", "daemon/api", "daemon/apitype", "daemon/attempt", "daemon/celery", "daemon/config", "daemon/jobsync", "daemon/metrics", "daemon/monitor", "daemon/plugin", "daemon/policy", "daemon/systemd", "daemon/worker", "queue", "sandbox", "sandbox/gpu", "sandbox/image", "sandbox/image/provenance", "sandbox/image/registry", "transforms", "transforms/girder"}, "the front builds the parts; it never runs a container, so it may not reach sandbox/runc or the runner"},
	"daemon/amqp":            {[]string{"daemon/celery"}, "a network between brokers and plain messages: what they mean, and what is done with them, is known elsewhere"},
	"daemon/api":             {[]string{"daemon/apitype", "daemon/attempt", "daemon/peer", "daemon/plugin", "daemon/policy", "queue", "transforms"}, "the API is transport over the queue; what else it needs comes in through its own small interfaces"},
	"daemon/apitype":         {nil, "the wire's structs: a client must cost nothing to import"},
	"daemon/attempt":         {[]string{"sandbox", "transforms"}, "the contract between processes of two releases: only words"},
	"daemon/celery":          {[]string{"transforms/jsonpickle"}, "a codec: what it is given it turns into something else; it sends nothing, keeps nothing and knows neither the queue nor the broker"},
	"daemon/cli":             {[]string{"daemon", "daemon/apitype", "daemon/client", "daemon/config", "daemon/doctor", "daemon/monitor", "daemon/plugin", "daemon/policy", "daemon/runner", "sandbox/image", "daemon/systemd"}, "the command line is the only place where every process's entry is known"},
	"daemon/client":          {[]string{"daemon/apitype"}, "a Go client is the wire and nothing of the server"},
	"daemon/config":          {nil, "configuration is read by many and reads no one"},
	"daemon/doctor":          {[]string{"daemon/amqp", "daemon/apitype", "daemon/client", "daemon/config", "daemon/policy", "sandbox", "sandbox/cgroup", "sandbox/gpu", "transforms"}, "a look at the machine from outside the daemon: it asks the parts that know, and starts what it tries as anybody would"},
	"daemon/jobsync":         {[]string{"daemon/attempt", "queue", "transforms/girder"}, "reports are made of the outbox and of what attempts have written; who runs and who asked is not known here"},
	"daemon/metrics":         {[]string{"daemon/apitype"}, "numbers are asked from the daemon's status when somebody scrapes; nothing else is known here"},
	"daemon/monitor":         {[]string{"daemon/attempt", "daemon/peer", "daemon/plugin", "daemon/policy", "daemon/systemd", "sandbox", "sandbox/cgroup", "sandbox/image/provenance", "transforms"}, "the root half that lives as long as the daemon: it starts and ends attempts and parses nothing foreign, so neither the queue, the API nor the image readers may come in; who signed an image it asks of the store's own index, and which programs may be run of root's own task files"},
	"daemon/peer":            {nil, "who is at the other end of a socket, as the kernel says it"},
	"daemon/plugin":          {[]string{"daemon/apitype", "daemon/attempt", "daemon/policy", "transforms", "transforms/jsonpickle"}, "a task is a description, and a document made of a call: who calls, and what becomes of it, is known elsewhere; whether a program may be named is asked of policy"},
	"daemon/policy":          {[]string{"daemon/attempt", "sandbox", "sandbox/image/provenance", "transforms"}, "what jobs may ask, and whose keys count, is decided over the words for asking; the monitor links it, so it may bring nothing that reads foreign bytes"},
	"daemon/runner":          {[]string{"daemon/attempt", "daemon/policy", "sandbox", "sandbox/cgroup", "sandbox/fifo", "sandbox/gpu", "sandbox/image", "sandbox/network", "sandbox/runc", "sandbox/scratch", "transforms", "transforms/girder"}, "one attempt, from its request to its exit: it must run without the daemon, so it may not know it"},
	"daemon/runner/embedded": {nil, "a file as a string"},
	"daemon/runner/program":  {[]string{"daemon/runner"}, "what every start of a runner and of a container loads: nothing that the runner does not need"},
	"daemon/systemd":         {nil, "systemd's protocols, without a word of ours"},
	"daemon/worker":          {[]string{"daemon/celery", "daemon/jobsync", "queue", "sandbox", "transforms", "transforms/girder", "transforms/jsonpickle"}, "what a Celery worker is, over the queue: messages as Go values come in and go out; the broker itself stays outside, so that all of it is tested without one"},

	"sandbox/image/provenance": {nil, "what a policy asks of an image, also as root: it must link nothing that reads an archive"},
	"sandbox/image/registry":   {[]string{"sandbox/image"}, "a registry's answers are foreign: whoever talks to one has a process of its own"},

	"transforms/girder/girdertest": {nil, "a server for tests stands on its own, or it would only agree with the client"},

	"contrib/demo/girder": {[]string{"transforms/girder/girdertest"}, "the demo's Girder server is the tests' one"},

	"packaging/pack": {nil, "what makes packages asks the built binary, and links nothing that is in it"},

	"packaging/bench": {[]string{"daemon/amqp/rabbittest", "daemon/apitype", "daemon/client", "queue", "sandbox", "transforms"}, "the benchmark drives the real binary from outside, and the queue directly for comparison"},
}

// notBelow are packages that must not be linked in, by any path, and why.
var notBelow = []struct {
	pkg    string
	except []string // packages of this module that may still reach it, by prefix
	why    string
}{
	{"github.com/opencontainers/runc/libcontainer", []string{"", "sandbox/runc", "daemon/runner", "daemon/runner/program", "daemon/cli"}, "libcontainer promises no stable API: one package wraps it"},
	{"github.com/google/go-containerregistry/pkg/v1/remote/transport", []string{"", "sandbox/image/registry", "daemon/cli", "daemon"}, "talking to registries is one package's"},
	{"go.etcd.io/bbolt", []string{"", "packaging/bench", "queue", "daemon", "daemon/api", "daemon/cli", "daemon/jobsync", "daemon/worker"}, "the database belongs to the queue"},
	{"testing", []string{"packaging/bench", "transforms/girder/girdertest"}, "test code must not be in the binary; the benchmark, which nobody installs, starts RabbitMQ as the tests do"},
	{"github.com/sirupsen/logrus", []string{"", "sandbox/runc", "sandbox/gpu", "sandbox/image/registry", "daemon", "daemon/runner", "daemon/runner/program", "daemon/cli"}, "our log is slog; libcontainer, CDI and the registry client bring their own"},
}

type listed struct {
	ImportPath string
	Name       string
	Dir        string
	GoFiles    []string
	CgoFiles   []string
	Imports    []string
	Deps       []string
	Standard   bool
}

const module = "girderworker"

// local is the path of a package inside the module ("" is main), or ok false.
func local(importPath string) (string, bool) {
	if importPath == module {
		return "", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

func list(t *testing.T) []listed {
	t.Helper()
	out := run(t, nil, "go", "list", "-tags", "seccomp netgo osusergo", "-json=ImportPath,Name,Dir,GoFiles,CgoFiles,Imports,Deps,Standard", "./...")
	var all []listed
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("cannot read what go list said: %v", err)
		}
		// A directory that holds only tests is nobody's import.
		if len(p.GoFiles)+len(p.CgoFiles) > 0 {
			all = append(all, p)
		}
	}
}

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// TestArrows holds the imports of every package against the table above.
func TestArrows(t *testing.T) {
	for _, p := range list(t) {
		name, _ := local(p.ImportPath)
		if testOnly(name) {
			continue
		}
		rule, ok := arrows[name]
		if !ok {
			t.Errorf("package %q is not in the table of arrows: say there what it may import and why", name)
			continue
		}
		for _, i := range p.Imports {
			if room, ours := local(i); ours && !slices.Contains(rule.may, room) {
				t.Errorf("%s imports %s, which it may not: %s", or(name, "main"), room, rule.why)
			}
		}
		for _, n := range notBelow {
			if slices.Contains(n.except, name) {
				continue
			}
			if slices.Contains(p.Deps, n.pkg) {
				t.Errorf("%s links %s, which it may not: %s", or(name, "main"), n.pkg, n.why)
			}
		}
	}
}

// TestStandardOnly: what others copy or link must not drag anything along.
func TestStandardOnly(t *testing.T) {
	for _, p := range list(t) {
		name, _ := local(p.ImportPath)
		if !slices.Contains([]string{"daemon/apitype", "sandbox", "transforms"}, name) {
			continue
		}
		for _, d := range p.Deps {
			if _, ours := local(d); !ours && strings.Contains(strings.Split(d, "/")[0], ".") {
				t.Errorf("%s links %s: the words that all processes share use the standard library only", name, d)
			}
		}
	}
}

// TestWithoutCgo: C comes in with sandbox/runc alone, so that everything else
// can be worked on, and tested, on a machine without a C compiler.
func TestWithoutCgo(t *testing.T) {
	args := []string{"build", "-tags", "netgo osusergo"}
	for _, p := range list(t) {
		name, _ := local(p.ImportPath)
		if name != "" && name != "sandbox/runc" {
			args = append(args, p.ImportPath)
		}
	}
	run(t, []string{"CGO_ENABLED=0"}, "go", args...)
}

// testOnly tells whether a package only serves tests and demonstrations: it is
// never linked into the binary, which TestArrows sees by nobody importing it.
func testOnly(name string) bool {
	if strings.HasPrefix(name, "packaging/") && arrows[name].why == "" || strings.HasPrefix(name, "contrib/") {
		return true
	}
	for dir := name; dir != "." && dir != ""; dir = path.Dir(dir) {
		if strings.HasSuffix(path.Base(dir), "test") {
			return true
		}
	}
	return false
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
