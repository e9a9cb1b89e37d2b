package runner

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
	"girderworker/transforms/girder/girdertest"
)

// girderWorld is a world with a Girder server, of whose data a job of the
// test's may use all.
type girderWorld struct {
	*world
	*girdertest.Server
	user, token  string
	folder, item string
}

const volumeTarget = "/mnt/girder_worker/v"

func newGirderWorld(t *testing.T, args ...string) *girderWorld {
	t.Helper()
	w := &girderWorld{world: newWorld(t, args...), Server: girdertest.New(t, girdertest.Config{MinChunk: 1})}
	w.user = w.AddUser(true)
	w.token = w.AddToken(w.user, girdertest.ScopeRead, girdertest.ScopeWrite)
	w.folder = w.AddFolder(w.user, "data")
	w.item = w.AddItem(w.folder, "scan")
	w.request.Plan.Girders = []transforms.Girder{{Name: "g", URL: w.API()}}
	w.request.Plan.Volumes = []transforms.Volume{{Name: transforms.DefaultVolume, Target: volumeTarget}}
	if err := w.dir.WriteSecrets(transforms.Secrets{Tokens: map[string]string{"g": w.token}}); err != nil {
		t.Fatal(err)
	}
	return w
}

// fetch adds a fetch and returns its name.
func (w *girderWorld) fetch(kind transforms.FetchKind, id string) string {
	name := fmt.Sprintf("f%d", len(w.request.Plan.Fetches))
	w.request.Plan.Fetches = append(w.request.Plan.Fetches, transforms.Fetch{Name: name, Kind: kind, Girder: "g", ID: id, Into: transforms.DefaultVolume})
	return name
}

func (w *girderWorld) hook(kind transforms.HookKind, id, path string) *transforms.Hook {
	w.request.Plan.Hooks = append(w.request.Plan.Hooks, transforms.Hook{
		Name: fmt.Sprintf("h%d", len(w.request.Plan.Hooks)), Kind: kind, Girder: "g", ID: id, From: transforms.DefaultVolume, Path: path,
	})
	return &w.request.Plan.Hooks[len(w.request.Plan.Hooks)-1]
}

func (w *girderWorld) done() attempt.Done {
	w.t.Helper()
	events := w.events()
	for _, e := range events {
		if e.Done != nil {
			return *e.Done
		}
	}
	w.t.Fatalf("it is not done: %+v", events)
	return attempt.Done{}
}

// secretsGone looks for what must be nowhere.
func (w *girderWorld) secretsGone() {
	w.t.Helper()
	err := filepath.WalkDir(w.dir.Path(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(w.token)) {
			w.t.Errorf("the token is in %s", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

func contents(f girdertest.File) string { return string(f.Data) }

// TestGirderJob is the main job: a file comes in, is worked on, and goes out.
func TestGirderJob(t *testing.T) {
	w := newGirderWorld(t, "sh", "-c", `cat "$0" && tr a-z A-Z <"$0" >`+volumeTarget+`/result.txt`, "")
	file := w.AddFile(w.item, "ct.nii", []byte("hello\n"))
	name := w.fetch(transforms.FetchFile, file)
	w.request.Plan.Inserts = []transforms.Insertion{{Arg: 3, At: 0, Fetch: name}}
	w.hook(transforms.HookItem, w.item, "result.txt")
	out := w.AddFolder(w.user, "out")
	w.hook(transforms.HookFolder, out, "result.txt")
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	if got := w.log(); got != "hello\n" {
		t.Errorf("log is %q", got)
	}
	if done := w.done(); done.Error != "" {
		t.Errorf("done with %q; notes %s", done.Error, w.notes())
	}
	files := w.Files(w.item)
	if len(files) != 2 || files[1].Name != "result.txt" || contents(files[1]) != "HELLO\n" || files[1].MimeType != "text/plain" {
		t.Errorf("files are %+v", files)
	}
	if got := w.Tree(out); len(got) != 2 || got[1] != "result.txt/result.txt (6 bytes)" {
		t.Errorf("folder is %q", got)
	}
	w.secretsGone()
}

func TestGirderFetches(t *testing.T) {
	w := newGirderWorld(t, "sh", "-c", "cd "+volumeTarget+"; find . -type f | sort | while read f; do echo \"$f $(cat \"$f\")\"; done; echo $0 $1 $2 $3")
	one := w.AddFile(w.item, "scan", []byte("1"))
	several := w.AddItem(w.folder, "several")
	w.AddFile(several, "a/b", []byte("2"))
	w.AddFile(several, "..", []byte("3"))
	w.AddFile(several, "a_b", []byte("4"))
	sub := w.AddFolder(w.folder, "sub")
	deep := w.AddItem(sub, "deep")
	w.AddFile(deep, "deep", []byte("5"))
	w.request.Plan.Args = append(w.request.Plan.Args, "a", "b", "c", "d")
	for i, f := range []string{
		w.fetch(transforms.FetchFile, one), w.fetch(transforms.FetchItem, w.item), w.fetch(transforms.FetchItem, several), w.fetch(transforms.FetchFolder, w.folder),
	} {
		w.request.Plan.Inserts = append(w.request.Plan.Inserts, transforms.Insertion{Arg: 3 + i, At: 1, Fetch: f})
	}
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	got := strings.NewReplacer(w.item, "ITEM", several, "SEVERAL", sub, "SUB", w.folder, "FOLDER", one, "FILE").Replace(w.log())
	for _, want := range []string{
		"./FILE/scan 1\n", "./ITEM/scan 1\n", "./SEVERAL/several/_.. 3\n", "./FOLDER/data/sub/deep 5\n", "./FOLDER/data/scan 1\n",
		"a" + volumeTarget + "/FILE/scan b" + volumeTarget + "/ITEM/scan c" + volumeTarget + "/SEVERAL/several d" + volumeTarget + "/FOLDER/data\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("log is\n%swithout %q", got, want)
		}
	}
	// Two names that come to the same are two files.
	if !strings.Contains(got, " 2\n") || !strings.Contains(got, " 4\n") {
		t.Errorf("a file is lost in\n%s", got)
	}
}

// upload is an HTTP server that takes streams.
type upload struct {
	*httptest.Server
	mu     sync.Mutex
	bodies map[string][]byte
	header http.Header
}

func newUpload(t *testing.T) *upload {
	u := &upload{bodies: map[string][]byte{}}
	u.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		u.mu.Lock()
		defer u.mu.Unlock()
		if err == nil {
			u.bodies[r.URL.Path] = body
		}
		u.header = r.Header
	}))
	t.Cleanup(u.Close)
	return u
}

// TestGirderStreams: several at once, each end of another kind. One stands still
// until the others have ended.
func TestGirderStreams(t *testing.T) {
	data := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(data)
	u := newUpload(t)
	w := newGirderWorld(t, "sh", "-c", `exec 3</data/still; cat /data/in >/data/out & echo to the log >`+transforms.PipeDirectory+`/log & cat >`+transforms.PipeDirectory+`/copy; wait; cat <&3 | wc -c; echo gone; echo err >&2`)
	file := w.AddFile(w.item, "in.raw", data)
	w.Fail("GET /file/{id}/download", 1, girdertest.Truncate(1<<20)) // and goes on from there
	copied := filepath.Join(w.files, "copy")
	stdout := filepath.Join(w.files, "stdout")
	w.request.Plan.Streams = []transforms.Stream{
		{Name: "in", Kind: transforms.StreamInput, Path: "/data/in", Girder: &transforms.GirderFile{Girder: "g", ID: file}},
		{Name: "still", Kind: transforms.StreamInput, Path: "/data/still", Girder: &transforms.GirderFile{Girder: "g", ID: file}},
		{Name: "stdin", Kind: transforms.StreamStdin, Girder: &transforms.GirderFile{Girder: "g", ID: file}},
		{Name: "out", Kind: transforms.StreamOutput, Path: "/data/out", HTTP: &transforms.HTTPTarget{URL: u.URL + "/out"}},
		{Name: "copy", Kind: transforms.StreamOutput, Path: transforms.PipeDirectory + "/copy", File: copied},
		{Name: "log", Kind: transforms.StreamOutput, Path: transforms.PipeDirectory + "/log", Log: "stderr"},
		{Name: "stdout", Kind: transforms.StreamStdout, File: stdout},
		{Name: "stderr", Kind: transforms.StreamStderr, HTTP: &transforms.HTTPTarget{URL: u.URL + "/stderr"}},
	}
	if err := w.dir.RemoveSecrets(); err != nil {
		t.Fatal(err)
	}
	if err := w.dir.WriteSecrets(transforms.Secrets{
		Tokens: map[string]string{"g": w.token}, Headers: map[string]map[string]string{"out": {"X-Test": "yes"}, "stderr": {"X-Test": "yes"}},
	}); err != nil {
		t.Fatal(err)
	}
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	sum := sha256.Sum256(data)
	for _, name := range []string{"in", "still", "stdin", "out", "copy"} {
		if s := streamNamed(t, exit, name); s.Bytes != int64(len(data)) || s.SHA256 != hex.EncodeToString(sum[:]) || s.Partial || s.Error != "" {
			t.Errorf("stream %s is %+v", name, s)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if !bytes.Equal(u.bodies["/out"], data) || string(u.bodies["/stderr"]) != "err\n" || u.header.Get("X-Test") != "yes" {
		t.Errorf("uploaded %d bytes and %q, header %v", len(u.bodies["/out"]), u.bodies["/stderr"], u.header)
	}
	if got, err := os.ReadFile(copied); err != nil || !bytes.Equal(got, data) {
		t.Errorf("copied %d bytes, %v", len(got), err)
	}
	if got, err := os.ReadFile(stdout); err != nil || string(got) != fmt.Sprintf("%d\ngone\n", len(data)) {
		t.Errorf("standard output is %q, %v", got, err)
	}
	if got := w.log(); got != "[2:to the log\n]" {
		t.Errorf("log is %q", got)
	}
}

func TestSlicerProgress(t *testing.T) {
	w := newGirderWorld(t, sh(`echo before; printf '<filter-start><filter-name>Otsu</filter-name> <filter-comment>x</filter-comment></filter-start>\n<filter-'; printf 'progress>0.25</filter-progress>\n'; echo '<filter-progress>bad</filter-progress>'; printf '<filter-end></filter-end>after'; echo '<b>'`)...)
	w.request.Plan.SlicerProgress = true
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	if got := w.log(); got != "before\nafter<b>\n" {
		t.Errorf("log is %q", got)
	}
	var last attempt.Progress
	for _, e := range w.events() {
		if e.Progress != nil {
			last = *e.Progress
		}
	}
	if last != (attempt.Progress{Total: 1, Current: 0.25, Message: "Otsu: x"}) {
		t.Errorf("progress is %+v", last)
	}
	if len(exit.Streams) != 0 {
		t.Errorf("streams are %+v", exit.Streams)
	}
}

// TestGirderProxy: a proxy's password comes with the secrets, and works.
func TestGirderProxy(t *testing.T) {
	var mu sync.Mutex
	said := map[string]bool{}
	forward := &httputil.ReverseProxy{Rewrite: func(*httputil.ProxyRequest) {}}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		said[r.Header.Get("Proxy-Authorization")] = true
		mu.Unlock()
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	w := newGirderWorld(t, "find", volumeTarget, "-type", "f")
	w.fetch(transforms.FetchFile, w.AddFile(w.item, "a", []byte("a")))
	if err := w.dir.RemoveSecrets(); err != nil {
		t.Fatal(err)
	}
	address := "http://me:word@" + proxy.Listener.Addr().String()
	if err := w.dir.WriteSecrets(transforms.Secrets{
		Tokens: map[string]string{"g": w.token}, Proxies: map[string]map[string]string{"g": {"http": address}},
	}); err != nil {
		t.Fatal(err)
	}
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	mu.Lock()
	defer mu.Unlock()
	if len(said) != 1 || !said["Basic bWU6d29yZA=="] {
		t.Errorf("the proxy was told %v", said)
	}
	w.secretsGone()
}
