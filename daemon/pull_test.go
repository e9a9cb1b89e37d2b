package daemon_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
	"girderworker/sandbox/image/imagetest"
	"girderworker/sandbox/image/registry/registrytest"
)

// echo is busybox with a file that tells one version from another.
func echo(t testing.TB, version string) imagetest.Image {
	t.Helper()
	img, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	img.Refs = []string{"lab/echo:1"}
	img.Layers = append(img.Layers, imagetest.Layer{imagetest.File("version", 0o644, version)})
	return img
}

func push(t testing.TB, s *registrytest.Server, version string) (digest string) {
	t.Helper()
	files, err := imagetest.OCIFiles(echo(t, version))
	if err != nil {
		t.Fatal(err)
	}
	return s.Push(t, "lab/echo", "1", files)
}

// as runs the command line as a person.
func (w *world) as(uid int, args ...string) (string, error) {
	cmd := exec.Command(binary, append([]string{"--socket", w.socket()}, args...)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{memberGID}}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) mustPull(ref string) (apitype.Image, string) {
	w.t.Helper()
	img, note, err := w.client.PullImage(w.t.Context(), ref, false, false, func(apitype.Progress) {})
	if err != nil {
		w.t.Fatalf("cannot pull: %v\n%s", err, w.stderr)
	}
	return img, note
}

func TestPull(t *testing.T) {
	s := registrytest.New(t, false)
	w := newWorld(t)
	digest := push(t, s, "one")
	ref := s.Host + "/lab/echo:1"
	img, note := w.mustPull(ref)
	if img.Digest != digest || note != "" || img.Names[0] != ref || img.Owner != -1 {
		t.Fatalf("%+v, %q", img, note)
	}
	s.Seen()
	if _, note := w.mustPull(ref); note != "the registry has no newer image" {
		t.Errorf("note %q", note)
	}
	for _, seen := range s.Seen() {
		if strings.Contains(seen.Path, "/blobs/") {
			t.Errorf("fetched %s again", seen.Path)
		}
	}
	// The next version shares a layer, which is not fetched again.
	push(t, s, "two")
	if next, _ := w.mustPull(ref); next.ID == img.ID {
		t.Error("the name did not move")
	}
	blobs := 0
	for _, seen := range s.Seen() {
		if strings.Contains(seen.Path, "/blobs/") {
			blobs++
		}
	}
	if blobs != 2 {
		t.Errorf("%d blobs fetched, want a config and a layer", blobs)
	}
	byDigest, _ := w.mustPull(s.Host + "/lab/echo@" + digest)
	if byDigest.ID != img.ID {
		t.Errorf("by digest: %+v", byDigest)
	}
	job := w.wait(w.submit("cat /version", "image", ref).ID)
	if got := w.log(job.ID); got != "two" {
		t.Errorf("log %q", got)
	}

	// A pinned image stays what it is, and is used.
	if err := w.client.PinImage(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	push(t, s, "three")
	if _, note, err := w.client.PullImage(t.Context(), ref, false, true, func(apitype.Progress) {}); err != nil || !strings.Contains(note, "pinned") {
		t.Errorf("note %q", note)
	}
	if err := w.client.RemoveImage(t.Context(), ref); client.Kind(err) != "conflict" {
		t.Errorf("a pinned image: %v", err)
	}
	if err := w.client.UnpinImage(t.Context(), ref); err != nil {
		t.Fatal(err)
	}

	// A person's is the person's own, and tells so while it comes.
	out, err := w.as(personUID, "images", "pull", ref)
	if err != nil || !strings.Contains(out, "pulling "+ref) {
		t.Errorf("%v: %s", err, out)
	}
	out, err = w.as(personUID, "run", ref, "cat", "/version")
	if err != nil || out != "three" {
		t.Errorf("%v: %s", err, out)
	}
	job = w.wait(w.submit("cat /version", "image", ref).ID)
	if got := w.log(job.ID); got != "two" {
		t.Errorf("a person's pull changed everyone's image: %q", got)
	}
	if out, err := w.as(personUID, "images", "pin", ref); err == nil {
		t.Errorf("a person pinned: %s", out)
	}
}

// What a job says of pulling, with a registry and without.
func TestPullForAJob(t *testing.T) {
	s := registrytest.New(t, false)
	w := newWorld(t)
	ref := s.Host + "/lab/echo:1"
	push(t, s, "one")
	run := func(pull string) (string, apitype.Job) {
		t.Helper()
		submitted, err := w.client.Submit(t.Context(), document("cat /version", "image", ref, "pull", pull))
		if err != nil {
			return "", apitype.Job{Error: err.Error()}
		}
		job := w.wait(submitted.ID)
		if job.State != "succeeded" {
			return "", job
		}
		return w.log(job.ID), job
	}
	if _, job := run("never"); !strings.Contains(job.Error, "no image") {
		t.Errorf("%+v", job)
	}
	if got, job := run("missing"); got != "one" {
		t.Errorf("missing: %q, %+v", got, job)
	}
	push(t, s, "two")
	for _, c := range [][2]string{{"never", "one"}, {"missing", "one"}, {"always", "two"}, {"missing", "two"}} {
		if got, job := run(c[0]); got != c[1] {
			t.Errorf("%s: %q, want %q; %+v", c[0], got, c[1], job)
		}
	}
	s.Server.Close()
	if got, job := run("always"); got != "two" {
		t.Errorf("without a registry: %q, %+v", got, job)
	}
	// The next one does not wait for it, and a person may have it asked.
	asked := 0
	for i, says := range []string{"could not be reached", "jobs ask it again in"} {
		_, job := run("always")
		if !strings.Contains(string(job.Detail), "using the image that is here: ") || !strings.Contains(string(job.Detail), says) {
			t.Errorf("job %d is not told why it did not get a newer image: %s", i, job.Detail)
		}
		asked = strings.Count(w.stderr.String(), "cannot be reached")
	}
	if asked != 1 {
		t.Errorf("the registry was asked %d times", asked)
	}
	if _, note, err := w.client.PullImage(t.Context(), ref, false, true, func(apitype.Progress) {}); err != nil || !strings.Contains(note, "using the image that is here") || strings.Contains(note, "again in") {
		t.Errorf("a person who pulls is told %q, %v", note, err)
	}
	gone := w.wait(w.submit("x", "image", s.Host+"/lab/other:1", "pull", "always").ID)
	if gone.State != "failed" || !strings.Contains(gone.Error, "cannot be reached") {
		t.Errorf("%+v", gone)
	}
}

// A pull that hangs can be seen and canceled, holds up no other job, and is
// begun anew by the next daemon.
func TestPullThatHangs(t *testing.T) {
	s := registrytest.New(t, false)
	w := newWorld(t)
	push(t, s, "one")
	var hang sync.Map
	release := make(chan struct{})
	s.Fault(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			hang.Store("reached", true)
			select {
			case <-release:
			case <-r.Context().Done():
				return
			}
		}
		next.ServeHTTP(rw, r)
	})
	ref := s.Host + "/lab/echo:1"
	stuck := w.submit("cat /version", "image", ref, "pull", "always")
	w.eventually("it is told that the image is being pulled", func() bool {
		job := w.job(stuck.ID)
		_, reached := hang.Load("reached")
		return reached && job.Stage == "preparing" && job.Progress != nil && strings.Contains(job.Progress.Message, "pulling "+ref)
	})
	for range 3 {
		if job := w.wait(w.submit("exit 0").ID); job.State != "succeeded" {
			t.Errorf("a job beside it: %+v", job)
		}
	}
	if _, err := w.client.Cancel(t.Context(), stuck.ID, "enough"); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(stuck.ID); job.State != "canceled" || *job.ExitCode != 130 {
		t.Errorf("%+v", job)
	}

	hang.Delete("reached")
	again := w.submit("cat /version", "image", ref, "pull", "missing")
	w.eventually("the second pull hangs", func() bool { _, ok := hang.Load("reached"); return ok })
	if err := w.front().Kill(); err != nil {
		t.Fatal(err)
	}
	w.waitExit()
	close(release)
	w.start()
	if job := w.wait(again.ID); job.State != "succeeded" || w.log(job.ID) != "one" {
		t.Errorf("%+v", job)
	}
}

// Nothing is taken from a job that was accepted, however often somebody prunes.
func TestPruneAgainstSubmissions(t *testing.T) {
	w := newWorld(t)
	done := make(chan struct{})
	var pruning sync.WaitGroup
	pruning.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := w.client.PruneImages(t.Context()); err != nil {
				t.Errorf("cannot prune: %v", err)
				return
			}
		}
	})
	for n := range 8 {
		img := echo(t, fmt.Sprint(n))
		img.Refs = []string{fmt.Sprintf("echo:%d", n)}
		var archive bytes.Buffer
		if err := imagetest.DockerArchive(&archive, img); err != nil {
			t.Fatal(err)
		}
		if _, err := w.client.ImportImage(t.Context(), &archive, "", false); err != nil {
			t.Fatal(err)
		}
		job := w.submit("echo up; until [ -e /go ]; do usleep 10000; [ $((i=i+1)) -gt 30 ] && break; done; cat /version /bin/busybox | wc -c", "image", img.Refs[0])
		w.printed(job.ID, "up")
		// Without a name, the job is all that keeps it.
		if err := w.client.RemoveImage(t.Context(), img.Refs[0]); err != nil {
			t.Fatal(err)
		}
		if got := w.wait(job.ID); got.State != "succeeded" {
			t.Errorf("%+v\n%s", got, w.log(job.ID))
		}
	}
	close(done)
	pruning.Wait()
}

// A dropped archive with a signature beside it counts as signed, or does not come
// in. Where the policy asks for a signature, what has none does not run, nor what
// a key signed that is gone.
func TestDroppedSignature(t *testing.T) {
	w := newWorld(t)
	w.stop()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(w.dir, "keys")
	if err := os.Mkdir(keys, 0o755); err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(keys, "lab.pub")
	if err := os.WriteFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(w.dir, "policy.toml")
	if err := os.WriteFile(rules, []byte("[socket]\nsigned_by = [\"lab\"]\n[keys]\nlab = \""+public+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure("slots = 4", "policy_file = "+rules)
	w.start()
	drop := filepath.Join(w.state(), "images", "drop")
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(drop, "."+name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(drop, "."+name), filepath.Join(drop, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		signed []byte
		fate   string
	}{{"good.tar", nil, "done"}, {"bad.tar", []byte("something else"), "failed"}} {
		img := echo(t, c.name)
		img.Refs = []string{"lab/" + strings.TrimSuffix(c.name, ".tar") + ":1"}
		var archive bytes.Buffer
		if err := imagetest.DockerArchive(&archive, img); err != nil {
			t.Fatal(err)
		}
		if c.signed == nil {
			c.signed = archive.Bytes()
		}
		sum := sha256.Sum256(c.signed)
		value, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		put(c.name+".sig", value)
		put(c.name, archive.Bytes())
		w.eventually(c.name+" and its signature are "+c.fate, func() bool {
			_, err := os.Lstat(filepath.Join(drop, c.fate, c.name))
			_, sigErr := os.Lstat(filepath.Join(drop, c.fate, c.name+".sig"))
			return err == nil && sigErr == nil
		})
	}
	cmd := exec.Command(binary, "--socket", w.socket(), "images", "ls")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "signed by lab") || strings.Contains(string(out), "lab/bad") {
		t.Errorf("%v: %s", err, out)
	}
	cmd = exec.Command(binary, "--socket", w.socket(), "images", "verify", "lab/good:1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "ok, signed by lab") {
		t.Errorf("%v: %s", err, out)
	}

	signed := func() error {
		_, err := w.client.Submit(t.Context(), document("true", "image", "lab/good:1", "hold", "only to be judged"))
		return err
	}
	refused := func(err error) bool {
		return client.Kind(err) == apitype.KindForbidden && strings.Contains(err.Error(), "no signature of a key that is trusted here (lab)")
	}
	if _, err := w.client.Submit(t.Context(), document("true")); !refused(err) {
		t.Errorf("an image without a signature: %v", err)
	}
	held := w.submit("true", "image", "lab/good:1", "hold", "until the key is gone")
	if job := w.wait(w.submit("true", "image", "lab/good:1").ID); job.State != "succeeded" {
		t.Errorf("a signed image: %+v", job)
	}
	if err := os.Rename(public, public+".gone"); err != nil {
		t.Fatal(err)
	}
	w.eventually("a key without its file counts for nothing", func() bool { return refused(signed()) })
	if st, err := w.client.Status(t.Context()); err != nil || !strings.Contains(strings.Join(st.Warnings, " "), "lab cannot be used") {
		t.Errorf("status: %+v, %v", st, err)
	}
	// The monitor decides by itself.
	if _, err := w.client.Release(t.Context(), held.ID); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(held.ID); job.State != "failed" || !strings.Contains(job.Error, "refused by the monitor: image: ") {
		t.Errorf("a job that was accepted before: %+v", job)
	}
	if err := os.Rename(public+".gone", public); err != nil {
		t.Fatal(err)
	}
	w.eventually("the key counts again", func() bool { return signed() == nil })
	if err := os.WriteFile(rules, []byte("[socket]\nsigned_by = [\"other\"]\n[keys]\nother = \""+rules+"\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	w.eventually("another key is asked for", func() bool {
		err := signed()
		return client.Kind(err) == apitype.KindForbidden && strings.Contains(err.Error(), "(other)")
	})
}

// Who may not pull from a registry by policy uses what is here.
func TestPullByPolicy(t *testing.T) {
	s := registrytest.New(t, false)
	w := newWorld(t)
	w.stop()
	rules := filepath.Join(w.dir, "policy.toml")
	if err := os.WriteFile(rules, fmt.Appendf(nil, "[socket]\npull = [\"registry.example.org\"]\n[user.%d]\npull = [%q]\n", personUID, s.Host), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure("slots = 4", "policy_file = "+rules)
	w.start()
	push(t, s, "one")
	ref := s.Host + "/lab/echo:1"
	_, _, err := w.client.PullImage(t.Context(), ref, false, false, func(apitype.Progress) {})
	if client.Kind(err) != "forbidden" || !strings.Contains(err.Error(), "with pull in a section of policy.toml for you (yours: [socket])") {
		t.Errorf("%v", err)
	}
	if job := w.wait(w.submit("x", "image", ref, "pull", "always").ID); job.State != "failed" || !strings.Contains(job.Error, "policy.toml") {
		t.Errorf("a job that would pull: %+v", job)
	}
	if seen := s.Seen(); len(seen) > 0 {
		t.Errorf("the registry was asked: %+v", seen)
	}
	if out, err := w.as(personUID, "run", "--pull", "missing", ref, "cat", "/version"); err != nil || !strings.HasSuffix(out, "one") {
		t.Errorf("who may pull: %v: %s", err, out)
	}
	w.eventually("the refusal is in the audit log", func() bool {
		audit, err := os.ReadFile(filepath.Join(w.state(), "audit.jsonl"))
		return err == nil && strings.Contains(string(audit), "is not among the registries")
	})
}

// A quota refuses what does not fit, and says what to do; a job is told, too.
func TestImageQuota(t *testing.T) {
	s := registrytest.New(t, false)
	w := newWorld(t)
	w.stop()
	w.configure("slots = 4", "[images]", "quota = 1M", "registries = "+s.Host)
	w.start()
	push(t, s, strings.Repeat("x", 2<<20))
	ref := s.Host + "/lab/echo:1"
	_, _, err := w.client.PullImage(t.Context(), ref, false, false, func(apitype.Progress) {})
	if client.Kind(err) != "no-space" || !strings.Contains(err.Error(), "images.quota") {
		t.Errorf("%v", err)
	}
	if job := w.wait(w.submit("x", "image", ref, "pull", "always").ID); job.State != "failed" || !strings.Contains(job.Error, "quota") {
		t.Errorf("%+v", job)
	}
	_, _, err = w.client.PullImage(t.Context(), "registry.example.org/x:1", false, false, func(apitype.Progress) {})
	if client.Kind(err) != "forbidden" || !strings.Contains(err.Error(), "images.registries") {
		t.Errorf("%v", err)
	}
	if staged, err := os.ReadDir(filepath.Join(w.state(), "images", "staging")); err != nil || len(staged) > 0 {
		t.Errorf("staging holds %v, %v", staged, err)
	}
}
