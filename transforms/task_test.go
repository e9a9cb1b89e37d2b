package transforms

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"girderworker/transforms/jsonpickle"
)

// The parts of the messages below, as Girder writes them.
var messageParts = strings.NewReplacer(
	"GC2", `{"py/object": "girder_client.GirderClient", "host": null, "scheme": null, "port": null, "urlBase": "http://girder.test/api/v1/", "token": "SECRET2", "_folderUploadCallbacks": [], "incomingMetadata": {}, "progressReporterCls": {"py/type": "girder_client._NoopProgressReporter"}, "_session": null}`,
	"GC", `{"py/object": "girder_client.GirderClient", "host": null, "scheme": null, "port": null, "urlBase": "http://girder.test/api/v1/", "token": "SECRET", "_folderUploadCallbacks": [], "_itemUploadCallbacks": [], "_serverVersion": [], "_serverApiDescription": {}, "incomingMetadata": {}, "localMetadata": {}, "cache": null, "progressReporterCls": {"py/type": "girder_client._NoopProgressReporter"}, "_session": null}`,
	"DEFAULT", `{"py/object": "girder_worker.docker.transforms._DefaultTemporaryVolume", "_host_path": null, "_container_path": null, "mode": "rw", "_transformed": false, "host_dir": null, "_mode": 511, "_instance": null}`,
	"TEMP", `{"py/object": "girder_worker.docker.transforms.TemporaryVolume", "_host_path": null, "_container_path": null, "mode": "rw", "_transformed": false, "host_dir": "/scratch", "_mode": 493, "_instance": null}`,
	"BIND", `{"py/object": "girder_worker.docker.transforms.BindMountVolume", "_host_path": "/data", "_container_path": "/mnt/data", "mode": "ro"}`,
	"<D.", `{"py/object": "girder_worker.docker.transforms.`,
	"<G.", `{"py/object": "girder_worker.docker.transforms.girder.`,
	"<S.", `{"py/object": "slicer_cli_web.girder_worker_plugin.direct_docker_run.`,
	"ID1", "6b00f0cb9508e6951c974251", "ID2", "6b00f0cb9508e6951c974252",
)

const testServer = `"girder": {"api_url": "http://girder.test/api/v1", "token": "SECRET"}`

// taskOf reads a message body of args and kwargs.
func taskOf(t *testing.T, name, body string, hooks ...string) Task {
	t.Helper()
	v, err := jsonpickle.Decode([]byte(messageParts.Replace(body)), PickleOptions())
	if err != nil {
		t.Fatalf("%v\n%s", err, messageParts.Replace(body))
	}
	task := Task{Name: name, APIURL: "http://girder.test/api/v1", JobID: "6b00f0cb9508e6951c974299"}
	switch v := v.(type) {
	case jsonpickle.Tuple:
		switch args := v[0].(type) {
		case jsonpickle.Tuple:
			task.Args = args
		case *jsonpickle.List:
			task.Args = args.Items
		}
		task.Kwargs = v[1].(*jsonpickle.Dict)
	case *jsonpickle.List:
		task.Args = v.Items[0].(*jsonpickle.List).Items
		task.Kwargs = v.Items[1].(*jsonpickle.Dict)
	}
	for _, h := range hooks {
		task.Hooks = append(task.Hooks, []byte(messageParts.Replace(h)))
	}
	return task
}

// TestTransforms is the table of all transforms: what a message says and what a
// person writes come to the same plan and the same secrets.
func TestTransforms(t *testing.T) {
	schema := jobSchema(t)
	var messages strings.Builder
	defer func() { everyClass(t, messages.String()) }()
	for _, c := range []struct {
		transform string
		kwargs    string // beside the image
		hooks     []string
		document  string // beside the image
	}{
		{"docker_run without arguments", ``, nil, ``},
		{"str() of arguments", `"container_args": ["a b", 1, true, null, 2.5, 1e+22, -0.0, 100000000000000000000000, ["x", 1, {"py/tuple": [null]}], {"k": "it's"}]`, nil,
			`"args": ["a b", "1", "True", "None", "2.5", "1e+22", "-0.0", "100000000000000000000000", "['x', 1, (None,)]", "{'k': \"it's\"}"]`},
		{"entrypoint, text", `"entrypoint": "/bin/sh", "container_args": ["-c", "true"]`, nil, `"entrypoint": "/bin/sh", "args": ["-c", "true"]`},
		{"entrypoint, list", `"entrypoint": ["a", "b"]`, nil, `"entrypoint": ["a", "b"]`},

		{"docker-py's keywords", `"environment": {"V": DEFAULT}, "mem_limit": "64m", "ulimits": [{"py/object": "docker.types.containers.Ulimit", "Name": "nofile", "Soft": 1, "Hard": 2, "__dict__": {}}]`, nil,
			`"env": {"V": "{default}"}, "volumes": ["default"], "resources": {"memory": "64m"}, "ulimits": [{"name": "nofile", "soft": 1, "hard": 2}]`},

		{"BindMountVolume", `"container_args": ["ls", BIND], "volumes": [{"py/id": 2}]`, nil,
			`"args": ["ls", "/mnt/data"], "binds": [{"source": "/data", "target": "/mnt/data", "read_only": true}]`},
		{"Volume", `"volumes": [<D.Volume", "_host_path": "/data/", "_container_path": "/mnt/data", "mode": "rw"}]`, nil,
			`"binds": [{"source": "/data", "target": "/mnt/data"}]`},
		{"volumes, dict", `"volumes": {"/data": {"bind": "/mnt/data", "mode": "ro"}, "/b": {"bind": "/c", "ro": false}, "/d": "/e"}`, nil,
			`"binds": [{"source": "/data", "target": "/mnt/data", "read_only": true}, {"source": "/b", "target": "/c"}, {"source": "/d", "target": "/e"}]`},
		{"volumes, list of texts", `"volumes": ["/data:/mnt/data:ro,z", "/b:/c"]`, nil,
			`"binds": [{"source": "/data", "target": "/mnt/data", "read_only": true}, {"source": "/b", "target": "/c"}]`},
		{"TemporaryVolume", `"container_args": [TEMP], "volumes": [{"py/id": 2}]`, nil,
			`"args": ["{volume}"], "volumes": [{"name": "volume", "host_dir": "/scratch", "mode": "755"}]`},
		{"TemporaryVolume.default", `"container_args": [DEFAULT, DEFAULT]`, nil, `"args": ["{default}", "{default}"], "volumes": ["default"]`},
		{"TemporaryVolume.default in volumes", `"volumes": [DEFAULT]`, nil, `"volumes": ["default"]`},
		{"VolumePath", `"container_args": [<D.VolumePath", "filename": "some/file", "_volume": DEFAULT}]`, nil, `"args": ["{default}/some/file"], "volumes": ["default"]`},
		{"VolumePath on a bind", `"container_args": ["cat", <D.VolumePath", "filename": "f", "_volume": BIND}], "volumes": [{"py/id": 3}]`, nil,
			`"args": ["cat", "{data}/f"], "binds": [{"name": "data", "source": "/data", "target": "/mnt/data", "read_only": true}]`},
		{"a literal that looks like a name", `"container_args": ["{default} {{default}}", DEFAULT]`, nil,
			`"args": ["{default} {{default}}", "{default-2}"], "volumes": ["default-2"]`},

		{"NamedInputPipe", `"container_args": ["cat", <D.Connect", "_input": <G.GirderFileIdToStream", "gc": GC, "file_id": "ID1"}, "_output": <D.NamedInputPipe", "_container_path": null, "_host_path": null, "_volume": DEFAULT, "name": "in"}}]`, nil,
			`"args": ["cat", "{in}"], "inputs": [{"name": "in", "file_id": "ID1"}], "volumes": ["default"], ` + testServer},
		{"NamedInputPipe with paths", `"container_args": ["cat", <D.Connect", "_input": <G.GirderFileIdToStream", "gc": GC, "file_id": {"py/object": "bson.objectid.ObjectId", "py/state": {"py/b64": "awDwy5UI5pUcl0JR"}}}, "_output": <D.NamedInputPipe", "_container_path": "/mnt/p", "_host_path": "/srv/p", "_volume": null, "name": "in"}}], "volumes": {"/srv/p": {"bind": "/mnt/p", "mode": "rw"}}`, nil,
			`"args": ["cat", "{in}"], "inputs": [{"name": "in", "file_id": "ID1"}], "binds": [{"source": "/srv/p", "target": "/mnt/p"}], ` + testServer},
		{"NamedOutputPipe, HostStdOut", `"container_args": ["w", <D.Connect", "_input": <D.NamedOutputPipe", "_container_path": "/p", "_host_path": "/q", "_volume": null, "name": "out"}, "_output": <D.HostStdOut"}}, "x"]`, nil,
			`"args": ["w", "{out}", "x"], "outputs": [{"name": "out", "log": "stdout"}]`},
		{"HostStdErr", `"container_args": [<D.Connect", "_input": <D.NamedOutputPipe", "_container_path": "/p", "_host_path": "/q", "_volume": null, "name": "out"}, "_output": <D.HostStdErr"}}]`, nil,
			`"args": ["{out}"], "outputs": [{"name": "out", "log": "stderr"}]`},
		{"ChunkedTransferEncodingStream", `"container_args": [<D.Connect", "_input": <D.NamedOutputPipe", "_container_path": "/p", "_host_path": "/q", "_volume": null, "name": "out"}, "_output": <D.ChunkedTransferEncodingStream", "url": "http://sink.test/x?a=b", "headers": {"Girder-Token": "HUSH"}}}]`, nil,
			`"args": ["{out}"], "outputs": [{"name": "out", "url": "http://sink.test/x?a=b", "headers": {"Girder-Token": "HUSH"}}]`},
		{"ContainerStdOut", `"container_args": ["x", <D.Connect", "_input": <D.ContainerStdOut"}, "_output": <D.HostStdErr"}}]`, nil, `"args": ["x"], "stdout": {"log": "stderr"}`},
		{"ContainerStdOut, HostStdOut", `"container_args": ["x", <D.Connect", "_input": <D.ContainerStdOut"}, "_output": <D.HostStdOut"}}]`, nil, `"args": ["x"]`},
		{"ContainerStdErr", `"stream_connectors": [<D.Connect", "_input": <D.ContainerStdErr"}, "_output": <D.ChunkedTransferEncodingStream", "url": "http://sink.test/", "headers": {}}}]`, nil,
			`"stderr": {"url": "http://sink.test/"}`},
		{"stream_connectors", `"container_args": [<D.VolumePath", "filename": "in", "_volume": DEFAULT}], "stream_connectors": [<D.Connect", "_input": <G.GirderFileIdToStream", "gc": GC, "file_id": "ID1"}, "_output": <D.NamedInputPipe", "_container_path": null, "_host_path": null, "_volume": DEFAULT, "name": "in"}}]`, nil,
			`"args": ["{default}/in"], "volumes": ["default"], "inputs": [{"name": "in", "file_id": "ID1", "path": "/mnt/girder_worker/default/in"}], ` + testServer},
		{"one Connect twice", `"container_args": [<D.Connect", "_input": <D.NamedOutputPipe", "_container_path": "/p", "_host_path": "/q", "_volume": null, "name": "out"}, "_output": <D.HostStdOut"}}, {"py/id": 2}]`, nil,
			`"args": ["{out}", "{out}"], "outputs": [{"name": "out", "log": "stdout"}]`},
		{"ProgressPipe", `"container_args": ["p", <G.ProgressPipe", "name": ".girder_progress", "_volume": DEFAULT}]`, nil, `"args": ["p", "{progress}"], "progress": true`},
		{"ProgressPipe, connected", `"stream_connectors": [<G.ProgressPipe", "name": ".girder_progress", "_volume": BIND}]`, nil,
			`"progress": "/mnt/data/.girder_progress", "binds": [{"name": "data", "source": "/data", "target": "/mnt/data", "read_only": true}]`},

		{"GirderFileIdToVolume", `"container_args": ["cat", <G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": null, "_file_path": null}]`, nil,
			`"args": ["cat", "{file}"], "downloads": [{"name": "file", "file_id": "ID1"}], ` + testServer},
		{"GirderFileIdToVolume, twice and named", `"container_args": [<G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": "a", "_file_path": null}, <G.GirderFileIdToVolume", "gc": GC2, "_file_id": "ID2", "_volume": {"py/id": 10}, "_filename": null, "_file_path": null}, {"py/id": 2}]`, nil,
			`"args": ["{file}", "{file-2}", "{file}"], "downloads": [{"name": "file", "file_id": "ID1", "filename": "a"}, {"name": "file-2", "file_id": "ID2", "girder": "girder-2"}],
			 "girder": [{"api_url": "http://girder.test/api/v1", "token": "SECRET"}, {"name": "girder-2", "api_url": "http://girder.test/api/v1", "token": "SECRET2"}]`},
		{"GirderItemIdToVolume", `"container_args": [<G.GirderItemIdToVolume", "gc": GC, "_item_id": "ID1", "_volume": BIND, "_item_path": null}]`, nil,
			`"args": ["{item}"], "downloads": [{"name": "item", "item_id": "ID1", "volume": "data"}], "binds": [{"name": "data", "source": "/data", "target": "/mnt/data", "read_only": true}], ` + testServer},
		{"GirderFolderIdToVolume", `"container_args": [<G.GirderFolderIdToVolume", "gc": GC, "_folder_id": "ID1", "_volume": DEFAULT, "_folder_name": "n", "_folder_path": null}]`, nil,
			`"args": ["{folder}"], "downloads": [{"name": "folder", "folder_id": "ID1", "folder_name": "n"}], ` + testServer},
		{"DirectGirderFileIdToVolume", `"container_args": [<S.DirectGirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": "a.svs", "_file_path": null, "_direct_file_path": "/assets/a", "_direct_container_path": null}]`, nil,
			`"args": ["{file}"], "downloads": [{"name": "file", "file_id": "ID1", "filename": "a.svs", "direct_file_path": "/assets/a"}], ` + testServer},
		{"GirderApiUrl, GirderToken", `"container_args": ["--u", <S.GirderApiUrl", "gc": GC}, "--t", <S.GirderToken", "gc": {"py/id": 3}}]`, nil,
			`"args": ["--u", "http://girder.test/api/v1/", "--t", "{girder.token}"], ` + testServer},

		{"GirderUploadVolumePathToItem", ``,
			[]string{`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {"reference": "r", "mimeType": "m/t", "filename": "f"}, "delete_file": true, "_volumepath": <D.VolumePath", "filename": "out/a", "_volume": DEFAULT}, "job": {"title": "t", "_id": {"py/object": "bson.objectid.ObjectId", "py/state": {"py/b64": "awDwy5UI5pUcl0JR"}}}}`},
			`"uploads": [{"path": "out/a", "item_id": "ID1", "upload_kwargs": {"reference": "r", "mimeType": "m/t", "filename": "f"}, "delete_file": true}], ` + testServer},
		{"GirderUploadVolumePathToFolder", `"volumes": [BIND]`,
			[]string{`<G.GirderUploadVolumePathToFolder", "gc": GC, "folder_id": "ID1", "upload_kwargs": {}, "delete_file": false, "must_exist": false, "_volumepath": <D.VolumePath", "filename": "", "_volume": BIND}}`},
			`"uploads": [{"path": ".", "volume": "data", "folder_id": "ID1", "must_exist": false}], "binds": [{"name": "data", "source": "/data", "target": "/mnt/data", "read_only": true}], ` + testServer},
		{"GirderUploadVolumePathJobArtifact", ``,
			[]string{`<G.GirderUploadVolumePathJobArtifact", "gc": GC, "job_id": null, "name": "n", "_volumepath": <D.VolumePath", "filename": "log", "_volume": DEFAULT}, "_upload_on_exception": true, "job": {"_id": {"py/object": "bson.objectid.ObjectId", "py/state": {"py/b64": "awDwy5UI5pUcl0JR"}}}}`},
			`"uploads": [{"path": "log", "job_id": "ID1", "artifact_name": "n", "upload_on_exception": true}], ` + testServer},
		{"a file and its upload, with a client of its own each", `"container_args": ["write", <D.VolumePath", "filename": "big.bin", "_volume": DEFAULT}, <G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": null, "_file_path": null}]`,
			[]string{`<G.GirderUploadVolumePathToItem", "gc": GC2, "item_id": "ID2", "upload_kwargs": {}, "delete_file": false, "_volumepath": <D.VolumePath", "filename": "big.bin", "_volume": DEFAULT}}`},
			`"args": ["write", "{default}/big.bin", "{file}"], "downloads": [{"name": "file", "file_id": "ID1"}], "uploads": [{"path": "big.bin", "item_id": "ID2", "girder": "girder-2"}],
			 "girder": [{"api_url": "http://girder.test/api/v1", "token": "SECRET"}, {"name": "girder-2", "api_url": "http://girder.test/api/v1", "token": "SECRET2"}]`},
		{"two hooks in their order", `"container_args": ["write", <D.VolumePath", "filename": "a", "_volume": DEFAULT}]`,
			[]string{`<G.GirderUploadVolumePathJobArtifact", "gc": GC, "job_id": "ID2", "name": null, "_volumepath": <D.VolumePath", "filename": "a", "_volume": DEFAULT}, "_upload_on_exception": false}`,
				`<G.GirderUploadVolumePathToFolder", "gc": GC, "folder_id": "ID1", "upload_kwargs": {}, "delete_file": true, "must_exist": true, "_volumepath": <D.VolumePath", "filename": "a", "_volume": DEFAULT}}`},
			`"args": ["write", "{default}/a"], "uploads": [{"path": "a", "job_id": "ID2"}, {"path": "a", "folder_id": "ID1", "delete_file": true}], ` + testServer},
		{"a download into a TemporaryVolume that is listed too", `"container_args": ["ls", TEMP, <G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": {"py/id": 2}, "_filename": null, "_file_path": null}]`, nil,
			`"args": ["ls", "{volume}", "{file}"], "volumes": [{"name": "volume", "host_dir": "/scratch", "mode": "755"}], "downloads": [{"name": "file", "file_id": "ID1", "volume": "volume"}], ` + testServer},
		{"docker-py's keywords of a whole job", `"entrypoint": "/bin/sh", "container_args": ["-c", "echo $0", 12], "environment": ["A=1"], "working_dir": "/tmp", "user": "1000:1000", "hostname": "labhost", "shm_size": "32m", "labels": {"lab": "yes"}`, nil,
			`"entrypoint": "/bin/sh", "args": ["-c", "echo $0", "12"], "env": {"A": "1"}, "workdir": "/tmp", "user": "1000:1000", "hostname": "labhost", "resources": {"shm": "32m"}, "labels": {"lab": "yes"}`},
		{"a hook's copy of a TemporaryVolume", `"container_args": [<D.VolumePath", "filename": "a", "_volume": TEMP}], "volumes": [{"py/id": 3}]`,
			[]string{`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {}, "delete_file": false, "_volumepath": <D.VolumePath", "filename": "a", "_volume": TEMP}}`},
			`"args": ["{volume}/a"], "volumes": [{"name": "volume", "host_dir": "/scratch", "mode": "755"}], "uploads": [{"path": "a", "volume": "volume", "item_id": "ID1"}], ` + testServer},
		{"a hook's copy of a BindMountVolume", `"container_args": [<D.VolumePath", "filename": "a", "_volume": BIND}], "volumes": [{"py/id": 3}]`,
			[]string{`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {}, "delete_file": false, "_volumepath": <D.VolumePath", "filename": "a", "_volume": BIND}}`},
			`"args": ["{data}/a"], "binds": [{"name": "data", "source": "/data", "target": "/mnt/data", "read_only": true}], "uploads": [{"path": "a", "volume": "data", "item_id": "ID1"}], ` + testServer},
	} {
		messages.WriteString(messageParts.Replace(c.kwargs + strings.Join(c.hooks, "")))
		t.Run(c.transform, func(t *testing.T) {
			join := func(rest string) string {
				if rest == "" {
					return ""
				}
				return ", " + rest
			}
			task := taskOf(t, TaskDockerRun, `{"py/tuple": [{"py/tuple": ["img"]}, {`+c.kwargs+`}, {"callbacks": null}]}`, c.hooks...)
			f, secrets, err := FromTask(task)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Plan()
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(t, schema, messageParts.Replace(`{"image": "img", "network": "private", "pull": "always"`+join(c.document)+`}`)); err != nil {
				t.Errorf("the schema refuses the document: %v", err)
			}
			if err := validate(t, schema, string(f.AppendJSON(nil))); err != nil {
				t.Errorf("the schema refuses what the message came to: %v", err)
			}
			written, err := ParseJobFile([]byte(messageParts.Replace(`{"image": "img", "network": "private", "pull": "always"` + join(c.document) + `}`)))
			if err != nil {
				t.Fatal(err)
			}
			wantSecrets, err := written.TakeSecrets()
			if err != nil {
				t.Fatal(err)
			}
			want, err := written.Plan()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("the message: %s\nplan: %+v\n\nthe document: %s\nplan: %+v", f.AppendJSON(nil), got, written.AppendJSON(nil), want)
			}
			if !reflect.DeepEqual(secrets, wantSecrets) {
				t.Errorf("secrets of the message: %v\nof the document: %v", secrets, wantSecrets)
			}
			if stored := string(f.AppendJSON(nil)); strings.Contains(stored, "SECRET") || strings.Contains(stored, "HUSH") {
				t.Errorf("a secret is in %s", stored)
			}
		})
	}
}

// TestModules: a class is known by every module that Girder 3, Girder 5 or a plugin
// has it in, and by no other.
func TestModules(t *testing.T) {
	for _, family := range families {
		for _, class := range family.classes {
			for _, module := range family.modules {
				if got := kindOf(&jsonpickle.Object{Class: module + "." + class}); got != class {
					t.Errorf("%s.%s is taken for %q", module, class, got)
				}
			}
			for _, other := range []string{"evil." + class, family.modules[0] + ".evil." + class, class, "." + class} {
				if got := kindOf(&jsonpickle.Object{Class: other}); got != "" {
					t.Errorf("%s is taken for %q", other, got)
				}
			}
		}
	}
	for _, path := range []string{"girder_worker_utils.transforms.girder_io.GirderFileId", "girder_worker.utils.transforms.girder_io.GirderFileId"} {
		if kindOf(&jsonpickle.Object{Class: path}) != classPyFile {
			t.Errorf("%s is not known", path)
		}
	}
}

// everyClass: each transform of a task with a container is in some message, and
// has its line in the table for people.
func everyClass(t *testing.T, messages string) {
	t.Helper()
	manual, err := os.ReadFile("../man/girder-worker-job.5.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families[:2] {
		for _, class := range family.classes {
			if !strings.Contains(messages, "."+class+`"`) {
				t.Errorf("no message has a %s", class)
			}
			if class == classDefault {
				class = "TemporaryVolume.default"
			}
			if !strings.Contains(string(manual), "| "+class+" ") {
				t.Errorf("the manual has no line for %s", class)
			}
		}
	}
}

func TestTasksThatAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		task, args, kwargs string
		hooks              []string
		says               string
	}{
		"no image":              {TaskDockerRun, ``, ``, nil, "TypeError: docker_run() missing 1 required positional argument: 'image'"},
		"image twice":           {TaskDockerRun, `"img"`, `"image": "img"`, nil, "TypeError: docker_run() got multiple values for argument 'image'"},
		"too many":              {TaskDockerRun, `"img", true, null, [], [], true, 1`, ``, nil, "TypeError: docker_run() takes from 2 to 7 positional arguments but 8 were given"},
		"unknown keyword":       {TaskDockerRun, `"img"`, `"no_such": 1`, nil, "run() got an unexpected keyword argument 'no_such'"},
		"slicer positional":     {TaskSlicerRun, `"img"`, ``, nil, "TypeError: run() takes 1 positional argument but 2 were given"},
		"slicer no image":       {TaskSlicerRun, ``, ``, nil, "_docker_run() missing 1 required positional argument: 'image'"},
		"another task":          {"celery.ping", `"img"`, ``, nil, "not a task that runs a container"},
		"image of a number":     {TaskDockerRun, `1`, ``, nil, "image: it is no text"},
		"unknown class":         {TaskDockerRun, `"img"`, `"container_args": ["a", {"py/object": "os.path.Evil", "x": 1}]`, nil, "container_args[1]: the class os.path.Evil is not one that a job may use"},
		"unknown class deep":    {TaskDockerRun, `"img"`, `"environment": {"A": [{"py/object": "a.B"}]}`, nil, "environment.A[0]: the class a.B"},
		"class of other module": {TaskDockerRun, `"img"`, `"container_args": [{"py/object": "evil.VolumePath", "filename": "a", "_volume": DEFAULT}]`, nil, "the class evil.VolumePath"},
		"unknown class in a gc": {TaskDockerRun, `"img"`, `"container_args": [<S.GirderToken", "gc": {"py/object": "girder_client.GirderClient", "urlBase": "http://a", "token": "t", "_session": {"py/object": "requests.sessions.Session"}}}]`, nil, "container_args[0].gc._session: the class requests.sessions.Session"},
		"text as arguments":     {TaskDockerRun, `"img"`, `"container_args": "ls"`, nil, "container_args: it is no list"},
		"pipe alone":            {TaskDockerRun, `"img"`, `"container_args": [<D.NamedInputPipe", "_container_path": "/a", "_host_path": "/b", "_volume": null, "name": "in"}]`, nil, "container_args[0]: a NamedInputPipe must be connected to something with Connect"},
		"stream alone":          {TaskDockerRun, `"img"`, `"container_args": [<G.GirderFileIdToStream", "gc": GC, "file_id": "ID1"}]`, nil, "one end of a Connect"},
		"no pipe":               {TaskDockerRun, `"img"`, `"container_args": [<D.Connect", "_input": <G.GirderFileIdToStream", "gc": GC, "file_id": "ID1"}, "_output": <D.HostStdOut"}}]`, nil, "TypeError: A NamedInputPipe or NamedOutputPipe must be provided."},
		"stdout twice":          {TaskDockerRun, `"img"`, `"stream_connectors": [<D.Connect", "_input": <D.ContainerStdOut"}, "_output": <D.HostStdErr"}}, <D.Connect", "_input": <D.ContainerStdOut"}, "_output": <D.HostStdErr"}}]`, nil, "connected twice"},
		"text as a connector":   {TaskDockerRun, `"img"`, `"stream_connectors": ["x"]`, nil, "TypeError: Expected 'FDReadStreamConnector'"},
		"path out of a volume":  {TaskDockerRun, `"img"`, `"container_args": [<D.VolumePath", "filename": "../../etc/passwd", "_volume": DEFAULT}]`, nil, "container_args[0].filename: \"../../etc/passwd\" leads out"},
		"absolute path":         {TaskDockerRun, `"img"`, `"container_args": [<D.VolumePath", "filename": "/etc/passwd", "_volume": DEFAULT}]`, nil, "leads out"},
		"volume by name":        {TaskDockerRun, `"img"`, `"volumes": {"vol": {"bind": "/a", "mode": "rw"}}`, nil, "no absolute path"},
		"propagation":           {TaskDockerRun, `"img"`, `"volumes": {"/vol": {"bind": "/a", "mode": "rw,shared"}}`, nil, "\"shared\" is not supported"},
		"download in a list":    {TaskDockerRun, `"img"`, `"container_args": [[<G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": null}]]`, nil, "within a list"},
		"no id":                 {TaskDockerRun, `"img"`, `"container_args": [<G.GirderFileIdToVolume", "gc": GC, "_file_id": "../x", "_volume": DEFAULT, "_filename": null}]`, nil, "no id of Girder"},
		"name out of a volume":  {TaskDockerRun, `"img"`, `"container_args": [<G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": "../x"}]`, nil, "leads out of the volume"},
		"no client":             {TaskDockerRun, `"img"`, `"container_args": [<G.GirderFileIdToVolume", "gc": null, "_file_id": "ID1", "_volume": DEFAULT, "_filename": null}]`, nil, "no Girder client"},
		"python's transform":    {TaskDockerRun, `"img"`, `"container_args": [{"py/object": "girder_worker.utils.transforms.girder_io.GirderFileId", "gc": GC, "file_id": "ID1"}]`, nil, "use GirderFileIdToVolume"},
		"bind into /proc":       {TaskDockerRun, `"img"`, `"volumes": {"/vol": {"bind": "/proc/x", "mode": "rw"}}`, nil, "the container's own"},
		"NUL":                   {TaskDockerRun, `"img"`, `"container_args": ["a\u0000b"]`, nil, "NUL"},
		"hook of Python":        {TaskDockerRun, `"img"`, ``, []string{`{"py/object": "girder_worker_utils.transforms.girder_io.GirderUploadToItem", "gc": GC, "item_id": "ID1"}`}, "use GirderUploadVolumePathToItem"},
		"hook that is none":     {TaskDockerRun, `"img"`, ``, []string{`<D.HostStdOut"}`}, "is no result hook"},
		"hook of a host path":   {TaskDockerRun, `"img"`, ``, []string{`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {}, "delete_file": false, "_volumepath": "/etc/passwd"}`}, "no VolumePath"},
		"hook's kwargs":         {TaskDockerRun, `"img"`, ``, []string{`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {"progressCallback": 1}, "delete_file": false, "_volumepath": <D.VolumePath", "filename": "a", "_volume": DEFAULT}}`}, "progressCallback"},
		"hook of two volumes": {TaskDockerRun, `"img"`, `"volumes": [TEMP, TEMP]`,
			[]string{`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {}, "delete_file": false, "_volumepath": <D.VolumePath", "filename": "a", "_volume": TEMP}}`}, "cannot say which"},
		"hook with code": {TaskDockerRun, `"img"`, ``, []string{`{"py/reduce": [{"py/function": "os.system"}, {"py/tuple": ["id"]}]}`}, "girder_result_hooks[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			task := taskOf(t, c.task, `{"py/tuple": [{"py/tuple": [`+c.args+`]}, {`+c.kwargs+`}, {}]}`, c.hooks...)
			f, _, err := FromTask(task)
			if err == nil {
				t.Fatalf("taken as %s", f.AppendJSON(nil))
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("got  %v\nwant …%s…", err, c.says)
			}
			var call *CallError
			var document *DocumentError
			var pickle *jsonpickle.Error
			if !errors.As(err, &call) && !errors.As(err, &document) && !errors.As(err, &pickle) {
				t.Errorf("it is a %T", err)
			}
		})
	}
}

// FuzzTask feeds whole bodies and hooks to the decoder: whatever comes out is a
// document that is read again to the same, without a secret in it.
func FuzzTask(f *testing.F) {
	for _, kwargs := range []string{
		`"container_args": ["cat", <G.GirderFileIdToVolume", "gc": GC, "_file_id": "ID1", "_volume": DEFAULT, "_filename": null}], "volumes": [BIND]`,
		`"stream_connectors": [<D.Connect", "_input": <D.NamedOutputPipe", "_container_path": null, "_host_path": null, "_volume": TEMP, "name": "{x}"}, "_output": <D.HostStdOut"}}], "environment": {"A": "{x}"}`,
		`"container_args": [[{"a": {"py/set": [1]}}, <S.GirderToken", "gc": GC}], "volumes": {"/a": {"bind": "/b", "mode": "ro"}}`,
	} {
		f.Add([]byte(messageParts.Replace(`{"py/tuple": [{"py/tuple": ["img"]}, {`+kwargs+`}]}`)),
			[]byte(messageParts.Replace(`<G.GirderUploadVolumePathToItem", "gc": GC, "item_id": "ID1", "upload_kwargs": {}, "delete_file": false, "_volumepath": <D.VolumePath", "filename": "a", "_volume": TEMP}}`)))
	}
	f.Fuzz(func(t *testing.T, body, hook []byte) {
		options := PickleOptions()
		options.Limits = jsonpickle.Limits{Depth: 30, Nodes: 1000}
		v, err := jsonpickle.Decode(body, options)
		parts, ok := v.(jsonpickle.Tuple)
		if err != nil || !ok || len(parts) < 2 {
			return
		}
		task := Task{Name: TaskDockerRun, Hooks: []any{hook}}
		if args, ok := parts[0].(jsonpickle.Tuple); ok {
			task.Args = args
		}
		task.Kwargs, _ = parts[1].(*jsonpickle.Dict)
		document, secrets, err := FromTask(task)
		if err != nil {
			return
		}
		stored := document.AppendJSON(nil)
		again, err := ParseJobFile(stored)
		if err != nil || !reflect.DeepEqual(again, document) {
			t.Fatalf("%s reads back as %+v, %v", stored, again, err)
		}
		plan, err := document.Plan()
		if err != nil {
			t.Fatalf("%s: %v", stored, err)
		}
		for name := range secrets.Tokens {
			if !slices.ContainsFunc(plan.Girders, func(g Girder) bool { return g.Name == name }) {
				t.Fatalf("the token of %s has no server", name)
			}
		}
	})
}
