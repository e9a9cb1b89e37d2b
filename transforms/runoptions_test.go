package transforms

import (
	"reflect"
	"strings"
	"testing"

	"girderworker/sandbox"
)

// TestRunOptions joins the machine's options with tasks as the Python worker does.
func TestRunOptions(t *testing.T) {
	for name, c := range map[string]struct {
		options, kwargs string
		want            func(*JobFile)
	}{
		"none":               {``, `"hostname": "h"`, func(f *JobFile) { f.Hostname = "h" }},
		"what is not said":   {`{"shm_size": "1g", "hostname": "m"}`, `"hostname": "h"`, func(f *JobFile) { f.Hostname, f.Resources.Shm = "h", 1<<30 }},
		"dicts as wholes":    {`{"environment": {"A": "1"}}`, `"environment": {"B": "2"}`, func(f *JobFile) { f.Env = map[string]string{"B": "2"} }},
		"the task's None":    {`{"environment": {"A": "1"}}`, `"environment": null`, func(*JobFile) {}},
		"entrypoint":         {`{"entrypoint": ["/a", "b"]}`, ``, func(f *JobFile) { f.Entrypoint = []string{"/a", "b"} }},
		"entrypoint of None": {`{"entrypoint": "/a"}`, `"entrypoint": null`, func(f *JobFile) { f.Entrypoint = []string{"/a"} }},
		"task's entrypoint":  {`{"entrypoint": "/a"}`, `"entrypoint": "/b"`, func(f *JobFile) { f.Entrypoint = []string{"/b"} }},
		"network":            {`{"network_mode": "host", "tty": true, "detach": false}`, ``, func(f *JobFile) { f.Network = sandbox.NetworkHost }},
		"volumes": {`{"volumes": ["/ref:/ref", "/in:/in:rw"]}`, `"volumes": {"/data": {"bind": "/d", "mode": "rw"}}`, func(f *JobFile) {
			f.Binds = []Bind{{Source: "/data", Target: "/d"}, {Source: "/ref", Target: "/ref", ReadOnly: true}, {Source: "/in", Target: "/in"}}
		}},
		"the options' mode": {`{"volumes": {"/ref": {"bind": "/ref", "mode": "ro"}}}`, `"volumes": ["/ref:/ref:rw"]`, func(f *JobFile) {
			f.Binds = []Bind{{Source: "/ref", Target: "/ref", ReadOnly: true}}
		}},
		"gpus": {`{"device_requests": [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}]}`, ``, func(f *JobFile) { f.Resources.GPUs = 1 }},
	} {
		t.Run(name, func(t *testing.T) {
			options, err := ParseRunOptions(c.options)
			if err != nil {
				t.Fatal(err)
			}
			task := taskOf(t, TaskDockerRun, `{"py/tuple": [{"py/tuple": ["img"]}, {`+c.kwargs+`}, {}]}`)
			task.RunOptions = options
			got, _, err := FromTask(task)
			if err != nil {
				t.Fatal(err)
			}
			want := &JobFile{Task: TaskDockerRun, Image: "img", Pull: PullAlways, Network: sandbox.NetworkPrivate}
			c.want(want)
			if want, err = ParseJobFile(want.AppendJSON(nil)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %s\nwant %s", got.AppendJSON(nil), want.AppendJSON(nil))
			}
			// What a task was joined with is the next one's, too.
			if again, _, err := FromTask(task); err != nil || !reflect.DeepEqual(got, again) {
				t.Errorf("a second time: %v, %+v", err, again)
			}
		})
	}
}

func TestBadRunOptions(t *testing.T) {
	for options, says := range map[string]string{
		`[]`:                                   "no JSON object",
		`{`:                                    "no JSON",
		`{"shm_size": 1, "shm_size": 2}`:       "shm_size",
		`{"privileged": true}`:                 "privileged: no job is root",
		`{"memlimit": "1g"}`:                   "unexpected keyword argument 'memlimit'",
		`{"mem_limit": "1 gallon"}`:            "mem_limit: ",
		`{"image": "x"}`:                       "image is each task's own",
		`{"command": "x"}`:                     "command: ",
		`{"volumes": ["/a"]}`:                  "volumes[0]: ",
		`{"volumes": ["a:/b"]}`:                "no absolute path",
		`{"volumes": ["/a:/b", "/c:/b"]}`:      "/b",
		`{"volumes": [{"py/object": "os.x"}]}`: "volumes[0]: ",
		`{"labels": {"py/object": "os.x"}}`:    "the class os.x is not one",
		`{"network": "container:x"}`:           "network: jobs do not share networks",
	} {
		if _, err := ParseRunOptions(options); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want …%s…", options, err, says)
		}
	}
}
