package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
	"girderworker/transforms/girder/girdertest"
)

// named lists the files of an item as NAME=CONTENTS.
func (w *girderWorld) named(item string) string {
	var out []string
	for _, f := range w.Files(item) {
		out = append(out, f.Name+"="+contents(f))
	}
	return strings.Join(out, " ")
}

func in(path string) string { return volumeTarget + "/" + path }

func TestHooks(t *testing.T) {
	make := func(script string) []string { return sh("cd " + volumeTarget + "; " + script) }
	for _, test := range []struct {
		name   string
		script string
		hooks  func(w *girderWorld)
		code   int
		files  string // of the item, afterwards
		done   string // part of the error
		note   string
		look   func(t *testing.T, w *girderWorld)
	}{
		{name: "not after a failure", script: "echo a >a; exit 3", code: 3,
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "a") }},
		{name: "on exception", script: "echo -n a >a; exit 3", code: 3, files: "a=a",
			hooks: func(w *girderWorld) {
				w.hook(transforms.HookItem, w.item, "b").MustExist = true
				w.hook(transforms.HookItem, w.item, "a").OnException = true
			}},
		{name: "missing", script: "true", note: "nothing to upload",
			hooks: func(w *girderWorld) {
				w.hook(transforms.HookItem, w.item, "a")
				w.hook(transforms.HookArtifact, w.item, "a")
			}},
		{name: "missing that must exist", script: "echo -n b >b", files: "b=b", done: in("a") + ": a: there is no such file",
			hooks: func(w *girderWorld) {
				w.hook(transforms.HookItem, w.item, "a").MustExist = true
				w.hook(transforms.HookItem, w.item, "b")
			}},
		{name: "directory into an item", script: "mkdir d; cd d; echo -n b >b; echo -n a >a.csv; mkdir sub; touch sub/no", files: "a.csv=a b=b",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "d") }},
		{name: "upload_kwargs", script: "echo -n a >a.csv", files: "other=a",
			hooks: func(w *girderWorld) {
				h := w.hook(transforms.HookItem, w.item, "a.csv")
				h.FileName, h.MimeType, h.Reference = "other", "image/png", "ref"
			},
			look: func(t *testing.T, w *girderWorld) {
				if f := w.Files(w.item)[0]; f.MimeType != "image/png" || f.Reference != "ref" {
					t.Errorf("file is %+v", f)
				}
			}},
		{name: "empty", script: "touch a", files: "a=",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "a") }},
		{name: "same name and size", script: "echo -n new >old", files: "old=was", note: "with the same size",
			hooks: func(w *girderWorld) {
				w.AddFile(w.item, "old", []byte("was"))
				w.hook(transforms.HookItem, w.item, "old")
			}},
		{name: "same name, other size", script: "echo -n longer >old", files: "old=longer",
			hooks: func(w *girderWorld) {
				w.AddFile(w.item, "old", []byte("was"))
				w.hook(transforms.HookItem, w.item, "old")
			}},
		{name: "deleted afterwards", script: "echo -n a >a; mkdir -p d/e; echo -n b >d/b", files: "a=a b=b",
			hooks: func(w *girderWorld) {
				w.request.Plan.Volumes = nil
				w.request.Plan.Binds = []transforms.Bind{{Name: transforms.DefaultVolume, Source: w.files, Target: volumeTarget}}
				w.hook(transforms.HookItem, w.item, "a").DeleteFile = true
				w.hook(transforms.HookItem, w.item, "d").DeleteFile = true
				w.hook(transforms.HookItem, w.item, "none").DeleteFile = true
			},
			look: func(t *testing.T, w *girderWorld) {
				if left, err := os.ReadDir(w.files); err != nil || len(left) > 0 {
					t.Errorf("left are %v, %v", left, err)
				}
			}},
		{name: "tree into a folder", script: "mkdir -p d/e/f; echo -n 1 >d/1; echo -n 2 >d/e/2; echo -n 3 >d/e/f/3; ln -s e d/linked",
			note: "1 things were not regular files",
			hooks: func(w *girderWorld) {
				w.hook(transforms.HookFolder, w.folder, "d")
			},
			look: func(t *testing.T, w *girderWorld) {
				got := fmt.Sprint(w.Tree(w.folder))
				for _, want := range []string{" 1/1 (1 bytes)", " e/2/2 (1 bytes)", " e/f/3/3 (1 bytes)"} {
					if !strings.Contains(strings.ReplaceAll(got, "[", "[ "), want) {
						t.Errorf("folder is %s, without %q", got, want)
					}
				}
				if strings.Contains(got, "linked") {
					t.Errorf("folder is %s", got)
				}
			}},
		{name: "artifacts", script: "echo -n a >a.csv; mkdir d; echo -n b >d/b; mkdir d/sub; exit 2", code: 2,
			hooks: func(w *girderWorld) {
				job, _ := w.AddJob(w.user, "worker_handler")
				w.request.Job = w.dir.Job()
				h := w.hook(transforms.HookArtifact, job, "a.csv")
				h.OnException, h.ArtifactName = true, "renamed.csv"
				w.hook(transforms.HookArtifact, job, "d").OnException = true
			},
			look: func(t *testing.T, w *girderWorld) {
				var got []string
				for _, f := range w.Artifacts(w.request.Plan.Hooks[0].ID) {
					got = append(got, f.Name+"="+contents(f)+" "+f.MimeType)
				}
				if fmt.Sprintf("%q", got) != `["renamed.csv=a text/csv" "b=b application/octet-stream"]` {
					t.Errorf("artifacts are %q", got)
				}
			}},

		{name: "an artifact whose answer is lost", script: "echo -n a >a", note: "",
			hooks: func(w *girderWorld) {
				job, _ := w.AddJob(w.user, "worker_handler")
				w.hook(transforms.HookArtifact, job, "a")
				w.Fail("POST /job/{id}/artifact", 1, girdertest.DropAfter())
			},
			look: func(t *testing.T, w *girderWorld) {
				if got := w.Artifacts(w.request.Plan.Hooks[0].ID); len(got) != 1 {
					t.Errorf("artifacts are %+v; notes %s", got, w.notes())
				}
			}},
		{name: "an artifact that is not taken at first", script: "echo -n a >a", note: "sending it again",
			hooks: func(w *girderWorld) {
				job, _ := w.AddJob(w.user, "worker_handler")
				w.hook(transforms.HookArtifact, job, "a")
				w.Fail("POST /job/{id}/artifact", 2, girdertest.DropBefore())
			},
			look: func(t *testing.T, w *girderWorld) {
				if got := w.Artifacts(w.request.Plan.Hooks[0].ID); len(got) != 1 {
					t.Errorf("artifacts are %+v; notes %s", got, w.notes())
				}
			}},
		{name: "an artifact whose answer is lost, of a server that lists none", script: "echo -n a >a", note: "cannot be listed: Girder answered 400",
			hooks: func(w *girderWorld) {
				job, _ := w.AddJob(w.user, "worker_handler")
				w.hook(transforms.HookArtifact, job, "a")
				w.Fail("POST /job/{id}/artifact", 1, girdertest.DropAfter())
				w.Fail("GET /job/{id}/artifact", -1, girdertest.Status(400))
			},
			look: func(t *testing.T, w *girderWorld) {
				if got := w.Artifacts(w.request.Plan.Hooks[0].ID); len(got) != 2 {
					t.Errorf("artifacts are %+v; notes %s", got, w.notes())
				}
			}},

		// What a container may plant: nothing of the host's goes out.
		{name: "link out of the volume", script: "ln -s /etc/hostname a", done: "it is a link",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "a") }},
		{name: "link on the way", script: "ln -s / d", done: "it is a link",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "d/etc/hostname") }},
		{name: "magic link", script: "ln -s /proc/self/root d", done: "it is a link",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "d/etc/hostname") }},
		{name: "named pipe", script: "mkfifo a", done: "not a regular file",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "a") }},
		{name: "links and pipes in a directory", script: "mkdir d; ln -s /etc/hostname d/a; mkfifo d/b; echo -n c >d/c", files: "c=c", note: "2 things were not regular files",
			hooks: func(w *girderWorld) { w.hook(transforms.HookItem, w.item, "d") }},
		{name: "the first error stays", script: "echo a >a; exit 7", code: 7, done: "Girder answered 400",
			hooks: func(w *girderWorld) {
				w.hook(transforms.HookItem, "0123456789abcdef01234567", "a").OnException = true
			}},
		{name: "no permission", script: "echo a >a", done: "Girder answered 401",
			hooks: func(w *girderWorld) {
				w.RevokeToken(w.token)
				w.hook(transforms.HookItem, w.item, "a")
			}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newGirderWorld(t, make(test.script)...)
			test.hooks(w)
			w.want(w.run(), attempt.OutcomeExited, test.code, "")
			done := w.done()
			if (test.done == "") != (done.Error == "") || !strings.Contains(done.Error, test.done) {
				t.Errorf("done with %q, want %q", done.Error, test.done)
			}
			if got := w.named(w.item); got != test.files {
				t.Errorf("the item has %q, want %q", got, test.files)
			}
			if notes := w.notes(); !strings.Contains(notes, test.note) {
				t.Errorf("notes are %q, without %q", notes, test.note)
			}
			if test.look != nil {
				test.look(t, w)
			}
			w.secretsGone()
		})
	}
}

// TestHostDirectory: a volume in a directory of the submitter is made there as
// the submitter, and removed at the end whatever happened, and whatever is in it:
// deeper than any path, and closed to the submitter.
func TestHostDirectory(t *testing.T) {
	for _, code := range []int{0, 3} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			nested := fmt.Sprintf("cd %s; for i in $(seq 300); do mkdir d; cd d; done; : >f; mkfifo p; chmod 500 .; cd %[1]s/d; chmod 0 .;", volumeTarget)
			if code != 0 {
				nested += "chmod 0 ..;" // nothing is to be uploaded
			}
			w := newGirderWorld(t, sh(fmt.Sprintf("echo -n a >%s; %s exit %d", in("a"), nested, code))...)
			host := filepath.Join(w.files, "scratch")
			w.request.Plan.Volumes[0].HostDir = host
			w.hook(transforms.HookItem, w.item, "a")
			w.want(w.run(), attempt.OutcomeExited, code, "")
			if got := w.named(w.item); code == 0 && got != "a=a" {
				t.Errorf("the item has %q", got)
			}
			if left, err := os.ReadDir(host); err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v; notes %s", left, err, w.notes())
			}
			var st unix.Stat_t
			if err := unix.Stat(host, &st); err != nil || st.Uid != submitter || st.Mode&0o7777 != 0o2777 {
				t.Errorf("%s is %d's, mode %o, %v", host, st.Uid, st.Mode, err)
			}
		})
	}
}

// waitCall returns when the server has had n calls of a route.
func (w *girderWorld) waitCall(route string, n int) {
	w.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for len(w.Calls(route)) < n {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s was not called %d times; events %+v", route, n, w.events())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestResume: runners die over the uploads, wherever; each next one goes on,
// and in the end every file is there once.
func TestResume(t *testing.T) {
	for _, test := range []struct {
		route string
		fault girdertest.Fault
	}{
		{"GET /item/{id}/files", girdertest.Hang()},
		{"POST /file", girdertest.Hang()},
		{"POST /file/chunk", girdertest.Hang()},
		{"POST /file/chunk", girdertest.DropAfter()},
		{"POST /file/chunk", girdertest.DropBody(3)},
		{"POST /file", girdertest.DropAfter()},
	} {
		t.Run(test.route+fmt.Sprint(test.fault), func(t *testing.T) {
			w := newGirderWorld(t, sh("cd "+volumeTarget+"; echo -n one >1; touch 2; mkdir d; echo -n three >d/3")...)
			for _, path := range []string{"1", "2", "d"} {
				w.hook(transforms.HookItem, w.item, path)
			}
			out := w.AddFolder(w.user, "out")
			w.hook(transforms.HookFolder, out, ".")
			for deaths := range 3 {
				w.FailAfter(test.route, deaths, 1, test.fault)
			}
			p, calls := w.start(), 0
			for range 3 {
				w.waitCall(test.route, calls+1)
				if err := p.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				p.Wait()
				unfinished, err := w.dir.Unfinished()
				if err != nil {
					t.Fatal(err)
				}
				if !unfinished {
					break
				}
				calls = len(w.Calls(test.route))
				p = w.again()
			}
			w.Mend()
			if p.ProcessState == nil {
				w.end(p)
			} else if unfinished, _ := w.dir.Unfinished(); unfinished {
				w.end(w.again())
			}
			if done := w.done(); done.Error != "" {
				t.Errorf("done with %q", done.Error)
			}
			if got := w.named(w.item); got != "1=one 2= 3=three" {
				t.Errorf("the item has %q", got)
			}
			if got := fmt.Sprint(w.Tree(out)); strings.Count(got, "bytes") != 3 {
				t.Errorf("the folder has %s", got)
			}
			if _, err := os.Lstat(filepath.Join(w.dir.Path(), "finish.json")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("finish.json is left: %v", err)
			}
			w.secretsGone()
		})
	}
}

// TestResumeArtifact: a runner dies over an artifact, which was taken or was not;
// the next one finds out.
func TestResumeArtifact(t *testing.T) {
	const post, list = "POST /job/{id}/artifact", "GET /job/{id}/artifact"
	for name, taken := range map[string]bool{"taken": true, "not taken": false} {
		t.Run(name, func(t *testing.T) {
			w := newGirderWorld(t, sh("echo -n one >"+in("1"))...)
			job, _ := w.AddJob(w.user, "worker_handler")
			w.hook(transforms.HookArtifact, job, "1")
			until := post
			if taken {
				w.Fail(post, 1, girdertest.DropAfter())
				until = list
			}
			w.Fail(until, -1, girdertest.Hang())
			p := w.start()
			w.waitCall(until, 1)
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			p.Wait()
			w.Mend()
			w.end(w.again())
			if done := w.done(); done.Error != "" {
				t.Errorf("done with %q", done.Error)
			}
			if got := w.Artifacts(job); len(got) != 1 || contents(got[0]) != "one" {
				t.Errorf("artifacts are %+v; notes %s", got, w.notes())
			}
		})
	}
}

// TestTurns: a runner whose uploads find no turn, or no Girder, ends, and the
// next goes on, until Girder has been away for as long as was to be waited.
func TestTurns(t *testing.T) {
	w := newGirderWorld(t, sh("echo -n one >"+in("1"))...)
	w.hook(transforms.HookItem, w.item, "1")
	state := filepath.Dir(filepath.Dir(w.request.Grant.WorkDir))
	owner := w.request.Identity.TurnOwner()
	var taken []*os.File
	for turn, err := attempt.TakeTurn(state, owner); turn != nil; turn, err = attempt.TakeTurn(state, owner) {
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, turn)
	}
	if len(taken) != attempt.UploadTurns+1 {
		t.Fatalf("%d turns", len(taken))
	}
	waits := func(p *process, turns int) {
		t.Helper()
		if err := p.Wait(); err != nil {
			t.Errorf("runner: %v: %s", err, &p.stderr)
		}
		unfinished, err := w.dir.Unfinished()
		left, err2 := w.dir.ReadFinish()
		if err != nil || err2 != nil || !unfinished || left.Turns != turns {
			t.Fatalf("unfinished %v, %+v, %v, %v", unfinished, left, err, err2)
		}
	}
	waits(w.start(), 1)
	if n := len(w.Calls("")); n != 0 {
		t.Errorf("%d calls out of turn", n)
	}
	taken[3].Close()
	w.request.Limits = attempt.Limits{Outage: 6 * time.Second, Turn: 2 * time.Second}
	if err := w.dir.WriteRequest(w.request); err != nil {
		t.Fatal(err)
	}
	w.Fail("GET /item/{id}/files", -1, girdertest.Status(503))
	waits(w.again(), 2)
	waits(w.again(), 3)
	// Once more, and that is it; somebody else's turn is no matter.
	w.Mend()
	w.end(w.again())
	if done := w.done(); done.Error != "" {
		t.Errorf("done with %q", done.Error)
	}
	if got := w.named(w.item); got != "1=one" {
		t.Errorf("the item has %q", got)
	}
	for i, turn := range taken {
		if i != 3 {
			turn.Close()
		}
	}
}

// TestOutageOver: in the end Girder has been away for too long, whatever the turns.
func TestOutageOver(t *testing.T) {
	w := newGirderWorld(t, sh("echo -n one >"+in("1"))...)
	w.hook(transforms.HookItem, w.item, "1")
	w.request.Limits = attempt.Limits{Outage: 3 * time.Second, Turn: time.Second}
	w.Fail("GET /item/{id}/files", -1, girdertest.Status(503))
	runners := 1
	for p := w.start(); ; p = w.again() {
		if err := p.Wait(); err != nil {
			t.Fatalf("runner: %v: %s", err, &p.stderr)
		}
		if unfinished, err := w.dir.Unfinished(); err != nil {
			t.Fatal(err)
		} else if !unfinished {
			break
		}
		if runners++; runners > 10 {
			t.Fatal("it never ends")
		}
	}
	w.nothingLeft()
	if done := w.done(); runners < 3 || !strings.Contains(done.Error, "503") {
		t.Errorf("done with %q after %d runners", done.Error, runners)
	}
}

// TestAbandoned: what a runner that was killed made in the submitter's directory
// is removed by the next one, which does nothing else, and so needs no server:
// not even a key for it.
func TestAbandoned(t *testing.T) {
	w := newGirderWorld(t, sh("cd "+volumeTarget+"; mkdir d; : >d/f; chmod 0 d; echo up; exec sleep 1000")...)
	host := filepath.Join(w.files, "scratch")
	w.request.Plan.Volumes[0].HostDir = host
	w.hook(transforms.HookItem, w.item, "d")
	w.request.Plan.Girders[0].MachineKey, w.request.Grant.KeeperID = true, subIDs
	err := w.dir.RemoveSecrets()
	if err == nil {
		err = w.dir.WriteSecrets(transforms.Secrets{MachineKey: w.AddAPIKey(w.user)})
	}
	if err != nil {
		t.Fatal(err)
	}
	p := w.start()
	w.waitLog("up")
	calls := len(w.Calls(""))
	if made, err := os.ReadDir(host); err != nil || len(made) != 1 {
		t.Fatalf("made are %v, %v", made, err)
	}
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	w.sweep()
	if abandoned, err := w.dir.Abandoned(); err != nil || !abandoned {
		t.Fatal(abandoned, err)
	}
	q := w.again()
	if err := q.Wait(); err != nil {
		t.Errorf("runner: %v: %s", err, &q.stderr)
	}
	if left, err := os.ReadDir(host); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v; notes %s", left, err, w.notes())
	}
	if n := len(w.Calls("")); n != calls {
		t.Errorf("Girder was called %d times more", n-calls)
	}
	if abandoned, err := w.dir.Abandoned(); err != nil || abandoned {
		t.Error(abandoned, err)
	}
	if ended, err := w.dir.Ended(); err != nil || ended {
		t.Errorf("an attempt that was lost has an end: %v", err)
	}
}
