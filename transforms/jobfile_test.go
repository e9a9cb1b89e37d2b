package transforms

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"girderworker/sandbox"
)

// full names every field that a document can have.
const full = `{
  "id": "scan-42", "name": "scan α", "task": "girder_worker.docker.tasks.docker_run",
  "image": "lab/segment:1.2", "entrypoint": ["/bin/seg"], "args": ["--in", "{data}", "{{data}}", "{nothing}", "{\"a\":{data}}", "-i={ct}:{slides}", "{mask.nii}", "{work}/x", "{girder.token}{other.token}"],
  "env": {"B": "2", "A": "x=\"1\""}, "workdir": "/work", "user": "1000:users", "hostname": "scan-host",
  "binds": [{"name": "data-dir", "source": "/data", "target": "/in/data", "read_only": true}, {"source": "/out", "target": "/in"}],
  "volumes": ["work", {"name": "scratch", "target": "/scratch", "read_only": true, "host_dir": "/home/a/tmp", "mode": "0775"}],
  "inputs": [{"name": "data", "file": "/home/a/in.dat"}, {"name": "remote", "file_id": "6b00f0cb9508e6951c974251", "girder": "other"}],
  "outputs": [{"name": "result", "file": "/home/a/out.dat"}, {"name": "posted", "url": "https://sink.test/x?y=z", "headers": {"X-Lab": "quiet"}, "path": "/out/posted"},
    {"name": "told", "log": "stderr"}],
  "stdin": "/home/a/stdin", "stdout": {"log": "stderr"}, "stderr": "/home/a/err", "progress": "/out/.girder_progress",
  "girder": [{"api_url": "https://girder.test/api/v1/", "token": "secret-token", "session": {"verify": false, "cert": ["/c.pem", "/k.pem"], "headers": {"A": "hush"}, "proxies": {"https": "http://proxy:3128", "http": "http://me:word@proxy:3128"}}},
    {"name": "other", "api_url": "http://other.test/api/v1", "api_key": "key"}],
  "downloads": [{"name": "ct", "file_id": "6b00f0cb9508e6951c974251", "filename": "ct.nii", "direct_file_path": "/assets/ct"},
    {"name": "slides", "item_id": "6b00f0cb9508e6951c974252", "volume": "work"},
    {"name": "study", "folder_id": "6b00f0cb9508e6951c974253", "folder_name": "s", "volume": "data-dir", "girder": "other"}],
  "uploads": [{"name": "mask.nii", "item_id": "6b00f0cb9508e6951c974254", "upload_kwargs": {"reference": "r", "mimeType": "image/x", "filename": "m"}, "delete_file": true},
    {"path": ".", "volume": "work", "folder_id": "6b00f0cb9508e6951c974255", "must_exist": false, "girder": "other"},
    {"path": "log.txt", "job_id": "6b00f0cb9508e6951c974256", "artifact_name": "log", "upload_on_exception": true}], "network": "private", "read_only": true, "pull": "missing",
  "resources": {"cpus": 1.5, "memory": "2g", "gpus": 1, "gpu_devices": "0", "pids": 100, "shm": "64m", "scratch": 1073741824, "log": "1MiB",
    "swap": "1g", "memory_reservation": "1g", "cpuset": "0-3,8", "cpuset_mems": "0", "cpu_shares": 512},
  "cap_add": ["sys_ptrace"], "cap_drop": ["ALL"], "group_add": ["video", "44"], "init": true, "labels": {"study": "b"},
  "tmpfs": [{"target": "/run", "size": "16m", "mode": "0755", "exec": true}], "ulimits": [{"name": "nofile", "soft": 1024, "hard": 4096}],
  "sysctls": {"net.core.somaxconn": "1024"}, "devices": [{"source": "/dev/fuse", "target": "/dev/f", "access": "rw"}],
  "domainname": "lab", "extra_hosts": {"girder": "10.0.0.2"}, "dns": ["10.0.0.1"], "oom_score_adj": 700, "seccomp": "unconfined",
  "priority": 7, "after": ["a", "b"], "after_any": ["c"],
  "not_before": "2026-03-01T10:00:00+02:00", "expires": "2026-03-02T10:00:00Z",
  "timeout": "1d", "soft_timeout": 3600.5, "idle_timeout": "10m",
  "retries": {"max": 3, "delay": "30s", "fail_interrupted": true},
  "hold": "until the disk is there", "stop_signal": "sigint", "stop_grace": "20s"
}`

// local is a job that needs nothing but its machine.
const local = `{
  "id": "scan-42", "name": "scan α", "task": "girder_worker.docker.tasks.docker_run",
  "image": "lab/segment:1.2", "entrypoint": ["/bin/seg"], "args": ["--in", "{data}", "{{data}}", "{other}", "{\"a\":{data}}"],
  "env": {"B": "2", "A": "x=\"1\""}, "workdir": "/work", "user": "1000:users", "hostname": "scan-host",
  "binds": [{"source": "/data", "target": "/in/data", "read_only": true}, {"source": "/out", "target": "/in"}],
  "inputs": [{"name": "data", "file": "/home/a/in.dat"}], "outputs": [{"name": "result", "file": "/home/a/out.dat"}],
  "stdin": "/home/a/stdin", "progress": true, "network": "private", "read_only": true,
  "resources": {"cpus": 1.5, "memory": "2g", "gpus": 1, "gpu_devices": "0", "pids": 100, "shm": "64m", "scratch": 1073741824, "log": "1MiB",
    "swap": "1g", "memory_reservation": "1g", "cpuset": "0-3,8", "cpuset_mems": "0", "cpu_shares": 512},
  "cap_add": ["sys_ptrace"], "cap_drop": ["ALL"], "group_add": ["video", "44"], "init": true, "labels": {"study": "b"},
  "tmpfs": [{"target": "/run", "size": "16m", "mode": "0755", "exec": true}], "ulimits": [{"name": "nofile", "soft": 1024, "hard": 4096}],
  "sysctls": {"net.core.somaxconn": "1024"}, "devices": [{"source": "/dev/fuse", "target": "/dev/f", "access": "rw"}],
  "domainname": "lab", "extra_hosts": {"girder": "10.0.0.2"}, "dns": ["10.0.0.1"], "oom_score_adj": 700, "seccomp": "unconfined",
  "priority": 7, "after": ["a", "b"], "after_any": ["c"],
  "not_before": "2026-03-01T10:00:00+02:00", "expires": "2026-03-02T10:00:00Z",
  "timeout": "1d", "soft_timeout": 3600.5, "idle_timeout": "10m",
  "retries": {"max": 3, "delay": "30s", "fail_interrupted": true},
  "hold": "until the disk is there", "stop_signal": "sigint", "stop_grace": "20s"
}`

func TestParseJobFile(t *testing.T) {
	got, err := ParseJobFile([]byte(local))
	if err != nil {
		t.Fatal(err)
	}
	want := &JobFile{
		ID: "scan-42", Name: "scan α", Task: TaskDockerRun,
		Image: "lab/segment:1.2", Entrypoint: []string{"/bin/seg"},
		Args: []string{"--in", "{data}", "{{data}}", "{other}", `{"a":{data}}`},
		Env:  map[string]string{"A": `x="1"`, "B": "2"}, WorkDir: "/work", User: "1000:users", Hostname: "scan-host",
		Binds:  []Bind{{Source: "/data", Target: "/in/data", ReadOnly: true}, {Source: "/out", Target: "/in"}},
		Inputs: []Pipe{{Name: "data", File: "/home/a/in.dat"}}, Outputs: []Pipe{{Name: "result", File: "/home/a/out.dat"}},
		Stdin: Pipe{File: "/home/a/stdin"}, Progress: true, Network: sandbox.NetworkPrivate, ReadOnly: true,
		Resources: Resources{CPUs: 1.5, Memory: 2 << 30, GPUs: 1, Devices: "0", PIDs: 100, Shm: 64 << 20, Scratch: 1 << 30, Log: 1 << 20,
			Swap: 1 << 30, Reservation: 1 << 30, CPUSet: "0-3,8", MemorySet: "0", CPUShares: 512},
		Priority: 7, After: []string{"a", "b"}, AfterAny: []string{"c"},
		NotBefore: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC), Expires: time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC),
		Timeout: 24 * time.Hour, SoftTimeout: 3600500 * time.Millisecond, IdleTimeout: 10 * time.Minute,
		Retries: Retries{Max: 3, Delay: 30 * time.Second, FailInterrupted: true},
		Hold:    "until the disk is there", StopSignal: 2, StopGrace: 20 * time.Second,
		Options:    fullOptions(),
		ExtraHosts: []sandbox.HostEntry{{Name: "girder", Address: "10.0.0.2"}}, DNS: []string{"10.0.0.1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}

	again, err := ParseJobFile(got.AppendJSON(nil))
	if err != nil || !reflect.DeepEqual(again, want) {
		t.Errorf("the canonical form reads back as %+v, %v", again, err)
	}
}

func fullOptions() Options {
	return Options{
		CapAdd: []string{"CAP_SYS_PTRACE"}, CapDrop: []string{"ALL"}, GroupAdd: []string{"video", "44"}, Init: true,
		Labels:     map[string]string{"study": "b"},
		Tmpfs:      []Tmpfs{{Target: "/run", Size: 16 << 20, Mode: 0o755, Exec: true}},
		Ulimits:    []Ulimit{{Name: "nofile", Soft: 1024, Hard: 4096}},
		Sysctls:    map[string]string{"net.core.somaxconn": "1024"},
		Devices:    []Device{{Source: "/dev/fuse", Target: "/dev/f", Access: "rw"}},
		Domainname: "lab", OOMScoreAdj: 700, Seccomp: sandbox.SeccompUnconfined,
	}
}

// TestFullNamesEveryField keeps `full` honest: no field of JobFile is zero in it.
func TestFullNamesEveryField(t *testing.T) {
	f, err := ParseJobFile([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []reflect.Value{reflect.ValueOf(*f), reflect.ValueOf(f.Resources), reflect.ValueOf(f.Retries), reflect.ValueOf(f.Options)} {
		for i := range v.NumField() {
			if v.Field(i).IsZero() && v.Type().Field(i).Name != "SlicerProgress" && v.Type().Field(i).Name != "Call" && v.Type().Field(i).Name != "Python" && v.Type().Field(i).Name != "Command" && v.Type().Field(i).Name != "Function" { // they cannot be beside Stdout and an image
				t.Errorf("%s.%s is not set by the full document", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
}

func TestPlan(t *testing.T) {
	f, err := ParseJobFile([]byte(local))
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Plan()
	if err != nil {
		t.Fatal(err)
	}
	pipe := func(name string) string { return PipeDirectory + "/" + name }
	want := Plan{
		Image: "lab/segment:1.2", Entrypoint: []string{"/bin/seg"},
		Args: []string{"--in", pipe("data"), "{data}", "{other}", `{"a":` + pipe("data") + `}`},
		Env:  []string{`A=x="1"`, "B=2"}, Cwd: "/work", User: "1000:users", Hostname: "scan-host",
		Network: sandbox.NetworkPrivate, ReadOnlyRootfs: true,
		Binds: []Bind{{Source: "/out", Target: "/in"}, {Source: "/data", Target: "/in/data", ReadOnly: true}},
		Streams: []Stream{
			{Name: "stdin", Kind: StreamStdin, File: "/home/a/stdin"},
			{Name: "data", Kind: StreamInput, File: "/home/a/in.dat", Path: pipe("data")},
			{Name: "result", Kind: StreamOutput, File: "/home/a/out.dat", Path: pipe("result")},
			{Name: "progress", Kind: StreamProgress, Path: pipe("progress")},
		},
		StopSignal: 2, StopGrace: 20 * time.Second,
		Options:    fullOptions(),
		ExtraHosts: []sandbox.HostEntry{{Name: "girder", Address: "10.0.0.2"}}, DNS: []string{"10.0.0.1"},
	}
	want.Options.Labels = nil // for people
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// TestPlanKeepsNil: nil and an empty list of arguments mean different things.
func TestPlanKeepsNil(t *testing.T) {
	for document, isNil := range map[string]bool{
		`{"image":"a"}`:           true,
		`{"image":"a","args":[]}`: false,
	} {
		f, err := ParseJobFile([]byte(document))
		if err != nil {
			t.Fatal(err)
		}
		if f, err = ParseJobFile(f.AppendJSON(nil)); err != nil {
			t.Fatal(err)
		}
		p, err := f.Plan()
		if err != nil {
			t.Fatal(err)
		}
		if (p.Args == nil) != isNil || p.Entrypoint != nil {
			t.Errorf("%s: args %#v, entrypoint %#v", document, p.Args, p.Entrypoint)
		}
	}
}

func TestSubstitute(t *testing.T) {
	paths := map[string]named{"in": {path: "/p/in"}, "o.1": {path: "/p/o.1"}}
	for in, want := range map[string]string{
		"":                   "",
		"plain":              "plain",
		"{in}":               "/p/in",
		"--file={in}:{o.1}!": "--file=/p/in:/p/o.1!",
		"{nope}":             "{nope}",
		"{ in }":             "{ in }",
		"{{in}}":             "{in}",
		"{{nope}}":           "{{nope}}",
		"{{ in }}":           "{{ in }}",
		"{{in}":              "{{in}",
		"{{{in}}}":           "{{/p/in}}",
		"{":                  "{",
		"{in":                "{in",
		"in}":                "in}",
		"{{":                 "{{",
		"{print $1} {in}":    "{print $1} /p/in",
		"{}{in}{}":           "{}/p/in{}",
		`{"a":{"b":"{in}"}}`: `{"a":{"b":"/p/in"}}`,
	} {
		if got := substitute("", in, paths, nil); got != want {
			t.Errorf("substitute(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCanonicalIsOneForm(t *testing.T) {
	forms := []string{
		`{"image":"a","env":{"X":"1","Y":"2"},"resources":{"memory":"1g"},"timeout":90,"args":["é"]}`,
		`{"timeout":"1m30s","args":["\u00e9"],"resources":{"memory":1073741824},"env":["Y=2","X=1"],"image":"a"}`,
		` { "task":"girder_worker.docker.tasks.docker_run", "priority":0, "after":[],
		   "env":{"Y":"2","X":"1"}, "image":"a","timeout":"90","args":["é"],"resources":{"memory":"1024MiB"}} `,
	}
	var first []byte
	for _, form := range forms {
		f, err := ParseJobFile([]byte(form))
		if err != nil {
			t.Fatal(err)
		}
		canonical := f.AppendJSON(nil)
		if first == nil {
			first = canonical
		}
		if !bytes.Equal(canonical, first) {
			t.Errorf("%s\n became %s\n not    %s", form, canonical, first)
		}
	}
}

func TestParseJobFileRefuses(t *testing.T) {
	with := func(members string) string { return `{"image":"a",` + members + `}` }
	tests := []struct {
		document, field, says string
	}{
		{``, "", "ends where an object was expected"},
		{`[]`, "", "an object is needed here, not a list"},
		{`{"image":"a"} x`, "", "unexpected text after the document"},
		{`{"image":"a"}{}`, "", "unexpected text after the document"},
		{`{"image":"a",}`, "", "a key"},
		{`{"image":"a"`, "", "ends too early"},
		{`{"image":"a`, "image", "within a string"},
		{`{'image':"a"}`, "", "not JSON"},
		{`{}`, "image", "missing"},
		{`{"image":""}`, "image", "empty"},
		{`{"image":"a b"}`, "image", "spaces"},
		{`{"image":null}`, "image", "not null"},
		{`{"image":"a","image":"b"}`, "image", "given twice"},
		{`{"image":"a","Image":"b"}`, "Image", "unknown field"},
		{with(`"memory":"2g"`), "memory", "unknown field"},
		{with(`"args":"x"`), "args", "a list is needed here, not a string"},
		{with(`"args":["a",1]`), "args[1]", "a string is needed here, not a number"},
		{with(`"args":["a\u0000b"]`), "args[0]", "NUL"},
		{with(`"args":["a` + "\x00" + `b"]`), "args[0]", "control character"},
		{with(`"args":["` + "\xff" + `"]`), "args[0]", "UTF-8"},
		{with(`"args":["\ud800"]`), "args[0]", `bad \u escape`},
		{with(`"args":["\q"]`), "args[0]", `unknown escape`},
		{with(`"args":["` + strings.Repeat("x", MaxArgument+1) + `"]`), "args[0]", "131072 bytes; the kernel takes at most 131071"},
		{with(`"args":[` + strings.Repeat(`"",`, MaxArguments) + `""]`), "args", "more than 4096 entries"},
		{with(`"env":{"A":1}`), "env.A", "a string is needed"},
		{with(`"env":{"A":"1","A":"2"}`), "env.A", "given twice"},
		{with(`"env":["A=1","A=2"]`), "env[1]", "A is given twice"},
		{with(`"env":["A"]`), "env[0]", "not KEY=VALUE"},
		{with(`"env":{"A=B":"1"}`), "env.A=B", "'='"},
		{with(`"env":{"":"1"}`), "env", "without a name"},
		{with(`"workdir":"rel"`), "workdir", "not an absolute path"},
		{with(`"workdir":"/a/../b"`), "workdir", `write "/b"`},
		{with(`"binds":[{"source":"/a/../../etc","target":"/x"}]`), "binds[0].source", "clean"},
		{with(`"binds":[{"source":"a","target":"/x"}]`), "binds[0].source", "absolute"},
		{with(`"binds":[{"source":"/a"}]`), "binds[0].target", "missing"},
		{with(`"binds":[{"target":"/a"}]`), "binds[0].source", "missing"},
		{with(`"binds":[{"source":"/a","target":"/x","mode":"ro"}]`), "binds[0].mode", "unknown field"},
		{with(`"binds":[{"source":"/a","target":"/x"},{"source":"/b","target":"/x"}]`), "binds", "given twice"},
		{with(`"binds":[{"source":"/a","target":"/"}]`), "binds", "hide the image"},
		{with(`"binds":[{"source":"/a","target":"/proc/self"}]`), "binds", "within /proc"},
		{with(`"progress":true,"binds":[{"source":"/a","target":"/mnt"}]`), "binds", "hide the job's pipes"},
		{with(`"binds":[{"source":"/a","target":"` + PipeDirectory + `/x"}]`), "binds", "hide the job's pipes"},
		{with(`"inputs":[{"name":"../x","file":"/a"}]`), "inputs[0].name", "not a name"},
		{with(`"inputs":[{"name":"a/b","file":"/a"}]`), "inputs[0].name", "not a name"},
		{with(`"inputs":[{"name":"` + strings.Repeat("x", 65) + `","file":"/a"}]`), "inputs[0].name", "not a name"},
		{with(`"inputs":[{"name":"x"}]`), "inputs[0].file", "missing"},
		{with(`"inputs":[{"name":"x","file":"/a"}],"outputs":[{"name":"x","file":"/b"}]`), "outputs", "already used by inputs"},
		{with(`"progress":true,"outputs":[{"name":"progress","file":"/b"}]`), "outputs", "already used by progress"},
		{with(`"stdin":"in"`), "stdin", "absolute"},
		{with(`"user":"a b"`), "user", "NAME"},
		{with(`"user":":5"`), "user", "NAME"},
		{with(`"id":"_x"`), "id", "the first a letter or digit"},
		{with(`"hostname":"a_b"`), "hostname", "not a host name"},
		{with(`"hostname":"a..b"`), "hostname", "not a host name"},
		{with(`"network":"bridge"`), "network", "none of none, private and host"},
		{with(`"resources":{"cpus":-1}`), "resources.cpus", "not between 0.01 and 8192"},
		{with(`"resources":{"cpus":1e999}`), "resources.cpus", "out of range"},
		{with(`"resources":{"memory":-5}`), "resources.memory", "-5 bytes is not between 4.0 MiB"},
		{with(`"resources":{"memory":"2x"}`), "resources.memory", "not a size"},
		{with(`"resources":{"memory":"1e30"}`), "resources.memory", "not a size"},
		{with(`"resources":{"memory":"99999999999t"}`), "resources.memory", "more bytes than any machine has"},
		{with(`"resources":{"memory":1.5}`), "resources.memory", "not a whole number"},
		{with(`"resources":{"memory":99999999999999999999}`), "resources.memory", "that fits"},
		{with(`"resources":{"gpus":-2}`), "resources.gpus", "not between -1 and 1024"},
		{with(`"resources":{"gpu_devices":"0,,1"}`), "resources.gpu_devices", "no name of a GPU"},
		{with(`"resources":{"gpu_devices":"0,1,0"}`), "resources.gpu_devices", "twice"},
		{with(`"resources":{"gpu_devices":"../x"}`), "resources.gpu_devices", "no name of a GPU"},
		{with(`"resources":{"gpu_devices":"0","gpus":2}`), "resources.gpus", "2, but gpu_devices names 1"},
		{with(`"resources":{"shm":"2g","memory":"1g"}`), "resources.shm", "more than memory"},
		{with(`"resources":{"disk":1}`), "resources.disk", "unknown field"},
		{with(`"priority":10`), "priority", "not between 0 and 9"},
		{with(`"priority":1.0`), "priority", "not a whole number"},
		{with(`"priority":01`), "priority", "not a JSON number"},
		{with(`"after":["..",""]`), "after[0]", "not a name"},
		{with(`"not_before":"tomorrow"`), "not_before", "not a time"},
		{with(`"not_before":"2026-01-02T00:00:00Z","expires":"2026-01-01T00:00:00Z"`), "expires", "not after not_before"},
		{with(`"timeout":-1`), "timeout", "not between"},
		{with(`"timeout":"-1h"`), "timeout", "not"},
		{with(`"timeout":"soon"`), "timeout", "not a duration"},
		{with(`"timeout":1e30`), "timeout", "not between"},
		{with(`"timeout":10,"soft_timeout":10`), "soft_timeout", "not less than timeout"},
		{with(`"retries":{"max":101}`), "retries.max", "not between 0 and 100"},
		{with(`"retries":3`), "retries", "an object is needed here, not a number"},
		{with(`"stop_signal":"SEGV"`), "stop_signal", "no signal to stop with"},
		{with(`"stop_signal":65`), "stop_signal", "not between 1 and 64"},
		{with(`"stop_grace":"2h"`), "stop_grace", "not between"},
		{with(`"name":"a\nb"`), "name", "control characters"},
		{with(`"id":"-x"`), "id", "not a name"},
		{with(`"id":".."`), "id", "not a name"},
		{with(`"girder":{}`), "girder.api_url", "missing"},
		{with(`"girder":{"api_url":"http://h/a","token":"t","api_key":"k"}`), "girder.api_key", "a token already"},
		{with(`"girder":{"machine_key":true,"api_key":"k"}`), "girder.machine_key", "an api_key already"},
		{with(`"girder":{"machine_key":true,"session":{"verify":false}}`), "girder.session", "the machine's key goes"},
		{with(`"args":` + strings.Repeat("[", 100)), "args" + strings.Repeat("[0]", 15), "nested deeper than 16 levels"},
	}
	for _, test := range tests {
		_, err := ParseJobFile([]byte(test.document))
		var e *DocumentError
		if !errors.As(err, &e) {
			t.Errorf("%.100s: got error %v", test.document, err)
			continue
		}
		if e.Field != test.field || !strings.Contains(e.Problem, test.says) {
			t.Errorf("%.100s:\n got  %q: %q\n want %q: …%s…", test.document, e.Field, e.Problem, test.field, test.says)
		}
	}
}

func TestDocumentTooLarge(t *testing.T) {
	big := `{"image":"a","args":["` + strings.Repeat("x", 1000) + `"],"name":"` + strings.Repeat(" ", MaxDocument) + `"}`
	for _, document := range []string{big, `{"jobs":[` + big + `]}`} {
		_, _, err := ParseJobFiles([]byte(document))
		var e *DocumentError
		if !errors.As(err, &e) {
			t.Fatalf("got %v", err)
		}
	}
}

func TestParseJobFiles(t *testing.T) {
	files, batch, err := ParseJobFiles([]byte(`{"jobs":[{"image":"a"},{"image":"b"}]}`))
	if err != nil || !batch || len(files) != 2 || files[1].Image != "b" {
		t.Errorf("a batch: %v, %v, %v", files, batch, err)
	}
	files, batch, err = ParseJobFiles([]byte(`{"image":"a"}`))
	if err != nil || batch || len(files) != 1 {
		t.Errorf("one document: %v, %v, %v", files, batch, err)
	}
	for document, field := range map[string]string{
		`{"jobs":[]}`: "jobs",
		`{"jobs":[{"image":"a"},{"image":"b","x":1}]}`:                               "jobs[1].x",
		`{"jobs":[{"image":"a"}],"more":1}`:                                          "more",
		`{"jobs":{"image":"a"}}`:                                                     "jobs",
		`{"image":"a","jobs":[]}`:                                                    "jobs",
		`{"jobs":[` + strings.Repeat(`{"image":"a"},`, MaxBatch) + `{"image":"a"}]}`: "jobs",
	} {
		_, _, err := ParseJobFiles([]byte(document))
		var e *DocumentError
		if !errors.As(err, &e) || e.Field != field {
			t.Errorf("%.60s: got %v", document, err)
		}
	}
}

// TestUnknownTask: a document of another task is read, and has no plan.
func TestUnknownTask(t *testing.T) {
	f, err := ParseJobFile([]byte(`{"task":"lab.tasks.segment"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Plan(); err == nil || !strings.Contains(err.Error(), "lab.tasks.segment") {
		t.Errorf("got %v", err)
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1024": 1024, "1k": 1024, "1.5G": 3 << 29, "2tib": 2 << 40, "10b": 10} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("%q: got %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "g", "-1", "1.5", "0x10", "1e3", "Inf", "1 g", "1gg", "1_000", "1.2.3k"} {
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("%q: got %d", in, got)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"90": 90 * time.Second, "1.5": 1500 * time.Millisecond, "90s": 90 * time.Second,
		"7d": 7 * 24 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
	} {
		if got, err := ParseDuration(in); err != nil || got != want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "d", "1.5d", "-1d", "x", "5 s", "1w", "999999999d"} {
		if got, err := ParseDuration(in); err == nil {
			t.Errorf("%q: got %v", in, got)
		}
	}
}

var someDefaults = Defaults{
	Resources: Resources{CPUs: 1, Memory: 1 << 30, PIDs: 4096, Shm: 64 << 20, Scratch: 1 << 30, Log: 64 << 20},
	Timeout:   7 * 24 * time.Hour, RetryDelay: time.Second, Girder: "http://g/api",
}

// TestComplete: no default contradicts what the document names, which would
// have an accepted job fail when it is read again.
func TestComplete(t *testing.T) {
	for members, want := range map[string]JobFile{
		``:                             {Resources: someDefaults.Resources, Timeout: someDefaults.Timeout},
		`"resources":{"memory":"20m"}`: {Resources: Resources{CPUs: 1, Memory: 20 << 20, PIDs: 4096, Shm: 20 << 20, Scratch: 1 << 30, Log: 64 << 20}, Timeout: someDefaults.Timeout},
		`"resources":{"shm":"2g"}`:     {Resources: Resources{CPUs: 1, Memory: 2 << 30, PIDs: 4096, Shm: 2 << 30, Scratch: 1 << 30, Log: 64 << 20}, Timeout: someDefaults.Timeout},
		`"soft_timeout":"8d"`:          {Resources: someDefaults.Resources, SoftTimeout: 8 * 24 * time.Hour, Timeout: 8*24*time.Hour + 10*time.Second},
		`"girder":{"machine_key":true}`: {Resources: someDefaults.Resources, Timeout: someDefaults.Timeout,
			Girders: []GirderAccess{{Name: "girder", URL: "http://g/api", MachineKey: true}}},
		`"stdin":{"file_id":"6b00f0cb9508e6951c974251"}`: {Resources: someDefaults.Resources, Timeout: someDefaults.Timeout,
			Stdin: Pipe{FileID: "6b00f0cb9508e6951c974251"}, Girders: []GirderAccess{{Name: "girder", URL: "http://g/api", MachineKey: true}}},
		`"timeout":5,"retries":{"max":1}`: {Resources: someDefaults.Resources, Timeout: 5 * time.Second, Retries: Retries{Max: 1, Delay: time.Second}},
	} {
		document := `{"image":"a"`
		if members != "" {
			document += "," + members
		}
		f, err := ParseJobFile([]byte(document + "}"))
		if err != nil {
			t.Fatal(err)
		}
		f.Complete(someDefaults)
		want.Image, want.Task = "a", TaskDockerRun
		if !reflect.DeepEqual(*f, want) {
			t.Errorf("%s: got %+v, want %+v", members, *f, want)
		}
		if _, err := ParseJobFile(f.AppendJSON(nil)); err != nil {
			t.Errorf("%s: it cannot be read again: %v", members, err)
		}
	}
}

func FuzzParseJobFiles(f *testing.F) {
	for _, seed := range []string{full, `{"jobs":[` + full + `]}`, `{"image":"a","args":["{{in}}","{in}"],"inputs":[{"name":"in","file":"/x"}]}`,
		`{"image":"\ud83d\ude00","env":["A=1"]}`, `{"jobs":[{"jobs":[]}]}`, `{"timeout":1e2,"image":"a"}`,
		`{"image":"a","resources":{"memory":"20m"},"soft_timeout":"8d"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		files, _, err := ParseJobFiles(data)
		if err != nil {
			var e *DocumentError
			if !errors.As(err, &e) || e.Problem == "" {
				t.Fatalf("not a DocumentError with a problem: %#v", err)
			}
			return
		}
		for _, file := range files {
			canonical := file.AppendJSON(nil)
			again, err := ParseJobFile(canonical)
			if err != nil {
				t.Fatalf("cannot read the canonical form %s: %v", canonical, err)
			}
			if second := again.AppendJSON(nil); !bytes.Equal(canonical, second) {
				t.Fatalf("two canonical forms:\n%s\n%s", canonical, second)
			}
			file.Complete(someDefaults)
			completed := file.AppendJSON(nil)
			if _, err := ParseJobFile(completed); err != nil {
				t.Fatalf("cannot read %s, which was completed: %v", completed, err)
			}
			p, err := file.Plan()
			if (err != nil) != (file.Task != TaskDockerRun) {
				t.Fatalf("%s: plan %v", canonical, err)
			}
			for _, s := range p.Streams {
				if !ValidIdentifier(s.Name) {
					t.Fatalf("stream %q", s.Name)
				}
			}
		}
	})
}

func BenchmarkParseJobFile(b *testing.B) {
	document := []byte(`{"image":"busybox","args":["sh","-c","echo hello"],"env":{"A":"1"},"resources":{"cpus":1,"memory":"1g"}}`)
	b.ReportAllocs()
	for b.Loop() {
		f, err := ParseJobFile(document)
		if err != nil {
			b.Fatal(err)
		}
		f.AppendJSON(make([]byte, 0, 512))
	}
}
