package daemon_test

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/transforms/girder/girdertest"
	"girderworker/transforms/recordtest"
)

// recorded is a call of docker_run as Girder makes it, and what its caller and Girder
// must see. The texts are JSON as jsonpickle writes it: its references count objects
// in the order in which they stand.
type recorded struct {
	name     string
	task     string   // "": docker_run
	args     string   // positional, without brackets; "": the image
	kwargs   string   // without braces
	hooks    []string // girder_result_hooks
	session  string   // girder_client_session_kwargs
	handler  string   // of the job; "": celery_handler
	statuses string   // that Girder has seen
	result   string   // what .get() returns, or type and beginning of what it raises; "": null
	log      []string // what Girder has of it, among other things
	// cancel revokes the task when its log has this.
	cancel string
	// gone says what became of it before it came: "revoked" or, where no worker was
	// there to hear that, "canceled" in Girder alone.
	gone      string
	queue     string // it is sent to; "": celery
	countdown int
	artifacts []string // of the job, by name
	// after looks at what is left of it.
	after func(t *testing.T)

	job    string // in Girder
	hidden string // its token
}

const (
	inD = `"py/object": "girder_worker.docker.transforms.`
	inG = `"py/object": "girder_worker.docker.transforms.girder.`
	// defaultVolume is _DefaultTemporaryVolume as every call has it.
	defaultVolume = `{` + inD + `_DefaultTemporaryVolume", "_host_path": null, "_container_path": null, "mode": "rw", "_transformed": false, "host_dir": null, "_mode": 511, "_instance": null}`
	busybox       = `"busybox"`
)

func volumePath(file, volume string) string {
	return fmt.Sprintf(`{%sVolumePath", "filename": %q, "_volume": %s}`, inD, file, volume)
}

func bindVolume(host, container, mode string) string {
	return fmt.Sprintf(`{%sBindMountVolume", "_host_path": %q, "_container_path": %q, "mode": %q}`, inD, host, container, mode)
}

func temporaryVolume(host string) string {
	return fmt.Sprintf(`{%sTemporaryVolume", "_host_path": null, "_container_path": null, "mode": "rw", "_transformed": false, "host_dir": %q, "_mode": 511, "_instance": null}`, inD, host)
}

func connect(input, output string) string {
	return fmt.Sprintf(`{%sConnect", "_input": %s, "_output": %s}`, inD, input, output)
}

// pipe is a NamedInputPipe or NamedOutputPipe in a volume.
func pipe(kind, name, volume string) string {
	return fmt.Sprintf(`{%s%s", "_container_path": null, "_host_path": null, "_volume": %s, "name": %q}`, inD, kind, volume, name)
}

// pipeAt is one in a directory of the host that is mounted.
func pipeAt(kind, name, host, container string) string {
	return fmt.Sprintf(`{%s%s", "_container_path": %q, "_host_path": %q, "_volume": null, "name": %q}`, inD, kind, container, host, name)
}

// shell is the keywords for a script in busybox; more are whole members after it.
func shell(script string, args ...string) string {
	return fmt.Sprintf(`"entrypoint": "/bin/sh", "container_args": ["-c", %s], "pull_image": false, "remove_container": true`,
		strings.Join(append([]string{jsonText(script)}, args...), ", "))
}

func jsonText(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}

// objectID is bson's, as jsonpickle writes it.
func objectID(id string) string {
	raw, err := hex.DecodeString(id)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`{"py/object": "bson.objectid.ObjectId", "py/state": {"py/b64": %q}}`, base64.StdEncoding.EncodeToString(raw))
}

// recordedGirder is the Girder that the calls name.
type recordedGirder struct {
	*girdertest.Server
	user, token              string
	folder, item, file       string
	several, nested, binding string

	sink *httptest.Server // of chunks
	sunk chan string      // header, encoding and body of each request
}

const fileText = "These are the voyages of the starship Enterprise.\n"

func newRecordedGirder(t *testing.T) *recordedGirder {
	g := &recordedGirder{Server: girdertest.New(t, girdertest.Config{})}
	g.sunk = make(chan string, 1)
	g.sink = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		g.sunk <- fmt.Sprintf("%s %v %s", r.Header.Get("X-Lab"), r.TransferEncoding, body)
	}))
	t.Cleanup(g.sink.Close)
	g.user = g.AddUser(true)
	g.token = g.AddToken(g.user, girdertest.ScopeRead, girdertest.ScopeWrite)
	g.folder = g.AddFolder(g.user, "data")
	g.item = g.AddItem(g.folder, "voyage.txt")
	g.file = g.AddFile(g.item, "voyage.txt", []byte(fileText))
	g.several = g.AddItem(g.folder, "several")
	g.AddFile(g.several, "one.txt", []byte("one"))
	g.AddFile(g.several, "two.txt", []byte("two"))
	g.nested = g.AddFolder(g.folder, "nested")
	inner := g.AddFolder(g.nested, "inner")
	g.AddFile(g.AddItem(inner, "deep.txt"), "deep.txt", []byte("deep"))
	g.binding = t.TempDir()
	for dir := g.binding; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"fixtures", "bindvol", "pipes", "root"} {
		dir := filepath.Join(g.binding, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o1777); err != nil { // nobody's: a task has an id of its own
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(g.binding, "fixtures", "read.txt"), []byte("RARARARA"), 0o644); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *recordedGirder) host(name string) string { return filepath.Join(g.binding, name) }

func (g *recordedGirder) newItem() string { return g.AddItem(g.folder, "for an upload") }

// gc is the client that each Girder transform carries.
func (g *recordedGirder) gc() string {
	return fmt.Sprintf(`{"py/object": "girder_client.GirderClient", "host": null, "scheme": null, "port": null, "urlBase": %q, "token": %q,
 "_folderUploadCallbacks": [], "_itemUploadCallbacks": [], "_serverVersion": [], "_serverApiDescription": {}, "incomingMetadata": {}, "localMetadata": {},
 "cache": null, "progressReporterCls": {"py/type": "girder_client._NoopProgressReporter"}, "_session": null}`, g.API()+"/", g.token)
}

func (g *recordedGirder) fileToVolume(file, volume, name string) string {
	return fmt.Sprintf(`{%sGirderFileIdToVolume", "gc": %s, "_file_id": %q, "_volume": %s, "_filename": %s, "_file_path": null}`, inG, g.gc(), file, volume, name)
}

func (g *recordedGirder) itemToVolume(item string) string {
	return fmt.Sprintf(`{%sGirderItemIdToVolume", "gc": %s, "_item_id": %q, "_volume": %s, "_item_path": null}`, inG, g.gc(), item, defaultVolume)
}

func (g *recordedGirder) stream(file string) string {
	return fmt.Sprintf(`{%sGirderFileIdToStream", "gc": %s, "file_id": %s}`, inG, g.gc(), file)
}

// The hooks have the job's document behind them, which prepare puts in.
func (g *recordedGirder) toItem(item, kwargs string, remove bool, path string) string {
	return fmt.Sprintf(`{%sGirderUploadVolumePathToItem", "gc": %s, "item_id": %q, "upload_kwargs": %s, "delete_file": %t, "_volumepath": %s, "job": JOB}`,
		inG, g.gc(), item, kwargs, remove, path)
}

func (g *recordedGirder) toFolder(folder string, remove, must bool, path string) string {
	return fmt.Sprintf(`{%sGirderUploadVolumePathToFolder", "gc": %s, "folder_id": %q, "upload_kwargs": {}, "delete_file": %t, "must_exist": %t, "_volumepath": %s, "job": JOB}`,
		inG, g.gc(), folder, remove, must, path)
}

func (g *recordedGirder) artifact(name string, always bool, path string) string {
	return fmt.Sprintf(`{%sGirderUploadVolumePathJobArtifact", "gc": %s, "job_id": null, "name": %s, "_volumepath": %s, "_upload_on_exception": %t, "job": JOB}`,
		inG, g.gc(), name, path, always)
}

// document is a job's, as a hook carries it. jsonpickle writes when as a reference to
// created, whose number depends on what stands before.
func (g *recordedGirder) document(job string) string {
	when := `{"py/object": "datetime.datetime", "__reduce__": [{"py/type": "datetime.datetime"}, ["B+oLFQERLwh65w=="]]}`
	return fmt.Sprintf(`{"title": "docker_run", "type": "celery", "args": {"py/tuple": [%s]}, "kwargs": {}, "created": %s, "updated": %s, "when": {"py/id": WHEN}, "interval": 0,
 "status": 0, "progress": null, "log": [], "meta": {}, "handler": "celery_handler", "asynchronous": false, "timestamps": [], "parentId": null, "celeryTaskId": "x", "public": true,
 "userId": %s, "access": {"groups": [], "users": []}, "_id": %s, "jobInfoSpec": {}}`, busybox, when, when, objectID(g.user), objectID(job))
}

// files wants the files of an item to have these names and contents.
func (g *recordedGirder) files(item string, want ...string) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		var got []string
		for _, f := range g.Files(item) {
			got = append(got, f.Name, string(f.Data))
		}
		if !slices.Equal(got, want) {
			t.Errorf("the item has %q, want %q", got, want)
		}
	}
}

// artifacts are the names of a job's.
func (g *recordedGirder) artifacts(job string) (names []string) {
	for _, c := range g.Calls("POST /job/{id}/artifact") {
		if strings.Contains(c.Path, job) {
			names = append(names, c.Form["name"]...)
		}
	}
	slices.Sort(names)
	return names
}

// cases are the calls that were recorded from a Girder with the Python worker, by the
// names of their recordings.
func (g *recordedGirder) cases() []*recorded {
	out := volumePath("log.txt", defaultVolume)
	write := shell(`echo -n "$1" >"$0"`, out, `"written"`)
	writeFail := shell(`echo -n "$1" >"$0"; exit 3`, out, `"written"`)
	fixtures := g.host("fixtures")
	bound := bindVolume(g.host("bindvol"), "/mnt/bindvol", "rw")
	same := bindVolume(g.host("bindvol"), g.host("bindvol"), "rw")
	root := temporaryVolume(g.host("root"))
	const exit3 = `["DockerException", "Non-zero exit code from docker container (3)."]`
	item := func(hook func(item string) *recorded) *recorded { return hook(g.newItem()) }
	all := []*recorded{
		{name: "plain", kwargs: shell(`echo "$0"`, `"hello docker!"`), statuses: "[2 3]", log: []string{"hello docker!\n"}},
		{name: "plain_defaults", kwargs: ``, statuses: "[2 3]"},
		{name: "plain_pull", kwargs: `"pull_image": true, "container_args": ["echo", "pulled"]`, statuses: "[2 3]", log: []string{"pulled\n"}},
		{name: "plain_positional", args: busybox + `, false, "echo", ["positional", 1, 2.5, true, null]`, statuses: "[2 3]", log: []string{"positional 1 2.5 True None\n"}},
		{name: "plain_kwargs", kwargs: `"environment": {"A": "1"}, "working_dir": "/tmp", "user": "1000:1000", "hostname": "labhost", "mem_limit": "64m", "network_mode": "none", "labels": {"lab": "yes"}, "shm_size": "32m", ` +
			shell(`echo A=$A; pwd; id -u; hostname; echo $0 $1`, `"x"`, `12`), statuses: "[2 3]", log: []string{"A=1\n/tmp\n1000\nlabhost\nx 12\n"}},
		{name: "plain_keep", kwargs: `"name": "lab_kept", "entrypoint": "/bin/sh", "container_args": ["-c", "echo kept"], "remove_container": false, "pull_image": false`, statuses: "[2 3]", log: []string{"kept\n"}},
		{name: "plain_options", kwargs: shell(`echo "$0"; echo "$0" >&2`, `"unicode é中"`), statuses: "[2 3]", log: []string{"unicode é中\n"}},
		{name: "plain_stderr", kwargs: shell(`echo to out; echo to err >&2`), statuses: "[2 3]", log: []string{"to out\n", "to err\n"}},
		{name: "plain_biglog", kwargs: shell(`i=0; while [ $i -lt 2000 ]; do echo "line $i xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"; i=$((i+1)); done`), statuses: "[2 3]", log: []string{"line 0 ", "line 1999 "}},
		{name: "plain_slowlog", kwargs: shell(`for i in 1 2 3; do echo "line $i"; usleep 300000; done`), statuses: "[2 3]", log: []string{"line 1\n", "line 3\n"}},
		{name: "signature", kwargs: shell(`echo sig`), statuses: "[2 3]", log: []string{"sig\n"}},
		{name: "events_task", kwargs: shell(`cat "$0"`, g.fileToVolume(g.file, defaultVolume, "null")), statuses: "[2 3]", log: []string{fileText}},
		{name: "client_session_kwargs", kwargs: shell(`echo x`), session: `{"verify": false}`, statuses: "[2 3]", log: []string{"x\n"}},
		{name: "legacy", task: "girder_worker.docker.tasks.docker_run", args: " ", kwargs: `"image": "busybox", ` + shell("echo legacy"), handler: "worker_handler", statuses: "[1 2 3]", log: []string{"legacy\n"}},
		{name: "legacy_run", task: "girder_worker.run", kwargs: `"container_args": []`, handler: "worker_handler", statuses: "[1 4]", result: `["NotRegistered", "'girder_worker.run'"]`},
		{name: "fail", kwargs: shell(`echo bad; exit 7`), statuses: "[2 4]", result: `["DockerException", "Non-zero exit code from docker container (7)."]`,
			log: []string{"bad\n", "DockerException: Non-zero exit code from docker container (7).\n"}},
		{name: "missing_image", args: `"girder/does-not-exist:latest"`, kwargs: `"pull_image": false, "container_args": ["x"]`, statuses: "[2 4]", result: `["ImageNotFound", "no such image: girder/does-not-exist`, log: []string{"ImageNotFound: "}},
		{name: "missing_image_pull", args: `"127.0.0.1:1/does-not-exist:latest"`, kwargs: `"container_args": ["x"]`, statuses: "[2 4]", result: `["APIError", "cannot pull `},
		{name: "badargs", args: " ", statuses: "[2 4]", result: `["TypeError", "docker_run() missing 1 required positional argument: 'image'"]`},

		{name: "bind_volume", kwargs: shell(`cat "$0"`, volumePath("read.txt", bindVolume(fixtures, "/mnt/test", "ro"))) + `, "volumes": [{"py/id": 3}]`, statuses: "[2 3]", log: []string{"RARARARA"}},
		{name: "bind_volume_arg", kwargs: shell(`ls "$0"`, bindVolume(fixtures, "/mnt/test", "rw")) + `, "volumes": [{"py/id": 2}]`, statuses: "[2 3]", log: []string{"read.txt\n"}},
		{name: "volumes_dict", kwargs: shell(`cat /mnt/test/read.txt`) + fmt.Sprintf(`, "volumes": {%q: {"bind": "/mnt/test", "mode": "ro"}}`, fixtures), statuses: "[2 3]", log: []string{"RARARARA"}},
		{name: "tempvol_default", kwargs: shell(`echo "<$0>"`, defaultVolume), statuses: "[2 3]", log: []string{"</mnt/girder_worker/"}},
		{name: "tempvol_default_in_volumes", kwargs: shell(`echo "<$0>"`, defaultVolume) + `, "volumes": [{"py/id": 2}]`, statuses: "[2 3]", log: []string{"</mnt/girder_worker/"}},
		{name: "tempvol_path", kwargs: shell(`echo "$0"`, volumePath("some/file.txt", defaultVolume)), statuses: "[2 3]", log: []string{"/some/file.txt\n"}},
		{name: "tempvol_root", kwargs: shell(`echo "$0"; echo x >"$0/x"`, root) + `, "volumes": [{"py/id": 2}]`, statuses: "[2 3]", log: []string{"/mnt/girder_worker/"}},
		{name: "file_to_volume", kwargs: shell(`cat "$0"`, g.fileToVolume(g.file, defaultVolume, "null")), statuses: "[2 3]", log: []string{fileText}},
		{name: "file_to_volume_name", kwargs: shell(`echo "${0##*/}"; cat "$0"`, g.fileToVolume(g.file, defaultVolume, `"renamed.txt"`)), statuses: "[2 3]", log: []string{"renamed.txt\n" + fileText}},
		{name: "file_to_volume_two", kwargs: shell(`cmp "$1" "$2" && echo the same`, defaultVolume, g.fileToVolume(g.file, defaultVolume, "null"), g.fileToVolume(g.file, `{"py/id": 11}`, "null")), statuses: "[2 3]", log: []string{"the same\n"}},
		{name: "file_to_volume_vol", kwargs: shell(`cat "$1"`, root, g.fileToVolume(g.file, `{"py/id": 2}`, "null")) + `, "volumes": [{"py/id": 2}]`, statuses: "[2 3]", log: []string{fileText}},
		{name: "file_to_volume_missing", kwargs: shell(`cat "$0"`, g.fileToVolume("5f0000000000000000000000", defaultVolume, "null")), statuses: "[2 4]", result: `["HttpError", `, log: []string{"HttpError: ", "file/5f0000000000000000000000"}},
		{name: "item_to_volume", kwargs: shell(`echo "${0##*/}"; cat "$0"`, g.itemToVolume(g.item)), statuses: "[2 3]", log: []string{"voyage.txt\n" + fileText}},
		{name: "item_to_volume_multi", kwargs: shell(`ls "$0"`, g.itemToVolume(g.several)), statuses: "[2 3]", log: []string{"one.txt\ntwo.txt\n"}},
		{name: "folder_to_volume", kwargs: shell(`cat "$0/inner/deep.txt"`, fmt.Sprintf(`{%sGirderFolderIdToVolume", "gc": %s, "_folder_id": %q, "_volume": %s, "_folder_name": null, "_folder_path": null}`, inG, g.gc(), g.nested, defaultVolume)),
			statuses: "[2 3]", log: []string{"deep"}},
		{name: "input_pipe", kwargs: shell(`cat "$0"`, connect(g.stream(objectID(g.file)), pipe("NamedInputPipe", "in", defaultVolume))), statuses: "[2 3]", log: []string{fileText}},
		{name: "input_pipe_dir", kwargs: shell(`cat "$0"`, connect(g.stream(`"`+g.file+`"`), pipeAt("NamedInputPipe", "in_6c06c6", g.host("pipes"), "/mnt/girder_worker/data"))) +
			fmt.Sprintf(`, "volumes": {%q: {"bind": "/mnt/girder_worker/data", "mode": "rw"}}`, g.host("pipes")), statuses: "[2 3]", log: []string{fileText}},
		{name: "output_pipe_stdout", kwargs: shell(`echo Dydh da >"$0"`, connect(pipe("NamedOutputPipe", "out", defaultVolume), `{`+inD+`HostStdOut"}`)), statuses: "[2 3]", log: []string{"Dydh da\n"}},
		{name: "output_pipe_stderr", kwargs: shell(`echo Dydh da >"$0"`, connect(pipe("NamedOutputPipe", "out", defaultVolume), `{`+inD+`HostStdErr"}`)), statuses: "[2 3]", log: []string{"Dydh da\n"}},
		{name: "output_pipe_dir", kwargs: shell(`echo Dydh da >"$0"`, connect(pipeAt("NamedOutputPipe", "out_8df159", g.host("pipes"), "/mnt/girder_worker/data"), `{`+inD+`HostStdOut"}`)) +
			fmt.Sprintf(`, "volumes": {%q: {"bind": "/mnt/girder_worker/data", "mode": "rw"}}`, g.host("pipes")), statuses: "[2 3]", log: []string{"Dydh da\n"}},
		// The Python worker refuses these two (4 and not 3), and its documentation shows them.
		{name: "container_stdout_connect", kwargs: shell(`echo x`, `"x"`, connect(`{`+inD+`ContainerStdOut"}`, `{`+inD+`HostStdOut"}`)), statuses: "[2 3]", log: []string{"x\n"}},
		{name: "container_stderr_connect", kwargs: shell(`echo x >&2`, `"x"`, connect(`{`+inD+`ContainerStdErr"}`, `{`+inD+`HostStdErr"}`)), statuses: "[2 3]", log: []string{"x\n"}},
		{name: "chunked", kwargs: shell(`echo -n chunky data >"$0"`, connect(pipe("NamedOutputPipe", "out", defaultVolume),
			fmt.Sprintf(`{%sChunkedTransferEncodingStream", "url": %q, "headers": {"Girder-Token": %q, "X-Lab": "yes"}}`, inD, g.sink.URL, g.token))), statuses: "[2 3]",
			after: func(t *testing.T) {
				select {
				case got := <-g.sunk:
					if got != "yes [chunked] chunky data" {
						t.Errorf("it was sent %q", got)
					}
				case <-time.After(patience):
					t.Error("nothing was sent")
				}
			}},
		{name: "progress", kwargs: shell(`for i in 1 2 3; do echo "{\"message\": \"step $i\", \"total\": 3, \"current\": $i}"; done >"$0"`,
			fmt.Sprintf(`{%sProgressPipe", "name": ".girder_progress", "_volume": %s}`, inG, defaultVolume)), statuses: "[2 3]"},

		item(func(id string) *recorded {
			return &recorded{name: "upload_item", kwargs: write, hooks: []string{g.toItem(id, "{}", false, out)}, statuses: "[2 3]", after: g.files(id, "log.txt", "written")}
		}),
		item(func(id string) *recorded {
			return &recorded{name: "upload_item_empty", kwargs: shell(`: >"$0"`, out), hooks: []string{g.toItem(id, "{}", false, out)}, statuses: "[2 3]", after: g.files(id, "log.txt", "")}
		}),
		item(func(id string) *recorded {
			return &recorded{name: "upload_item_dir", kwargs: shell(`mkdir "$0"; echo -n a >"$0/a"; echo -n b >"$0/b"`, volumePath("dir", defaultVolume)),
				hooks: []string{g.toItem(id, "{}", false, volumePath("dir", defaultVolume))}, statuses: "[2 3]", after: g.files(id, "a", "a", "b", "b")}
		}),
		item(func(id string) *recorded {
			return &recorded{name: "upload_item_kwargs", kwargs: write, hooks: []string{g.toItem(id, `{"reference": "lab-ref", "mimeType": "application/x-lab"}`, false, out)}, statuses: "[2 3]",
				after: func(t *testing.T) {
					if f := g.Files(id); len(f) != 1 || f[0].Reference != "lab-ref" || f[0].MimeType != "application/x-lab" {
						t.Errorf("the item has %+v", f)
					}
				}}
		}),
		item(func(id string) *recorded {
			g.AddFile(id, "log.txt", []byte("an older text of another size"))
			return &recorded{name: "upload_item_again", kwargs: write, hooks: []string{g.toItem(id, "{}", false, out)}, statuses: "[2 3]", after: g.files(id, "log.txt", "written")}
		}),
		// Girder Worker does not look at the contents, either.
		item(func(id string) *recorded {
			g.AddFile(id, "log.txt", []byte("WRITTEN"))
			return &recorded{name: "upload_item_samesize", kwargs: write, hooks: []string{g.toItem(id, "{}", false, out)}, statuses: "[2 3]", after: g.files(id, "log.txt", "WRITTEN")}
		}),
		item(func(id string) *recorded {
			return &recorded{name: "upload_item_big", kwargs: shell(`dd if=/dev/zero of=$0 bs=1048576 count=70 2>/dev/null`, volumePath("big.bin", defaultVolume)),
				hooks: []string{g.toItem(id, "{}", false, volumePath("big.bin", defaultVolume))}, statuses: "[2 3]", after: func(t *testing.T) {
					if f := g.Files(id); len(f) != 1 || len(f[0].Data) != 70<<20 {
						t.Errorf("the item has %d files", len(f))
					}
				}}
		}),
		item(func(id string) *recorded {
			return &recorded{name: "upload_item_missing", kwargs: shell(`true`), hooks: []string{g.toItem(id, "{}", false, volumePath("never_written", defaultVolume))}, statuses: "[2 4]",
				result: `["FileNotFoundError", `, log: []string{"FileNotFoundError: "}, after: g.files(id)}
		}),
		// The Python worker looks for these in a new, empty directory, and fails (4).
		item(func(id string) *recorded {
			return &recorded{name: "upload_item_delete", kwargs: shell(`echo -n "$1" >"$0"`, volumePath("log.txt", root), `"delete me"`) + `, "volumes": [{"py/id": 3}]`,
				hooks: []string{g.toItem(id, "{}", true, volumePath("log.txt", root))}, statuses: "[2 3]", after: g.files(id, "log.txt", "delete me")}
		}),
		{name: "upload_folder_optional", kwargs: shell(`true`), hooks: []string{g.toFolder(g.AddFolder(g.folder, "optional"), true, false, volumePath("nothing", defaultVolume))}, statuses: "[2 3]"},
		item(func(id string) *recorded {
			return &recorded{name: "upload_bind", kwargs: shell(`echo -n bound >"$0"`, volumePath("bound.txt", bound)) + `, "volumes": [{"py/id": 3}]`,
				hooks: []string{g.toItem(id, "{}", false, volumePath("bound.txt", bound))}, statuses: "[2 3]", after: g.files(id, "bound.txt", "bound")}
		}),
		item(func(id string) *recorded {
			return &recorded{name: "fail_with_upload", kwargs: writeFail, hooks: []string{g.toItem(id, "{}", false, out)}, statuses: "[2 4]", result: exit3, after: g.files(id)}
		}),
		func() *recorded {
			folder := g.AddFolder(g.folder, "target")
			return &recorded{name: "upload_folder", kwargs: write, hooks: []string{g.toFolder(folder, false, true, out)}, statuses: "[2 3]", after: func(t *testing.T) {
				if tree := strings.Join(g.Tree(folder), "\n"); !strings.Contains(tree, "log.txt") {
					t.Errorf("the folder has %s", tree)
				}
			}}
		}(),
		func() *recorded {
			folder := g.AddFolder(g.folder, "target dir")
			dir := volumePath("dir", defaultVolume)
			return &recorded{name: "upload_folder_dir", kwargs: shell(`mkdir -p "$0/in"; echo a >"$0/a"; echo b >"$0/in/b"`, dir), hooks: []string{g.toFolder(folder, false, true, dir)}, statuses: "[2 3]", after: func(t *testing.T) {
				if tree := strings.Join(g.Tree(folder), "\n"); !strings.Contains(tree, "in/b") {
					t.Errorf("the folder has %s", tree)
				}
			}}
		}(),
		{name: "artifact", kwargs: write, hooks: []string{g.artifact("null", false, out)}, statuses: "[2 3]", artifacts: []string{"log.txt"}},
		{name: "artifact_name", kwargs: write, hooks: []string{g.artifact(`"renamed.log"`, true, out)}, statuses: "[2 3]", artifacts: []string{"renamed.log"}},
		{name: "artifact_missing", kwargs: shell(`true`), hooks: []string{g.artifact("null", false, volumePath("nope", defaultVolume))}, statuses: "[2 3]"},
		{name: "artifact_exception_false", kwargs: writeFail, hooks: []string{g.artifact("null", false, out)}, statuses: "[2 4]", result: exit3},
		{name: "artifact_exception_bind", kwargs: shell(`echo -n failure >"$0"; exit 3`, volumePath("log.txt", bound)) + `, "volumes": [{"py/id": 3}]`,
			hooks: []string{g.artifact("null", true, volumePath("log.txt", bound))}, statuses: "[2 4]", result: exit3, artifacts: []string{"log.txt"}},
		{name: "artifact_exception_samepath", kwargs: shell(`echo -n failure >"$0"; exit 3`, volumePath("log.txt", same)) + `, "volumes": [{"py/id": 3}]`,
			hooks: []string{g.artifact(`"named.log"`, true, volumePath("log.txt", same))}, statuses: "[2 4]", result: exit3, artifacts: []string{"named.log"}},
		{name: "artifact_dir", kwargs: shell(`mkdir "$0"; echo a >"$0/a"; echo b >"$0/b"`, volumePath("artifacts", defaultVolume)),
			hooks: []string{g.artifact("null", false, volumePath("artifacts", defaultVolume))}, statuses: "[2 3]", artifacts: []string{"a", "b"}},

		{name: "long_sleep", kwargs: shell(`echo up; sleep 300`), cancel: "up", statuses: "[2 824 5]"},
		{name: "long_term", kwargs: shell(`trap "exit 0" TERM; echo up; while :; do usleep 50000; done`), cancel: "up", statuses: "[2 824 5]"},
		// The Python worker uploads what a canceled container has left behind.
		item(func(id string) *recorded {
			return &recorded{name: "long_upload", kwargs: shell(`echo -n partial >"$0"; trap "exit 0" TERM; echo up; while :; do usleep 50000; done`, out), cancel: "up",
				hooks: []string{g.toItem(id, "{}", false, out), g.artifact("null", false, out)}, statuses: "[2 824 5]", after: g.files(id)}
		}),
		{name: "countdown", kwargs: shell(`echo later`), countdown: 1, statuses: "[2 3]", log: []string{"later\n"}},
		{name: "other_queue", kwargs: shell(`echo q`), queue: "labq", statuses: "[2 3]", log: []string{"q\n"}},
		{name: "revoked_reserved", kwargs: shell(`echo ran`), gone: "revoked", statuses: "[5]", result: `["TaskRevokedError", "revoked"]`},
		{name: "revoked_worker_down", kwargs: shell(`echo ran`), gone: "canceled", statuses: "[5]"},
	}
	return all
}

// prepare makes the job of a call in Girder, and the call as the client sends it.
func (g *recordedGirder) prepare(t *testing.T, r *recorded) map[string]any {
	t.Helper()
	if r.handler == "" {
		r.handler = "celery_handler"
	}
	r.job, r.hidden = g.AddJob(g.user, r.handler)
	if r.handler == "worker_handler" {
		if err := g.SetJobStatus(r.job, 1); err != nil { // Girder does, before it sends
			t.Fatal(err)
		}
	}
	if r.task == "" {
		r.task = "girder_worker.docker.tasks.docker_run"
	}
	if r.args == "" {
		r.args = busybox
	}
	headers := map[string]any{
		"jobInfoSpec": map[string]any{
			"method": "PUT", "url": g.API() + "/job/" + r.job, "reference": r.job, "logPrint": true,
			"headers": map[string]any{"Girder-Token": r.hidden},
		},
		"girder_api_url": g.API(), "girder_client_token": g.token,
	}
	if len(r.hooks) > 0 {
		var hooks []string
		for _, hook := range r.hooks {
			created := "13" // what stands before it: the hook, gc with six, a path with its volume, the job and three in it
			if strings.Contains(hook, "upload_kwargs") {
				created = "14"
			}
			hooks = append(hooks, strings.ReplaceAll(hook, "JOB", strings.ReplaceAll(g.document(r.job), "WHEN", created)))
		}
		headers["girder_result_hooks"] = json.RawMessage("[" + strings.Join(hooks, ",") + "]")
	}
	if r.session != "" {
		headers["girder_client_session_kwargs"] = json.RawMessage(r.session)
	}
	if r.gone != "" {
		if err := g.CancelJob(r.job); err != nil {
			t.Fatal(err)
		}
	}
	call := map[string]any{
		"name": r.name, "revoked": r.gone == "revoked", "queue": cmp.Or(r.queue, "celery"), "countdown": r.countdown, "task": r.task, "headers": headers,
		"args": json.RawMessage("[" + r.args + "]"), "kwargs": json.RawMessage("{" + r.kwargs + "}"),
	}
	if _, err := json.Marshal(call); err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	return call
}

// TestCeleryRecorded: the real client submits the calls that were recorded from a
// Girder, and caller and Girder are told what the Python worker told them.
func TestCeleryRecorded(t *testing.T) {
	w, c, vhost := newCeleryWorld(t, 4)
	g := newRecordedGirder(t)
	policy := filepath.Join(filepath.Dir(w.config), "policy.toml")
	if err := os.WriteFile(policy, fmt.Appendf(nil, "[amqp]\nwrite = [%q]\ntransfers = [\"*\", %q]\n", g.binding, g.sink.Listener.Addr()), 0o644); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.configure(fmt.Sprintf("slots = 4\npolicy_file = %s\n[celery]\nbroker = amqp://guest:guest@%s/%s\nhostname = celery@test\nqueues = celery,labq\n", policy, rabbit.Addr(), vhost))
	w.start()

	all := g.cases()
	var calls []map[string]any
	for _, r := range all {
		calls = append(calls, g.prepare(t, r))
	}
	said := c.Run(t, girderSerializer+fmt.Sprintf(`
from celery.exceptions import TimeoutError
cancels = json.loads(%q)
results = []
for call in json.loads(%q):
    id = 'recorded-' + call['name']
    if call['revoked']:
        app.control.revoke(id)
        app.control.inspect(timeout=30, limit=1).ping() # they come in order
    results.append(app.send_task(call['task'], args=tuple(call['args']), kwargs=call['kwargs'], headers=call['headers'],
        serializer='girder_io', task_id=id, queue=call['queue'], countdown=call['countdown'] or None))
for r in results:
    if r.id[len('recorded-'):] not in cancels:
        try:
            say([r.id, [r.get(timeout=90)]])
        except Exception as e:
            say([r.id, [type(e).__name__, str(e)]])
`, jsonText(canceled(all)), jsonText(calls)))
	got := map[string]string{}
	for _, line := range said {
		var pair [2]json.RawMessage
		var id string
		decode(t, line, &pair)
		decode(t, pair[0], &id)
		got[strings.TrimPrefix(id, "recorded-")] = string(pair[1])
	}
	for _, r := range all {
		if r.cancel != "" {
			w.printed("recorded-"+r.name, r.cancel)
			w.eventually("Girder knows that it runs", func() bool { return g.Job(r.job).Status == 2 })
			if err := g.CancelJob(r.job); err != nil {
				t.Fatal(err)
			}
			c.Run(t, fmt.Sprintf("app.control.revoke(%q)", "recorded-"+r.name))
		}
		w.eventually("Girder knows the end of "+r.name, func() bool { s := g.Job(r.job).Status; return s >= 3 && s <= 5 })
		job := g.Job(r.job)
		var statuses []int
		for _, s := range job.Timestamps {
			statuses = append(statuses, s.Status)
		}
		log := strings.Join(job.Log, "")
		if s := fmt.Sprint(statuses); s != r.statuses {
			t.Errorf("%s: Girder saw %s, want %s; its log:\n%s", r.name, s, r.statuses, log)
		}
		want := r.result
		if want == "" {
			want = "[null]"
		}
		if r.cancel == "" && !strings.HasPrefix(got[r.name], want) {
			t.Errorf("%s: the caller got %s, want %s", r.name, got[r.name], want)
		}
		if r.gone != "" && log != "" {
			t.Errorf("%s: it ran:\n%s", r.name, log)
		}
		for _, text := range r.log {
			if !strings.Contains(log, text) {
				t.Errorf("%s: Girder's log has no %q:\n%s", r.name, text, log)
			}
		}
		w.eventually(fmt.Sprintf("%s has artifacts %q, and not %q", r.name, r.artifacts, g.artifacts(r.job)), func() bool { return len(g.artifacts(r.job)) >= len(r.artifacts) })
		if got := g.artifacts(r.job); !slices.Equal(got, r.artifacts) {
			t.Errorf("%s: artifacts %q, want %q", r.name, got, r.artifacts)
		}
		if r.after != nil {
			t.Run(r.name, r.after)
		}
	}
	if ready, unacked := rabbit.Depth(t, vhost, "celery"); ready+unacked != 0 {
		t.Errorf("%d ready, %d unacked", ready, unacked)
	}
	t.Run("recordings", func(t *testing.T) { compareRecords(t, all) })
}

// compareRecords holds the table against the recordings.
func compareRecords(t *testing.T, all []*recorded) {
	files := recordtest.Files(t, ".job.json")
	// What the Python worker gets wrong, and what is told with another test.
	different := []string{
		"container_stdout_connect", "container_stderr_connect", "upload_item_delete", "upload_folder_optional", "legacy_run",
		"events_fail", "events_revoke", "legacy_noqueue", "revoked_worker_down_publish", "legacy_cancel_worker_down", "other_queue",
	}
	if len(files) < 50 {
		t.Fatalf("%d recordings", len(files))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".job.json")
		if slices.Contains(different, name) {
			continue
		}
		i := slices.IndexFunc(all, func(r *recorded) bool { return r.name == name })
		if i < 0 {
			t.Errorf("%s was recorded and is not in the table", name)
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var job struct{ Timestamps []struct{ Status int } }
		decode(t, data, &job)
		var statuses []int
		for _, s := range job.Timestamps {
			statuses = append(statuses, s.Status)
		}
		if got := fmt.Sprint(statuses); got != all[i].statuses {
			t.Errorf("%s was recorded with %s, the table has %s", name, got, all[i].statuses)
		}
	}
}

func canceled(all []*recorded) (names []string) {
	names = []string{}
	for _, r := range all {
		if r.cancel != "" {
			names = append(names, r.name)
		}
	}
	return names
}

// girderSerializer is what girder_worker.app registers: tuples are told from lists, as
// jsonpickle does, under JSON's content type.
const girderSerializer = `
from kombu.serialization import register
def pickled(v):
    if isinstance(v, tuple):
        return {'py/tuple': [pickled(x) for x in v]}
    if isinstance(v, list):
        return [pickled(x) for x in v]
    if isinstance(v, dict):
        return {k: pickled(x) for k, x in v.items()}
    return v
register('girder_io', lambda v: json.dumps(pickled(v)), json.loads, content_type='application/json', content_encoding='utf-8')
`
