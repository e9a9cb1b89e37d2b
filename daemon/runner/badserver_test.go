package runner

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
	"girderworker/transforms/girder/girdertest"
)

const noID = "0123456789abcdef01234567"

// TestBadServer: whatever a server does, a fetch and a stream end as they should:
// well, where it mends itself, and else with an error that names the cause.
func TestBadServer(t *testing.T) {
	const download = "GET /file/{id}/download"
	data := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	for _, test := range []struct {
		name  string
		spoil func(w *girderWorld)
		id    string
		want  string // part of the error; "": it ends well
	}{
		{name: "no such file", id: noID, want: "Invalid file id"},
		{name: "the token has ended", spoil: func(w *girderWorld) { w.RevokeToken(w.token) }, want: "asked as nobody: the token is missing, has expired"},
		{name: "always closes in the body", spoil: func(w *girderWorld) { w.Fail(download, -1, girdertest.Truncate(0)) }, want: "cannot"},
		{name: "an item's id", id: "item", want: "Invalid file id"},
		{name: "closes in the body", spoil: func(w *girderWorld) { w.Fail(download, 2, girdertest.Truncate(1000)) }},
		{name: "does not know ranges", spoil: func(w *girderWorld) {
			w.Fail(download, 1, girdertest.Truncate(1000))
			w.Fail(download, -1, girdertest.NoRange())
		}},
		{name: "no permission", id: "private", want: "Read access denied for file"},
		{name: "sends too little", spoil: func(w *girderWorld) { w.Fail(download, -1, girdertest.TooLittle(1000)) }, want: "not as announced"},
		{name: "sends nothing", spoil: func(w *girderWorld) { w.Fail(download, -1, girdertest.TooLittle(0)) }, want: "not as announced"},
		{name: "redirects to itself", spoil: func(w *girderWorld) {
			w.Fail("GET /file/{id}", -1, girdertest.Redirect(307, w.API()+"/file/"+noID))
		}, want: "redirect"},
		{name: "sends too much", spoil: func(w *girderWorld) { w.Fail(download, -1, girdertest.TooMuch(100)) }, want: "not as announced"},
		{name: "garbage", spoil: func(w *girderWorld) { w.Fail("GET /file/{id}", -1, girdertest.Garbage()) }, want: "not an answer of Girder"},
		{name: "redirects elsewhere", spoil: func(w *girderWorld) {
			w.Fail("GET /file/{id}", -1, girdertest.Redirect(302, "http://127.0.0.1:1/"))
		}, want: "cannot reach Girder"},
		{name: "500 for a while", spoil: func(w *girderWorld) { w.Fail("GET /file/{id}", 3, girdertest.Status(500)) }},
		{name: "500 for ever", spoil: func(w *girderWorld) {
			w.Fail("GET /file/{id}", -1, girdertest.Status(500))
		}, want: "500"},
		{name: "drops every connection", spoil: func(w *girderWorld) {
			w.Fail("GET /file/{id}", -1, girdertest.DropBefore())
		}, want: "cannot reach Girder"},
	} {
		for _, how := range []string{"fetch", "stream"} {
			t.Run(test.name+"/"+how, func(t *testing.T) {
				t.Parallel()
				w := newGirderWorld(t, "sh", "-c", `cat "$0" | wc -c`, "")
				w.request.Limits.Outage = 2 * time.Second
				if test.want == "" {
					w.request.Limits.Outage = time.Minute
				}
				id := w.AddFile(w.item, "ct.nii", data)
				switch test.id {
				case "":
				case "item":
					id = w.item
				case "private":
					id = w.AddFile(w.AddItem(w.AddFolder(w.AddUser(false), "private"), "mine"), "secret", data)
					w.token = w.AddToken(w.AddUser(false), girdertest.ScopeRead)
					if err := w.dir.RemoveSecrets(); err != nil {
						t.Fatal(err)
					}
					if err := w.dir.WriteSecrets(transforms.Secrets{Tokens: map[string]string{"g": w.token}}); err != nil {
						t.Fatal(err)
					}
				default:
					id = test.id
				}
				if how == "fetch" {
					w.request.Plan.Inserts = []transforms.Insertion{{Arg: 3, Fetch: w.fetch(transforms.FetchFile, id)}}
				} else {
					w.request.Plan.Args[3] = "/in"
					w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}}}
				}
				if test.spoil != nil {
					test.spoil(w)
				}
				exit := w.run()
				if test.want == "" {
					w.want(exit, attempt.OutcomeExited, 0, "")
					if got := strings.TrimSpace(w.log()); got != fmt.Sprint(len(data)) {
						t.Errorf("the container read %q bytes of %d", got, len(data))
					}
				} else {
					w.want(exit, attempt.OutcomeError, attempt.CodeError, test.want)
				}
				w.secretsGone()
			})
		}
	}
}

// TestBadNames: names from the server are one clean path element each.
func TestBadNames(t *testing.T) {
	w := newGirderWorld(t, "find", volumeTarget)
	names := []string{"../../etc/passwd", "..", ".", "a\x00b", strings.Repeat("n", 300), "", " ", "-rf", "new\nline"}
	for _, name := range names {
		item := w.AddItem(w.folder, name)
		w.AddFile(item, name, []byte("x"))
	}
	w.fetch(transforms.FetchFolder, w.folder)
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	if got := strings.Count(w.log(), w.folder+"/data/"); got != len(names)+1 { // and the item of the world
		t.Errorf("%d things of %d are in\n%s", got, len(names)+1, w.log())
	}
	for _, want := range []string{"/data/.._.._etc_passwd\n", "/data/_..\n", "/data/_.\n", "/data/a_b\n", "/data/_\n", "/data/-rf\n", "~"} {
		if !strings.Contains(w.log(), want) {
			t.Errorf("log is\n%s\nwithout %q", w.log(), want)
		}
	}
}

// hanging is an HTTP target that never answers.
func hanging(t *testing.T) string {
	gone := make(chan struct{})
	u := newUpload(t)
	u.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-gone:
		}
	})
	t.Cleanup(func() { close(gone) })
	return u.URL
}

// cancelBound is what a machine that runs other tests, too, may take for what is
// to be done within a second.
const cancelBound = 5 * time.Second

// TestCancelAnywhere: whatever server and container do, a cancel ends the
// attempt at once, beyond the grace that the container has.
func TestCancelAnywhere(t *testing.T) {
	pipe := transforms.PipeDirectory
	for _, test := range []struct {
		name  string
		args  []string
		setup func(w *girderWorld)
		until string // a call of the server; "": output of the container
		doing string // or that this is being done
	}{
		{name: "fetch hangs", args: []string{"true"}, until: "GET /file/{id}", setup: func(w *girderWorld) {
			w.Fail("GET /file/{id}", -1, girdertest.Hang())
			w.fetch(transforms.FetchFile, w.AddFile(w.item, "a", []byte("a")))
		}},
		{name: "fetch stands still", args: []string{"true"}, until: "GET /file/{id}/download", setup: func(w *girderWorld) {
			w.Fail("GET /file/{id}/download", -1, girdertest.Stall(3))
			w.fetch(transforms.FetchFile, w.AddFile(w.item, "a", bytes.Repeat([]byte("a"), 1<<20)))
		}},
		{name: "Girder is away", args: []string{"true"}, doing: "trying again", setup: func(w *girderWorld) {
			w.Fail("", -1, girdertest.Status(503))
			w.fetch(transforms.FetchFile, w.AddFile(w.item, "a", []byte("a")))
		}},
		{name: "stream stands still", args: sh("echo up; cat /in"), setup: func(w *girderWorld) {
			id := w.AddFile(w.item, "a", bytes.Repeat([]byte("a"), 1<<20))
			w.Fail("GET /file/{id}/download", -1, girdertest.Stall(3))
			w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}}}
		}},
		{name: "pipe never opened", args: sh("echo up; sleep 1000"), setup: func(w *girderWorld) {
			id := w.AddFile(w.item, "a", bytes.Repeat([]byte("a"), 1<<20))
			w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}},
				{Name: "out", Kind: transforms.StreamOutput, Path: "/out", HTTP: &transforms.HTTPTarget{URL: newUpload(w.t.(*testing.T)).URL}}}
		}},
		{name: "pipe opened and not read", args: sh("exec 3</in; echo up; sleep 1000"), setup: func(w *girderWorld) {
			id := w.AddFile(w.item, "a", bytes.Repeat([]byte("a"), 8<<20))
			w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}}}
		}},
		{name: "pipe opened twice", args: sh("cat /in >/dev/null; echo up; cat /in; sleep 1000"), setup: func(w *girderWorld) {
			id := w.AddFile(w.item, "a", bytes.Repeat([]byte("a"), 1<<20))
			w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}}}
		}},
		{name: "writes for ever", args: sh("echo up; cat /dev/zero >" + pipe + "/out"), setup: func(w *girderWorld) {
			w.request.Plan.Streams = []transforms.Stream{{Name: "out", Kind: transforms.StreamOutput, Path: pipe + "/out", HTTP: &transforms.HTTPTarget{URL: hanging(w.t.(*testing.T))}}}
		}},
		{name: "writes for ever into the log", args: sh("echo up; cat /dev/zero >" + pipe + "/out"), setup: func(w *girderWorld) {
			w.request.Plan.Streams = []transforms.Stream{{Name: "out", Kind: transforms.StreamOutput, Path: pipe + "/out", Log: "stdout"}}
		}},
		{name: "floods progress", args: sh("echo up; yes '<filter-progress>0.5</filter-progress>' & yes '{\"total\":1}' >" + pipe + "/p"), setup: func(w *girderWorld) {
			w.request.Plan.SlicerProgress = true
			w.request.Plan.Streams = []transforms.Stream{{Name: "p", Kind: transforms.StreamProgress, Path: pipe + "/p"}}
		}},
		{name: "Girder answers garbage", args: []string{"true"}, doing: "trying again", setup: func(w *girderWorld) {
			w.Fail("GET /folder/{id}", -1, girdertest.Garbage())
			w.fetch(transforms.FetchFolder, w.folder)
		}},
		{name: "a download without end", args: sh("echo up; cat /in"), setup: func(w *girderWorld) {
			id := w.AddContent(w.item, "endless", zeros{}, 1<<50)
			w.request.Plan.Streams = []transforms.Stream{{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}}}
		}},
		{name: "a tree without end", args: sh("cd " + volumeTarget + "; for i in $(seq 2000); do : >$i; ln -s $i l$i; done"), until: "POST /file", setup: func(w *girderWorld) {
			w.hook(transforms.HookFolder, w.folder, ".")
		}},
		{name: "upload hangs", args: sh("echo a >" + in("a")), until: "POST /file/chunk", setup: func(w *girderWorld) {
			w.Fail("POST /file/chunk", -1, girdertest.Hang())
			w.hook(transforms.HookItem, w.item, "a")
		}},
		{name: "Girder is away afterwards", args: sh("echo a >" + in("a")), doing: "trying again", setup: func(w *girderWorld) {
			w.Fail("", -1, girdertest.DropBefore())
			w.hook(transforms.HookFolder, w.folder, ".")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newGirderWorld(t, test.args...)
			test.setup(w)
			p := w.start()
			switch {
			case test.until != "":
				w.waitCall(test.until, 1)
			case test.doing != "":
				w.waitDoing(test.doing)
			default:
				w.waitLog("up")
			}
			begun := time.Now()
			w.cancel(attempt.Cancel{Outcome: attempt.OutcomeCanceled, Reason: "enough", Grace: -1})
			exit := w.end(p)
			// Within a second, but for what else the machine has to do.
			events := w.events()
			if took := events[len(events)-1].Time.Sub(begun); took > cancelBound {
				t.Errorf("the end came %v after the cancel", took)
			} else {
				t.Logf("the end came %v after the cancel", took)
			}
			if exit.Outcome == attempt.OutcomeExited { // it was uploading
				if done := w.done(); !strings.Contains(done.Error, "enough") {
					t.Errorf("done with %q", done.Error)
				}
				if w.Uploads() > 1 || w.named(w.item) != "" {
					t.Errorf("the item has %q, and %d uploads are open", w.named(w.item), w.Uploads())
				}
			} else {
				w.want(exit, attempt.OutcomeCanceled, attempt.CodeCanceled, "enough")
			}
		})
	}
}

// waitDoing returns when an event tells that something is being done.
func (w *girderWorld) waitDoing(what string) {
	w.t.Helper()
	watcher, err := attempt.NewWatcher()
	if err != nil {
		w.t.Fatal(err)
	}
	defer watcher.Close()
	r, err := w.dir.Events(0)
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for e, err := range r.Follow(ctx, watcher) {
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(e.Doing, what) {
			return
		}
	}
	w.t.Fatalf("%q was not done: %+v", what, w.events())
}

// TestBadTarget: an upload that fails fails the job, and not before its
// container has ended.
func TestBadTarget(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"refuses":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) },
		"redirects": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"drops":     func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpload(t)
			u.Config.Handler = handler
			w := newGirderWorld(t, sh("dd if=/dev/zero bs=64k count=100 2>/dev/null >/out; echo -n done >"+in("a"))...)
			w.request.Plan.Streams = []transforms.Stream{{Name: "out", Kind: transforms.StreamOutput, Path: "/out", HTTP: &transforms.HTTPTarget{URL: u.URL + "/?token=hush"}}}
			w.hook(transforms.HookItem, w.item, "a")
			w.hook(transforms.HookItem, w.item, "a").OnException = true
			exit := w.run()
			w.want(exit, attempt.OutcomeError, attempt.CodeError, "stream out: cannot post a stream")
			if exit.Container == nil || exit.Container.Code != 0 {
				t.Errorf("the container ended with %+v", exit.Container)
			}
			if strings.Contains(exit.Error, "hush") {
				t.Errorf("a secret is in %q", exit.Error)
			}
			if got := w.named(w.item); got != "a=done" {
				t.Errorf("the item has %q", got)
			}
		})
	}
}

// TestDirect: a file of Girder's own storage is used in its place where the
// submitter may read it, and else fetched.
func TestDirect(t *testing.T) {
	w := newGirderWorld(t, "sh", "-c", `cat "$0" "$1"; echo no >"$0" || echo kept`, "", "")
	id := w.AddFile(w.item, "a.txt", []byte("a\n"))
	direct := w.file("stored", []byte("A\n"))
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, []byte("B\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{direct, closed} {
		w.request.Plan.Inserts = append(w.request.Plan.Inserts, transforms.Insertion{Arg: 3 + i, Fetch: w.fetch(transforms.FetchFile, id)})
		w.request.Plan.Fetches[i].Direct = path
	}
	w.request.Plan.Fetches[1].Rename = "other"
	w.want(w.run(), attempt.OutcomeExited, 0, "")
	if got := w.log(); !strings.HasPrefix(got, "A\na\n") || !strings.Contains(got, "kept") {
		t.Errorf("log is %q", got)
	}
	if got, err := os.ReadFile(direct); err != nil || string(got) != "A\n" {
		t.Errorf("the stored file is %q, %v", got, err)
	}
}

// TestBadFetch: what names nothing, or nothing that may be had, ends the attempt
// before its container runs, with Girder's own words.
func TestBadFetch(t *testing.T) {
	for _, test := range []struct {
		name string
		kind transforms.FetchKind
		id   func(w *girderWorld) string
		want string
	}{
		{"no such item", transforms.FetchItem, func(*girderWorld) string { return noID }, "cannot fetch item " + noID + " from Girder: Girder answered 400"},
		{"no such folder", transforms.FetchFolder, func(*girderWorld) string { return noID }, "cannot fetch folder " + noID + " from Girder: Girder answered 400"},
		{"a folder for an item", transforms.FetchItem, func(w *girderWorld) string { return w.folder }, "Invalid item id"},
		{"a file for a folder", transforms.FetchFolder, func(w *girderWorld) string { return w.AddFile(w.item, "f", nil) }, "Invalid folder id"},
		{"a folder that answers in a circle", transforms.FetchFolder, func(w *girderWorld) string {
			deep := w.folder
			for range maxDepth + 2 {
				deep = w.AddFolder(deep, "..")
			}
			return w.folder
		}, "its folders are deeper than 100"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newGirderWorld(t, "true")
			w.fetch(test.kind, test.id(w))
			exit := w.run()
			w.want(exit, attempt.OutcomeError, attempt.CodeError, test.want)
			if exit.Container != nil {
				t.Error("its container ran")
			}
		})
	}
}

// TestBadUpload: whatever a server does, an upload ends: with the file there once,
// or with an error that names the cause, and the exit of the container as it was.
func TestBadUpload(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(w *girderWorld)
		want  string // part of the error; "": it ends well
	}{
		{"500 for a while", func(w *girderWorld) { w.Fail("", 3, girdertest.Status(500)) }, ""},
		{"500 for ever", func(w *girderWorld) { w.Fail("", -1, girdertest.Status(500)) }, "Girder answered 500"},
		{"away for ever", func(w *girderWorld) { w.Fail("", -1, girdertest.DropBefore()) }, "cannot reach Girder"},
		{"garbage", func(w *girderWorld) { w.Fail("GET /item/{id}/files", -1, girdertest.Garbage()) }, "not an answer of Girder"},
		{"garbage for a new file", func(w *girderWorld) { w.Fail("POST /file", -1, girdertest.Garbage()) }, "not an answer of Girder"},
		{"garbage for a piece, once", func(w *girderWorld) { w.Fail("POST /file/chunk", 1, girdertest.Garbage()) }, ""},
		{"redirects", func(w *girderWorld) {
			w.Fail("POST /file", -1, girdertest.Redirect(307, "http://127.0.0.1:1/"))
		}, "redirect not followed"},
		{"closes in the answer", func(w *girderWorld) { w.Fail("POST /file/chunk", 1, girdertest.Truncate(3)) }, ""},
		{"closes in the request", func(w *girderWorld) { w.Fail("POST /file/chunk", 1, girdertest.DropBody(2)) }, ""},
		{"the token ended meanwhile", func(w *girderWorld) { w.Fail("POST /file/chunk", -1, girdertest.Status(401)) }, "Girder answered 401"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newGirderWorld(t, sh("echo -n data >"+in("a"))...)
			w.request.Limits.Outage = 2 * time.Second
			if test.want == "" {
				w.request.Limits.Outage = time.Minute
			}
			w.hook(transforms.HookItem, w.item, "a")
			test.spoil(w)
			w.want(w.run(), attempt.OutcomeExited, 0, "")
			done := w.done()
			if (test.want == "") != (done.Error == "") || !strings.Contains(done.Error, test.want) {
				t.Errorf("done with %q, want %q", done.Error, test.want)
			}
			if want := map[bool]string{true: "a=data"}[test.want == ""]; w.named(w.item) != want {
				t.Errorf("the item has %q, want %q", w.named(w.item), want)
			}
			w.secretsGone()
		})
	}
}

// TestBadContainer: whatever a container does with its pipes, it ends as
// girder-worker-job(5) says, with Girder and a server at the other ends.
func TestBadContainer(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	// A time limit must not be over before the container is there, and how long that
	// takes is the machine's business.
	begun := time.Now()
	first := newGirderWorld(t, "true")
	first.want(first.run(), attempt.OutcomeExited, 0, "")
	limit := 2*time.Second + 10*time.Since(begun)
	for _, test := range []struct {
		name, script string
		limit        time.Duration
		outcome      attempt.Outcome
		code         int
		says         string // part of the error
		log, posted  string
		partial      bool // input
	}{
		{name: "opens none", script: "true", partial: true},
		{name: "closes early", script: "head -c 4 /in", log: "0123", partial: true},
		{name: "opens twice", script: "cat /in | wc -c; cat /in | wc -c; echo a >/out; echo b >/out", log: "1048576\n0\n", posted: "a\nb\n"},
		{name: "reads what it writes to", script: "timeout 1 cat /out; cat /in >/dev/null; echo over", log: "over\n"},
		{name: "plants links", script: "rm -f /in /out; ln -sf /etc/hostname /in; ln -sf /etc/hostname /out; mv /out /x; cat /in | wc -c; echo a >/out", log: "1048576\n", posted: "a\n"},
		{name: "never opens and never ends", script: "while :; do sleep 0.1; done", limit: limit, outcome: attempt.OutcomeTimeout, code: attempt.CodeTimeout, says: "over its time limit", partial: true},
		{name: "writes for ever", script: "cat /in >/dev/null; while :; do echo x; done >/out", limit: limit, outcome: attempt.OutcomeTimeout, code: attempt.CodeTimeout, says: "over its time limit", posted: "x\n"},
		{name: "dies with its pipes open", script: "exec 3</in 4>/out; echo a >&4; exit 7", code: 7, posted: "a\n", partial: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			u := newUpload(t)
			w := newGirderWorld(t, sh("{ "+test.script+"; } 2>/dev/null")...)
			w.request.Limits.Hard = test.limit
			id := w.AddFile(w.item, "a", data)
			w.request.Plan.Streams = []transforms.Stream{
				{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: id}},
				{Name: "out", Kind: transforms.StreamOutput, Path: "/out", HTTP: &transforms.HTTPTarget{URL: u.URL}},
			}
			if test.outcome == "" {
				test.outcome = attempt.OutcomeExited
			}
			exit := w.run()
			w.want(exit, test.outcome, test.code, test.says)
			if got := w.log(); got != test.log {
				t.Errorf("log is %q, want %q", got, test.log)
			}
			if s := streamNamed(t, exit, "in"); s.Partial != test.partial || s.Error != "" {
				t.Errorf("input ended with %+v", s)
			}
			if s := streamNamed(t, exit, "out"); s.Error != "" {
				t.Errorf("output ended with %+v", s)
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			if got := string(u.bodies["/"]); !strings.HasPrefix(got, test.posted) || test.limit == 0 && got != test.posted {
				t.Errorf("%.20q was posted, want %q", got, test.posted)
			}
		})
	}
}
