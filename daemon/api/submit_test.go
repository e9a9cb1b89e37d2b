package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/queue"
	"girderworker/transforms"
)

func TestSubmit(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	job := p.submit(`{"image":"busybox","args":["true"],"name":"first","priority":3,"resources":{"memory":"2g"},"retries":{"max":2},"timeout":"5m"}`)
	if job.State != "queued" || job.Owner != "uid:64901" || job.Name != "first" || job.Priority != 3 {
		t.Errorf("answered %+v", job)
	}
	kept, err := w.queue.Job(job.ID)
	if err != nil {
		t.Fatal(err)
	}
	if kept.Needs != (queue.Needs{CPUs: 1, Memory: 2 << 30}) || kept.Limits.Hard.Minutes() != 5 || kept.Retry.Max != 2 || kept.Retry.Delay.Seconds() != 1 {
		t.Errorf("kept %+v, %+v, %+v", kept.Needs, kept.Limits, kept.Retry)
	}
	// What was accepted is complete: no later configuration changes it.
	f, err := transforms.ParseJobFile(kept.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := transforms.Resources{CPUs: 1, Memory: 2 << 30, PIDs: 100, Shm: 64 << 20, Scratch: 1 << 30, Log: 1 << 20}
	if f.Resources != want || f.Timeout.Minutes() != 5 {
		t.Errorf("the body holds %+v, %v", f.Resources, f.Timeout)
	}
}

func TestSubmitIsIdempotent(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	p.submit(`{"id":"one","image":"busybox","args":["a"],"env":{"A":"1","B":"2"}}`)
	// The same job in another spelling.
	code, body := p.do("POST", "/v1/jobs", `{"env":["B=2","A=1"],"args":["a"],"id":"one", "image":"busybox"}`)
	if code != http.StatusOK || decodeAs[apitype.Job](t, body).ID != "one" {
		t.Errorf("again: %d %s", code, body)
	}
	if e := p.refused("POST", "/v1/jobs", `{"id":"one","image":"busybox","args":["b"]}`, 409); e.Kind != apitype.KindConflict {
		t.Errorf("another body: %+v", e)
	}
	if e := p.refused("POST", "/v1/jobs", `{"id":"one","image":"busybox","args":["b"]}`, 409); !strings.HasSuffix(e.Message, ": one") {
		t.Errorf("another body: %+v", e)
	}
	// It stays the same job when the machine has changed since.
	s := *w.server.settings.Load()
	s.Machine.Memory, s.Defaults.Resources.CPUs = 1, 3
	w.server.Apply(s)
	if code, body := p.do("POST", "/v1/jobs", `{"id":"one","image":"busybox","args":["a"],"env":{"A":"1","B":"2"}}`); code != http.StatusOK {
		t.Errorf("after a change of the machine: %d %s", code, body)
	}
	if n := len(decodeAs[apitype.Jobs](t, second(p.do("GET", "/v1/jobs", ""))).Jobs); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

// TestIDsAreEachPersonsOwn: two people may choose one id, and neither learns from any
// answer whether the other has it.
func TestIDsAreEachPersonsOwn(t *testing.T) {
	w := newWorker(t, nil)
	a, b, root := w.person(alice), w.person(bob), w.person(0)
	const one = `{"id":"scan","image":"busybox","hold":"x"}`
	for _, path := range []string{"/v1/jobs/scan", "/v1/jobs/scan/why", "/v1/jobs/scan/log"} {
		before := b.refused("GET", path, "", 404)
		a.do("POST", "/v1/jobs", one)
		if after := b.refused("GET", path, "", 404); after != before {
			t.Errorf("%s: %+v, and when somebody else has it %+v", path, before, after)
		}
	}
	if e := b.refused("POST", "/v1/jobs", `{"image":"busybox","after":["scan"]}`, 400); e != b.refused("POST", "/v1/jobs", `{"image":"busybox","after":["scan"]}`, 400) ||
		e.Message != "after: there is no job scan to wait for" {
		t.Errorf("to wait for another's: %+v", e)
	}
	code, body := b.do("POST", "/v1/jobs", one)
	if own := decodeAs[apitype.Job](t, body); code != 201 || own.ID != "scan" || own.Owner != fmt.Sprint("uid:", bob) {
		t.Fatalf("the other's: %d %s", code, body)
	}
	code, body = b.do("POST", "/v1/jobs", `{"jobs":[{"id":"third","image":"busybox"},{"id":"next","image":"busybox","after":["scan","third"]}]}`)
	if jobs := decodeAs[apitype.Jobs](t, body).Jobs; code != 201 || jobs[1].ID != "next" || strings.Join(jobs[1].After, " ") != "scan third" {
		t.Errorf("to wait for one's own: %d %s", code, body)
	}
	if e := b.refused("POST", "/v1/jobs", `{"id":"scan","image":"busybox"}`, 409); strings.Contains(e.Message, fmt.Sprint(bob)) {
		t.Errorf("another body: %+v", e)
	}
	if why := decodeAs[apitype.Why](t, second(b.do("GET", "/v1/jobs/next/why", ""))); why.ID != "next" || !strings.Contains(fmt.Sprint(why.Waits), "it starts after scan, third") {
		t.Errorf("why: %+v", why)
	}
	if _, body := b.do("POST", "/v1/jobs/scan/cancel", ""); decodeAs[apitype.Job](t, body).State != "canceled" {
		t.Errorf("canceled: %s", body)
	}
	if got := decodeAs[apitype.Job](t, second(a.do("GET", "/v1/jobs/scan", ""))); got.State != "held" || got.ID != "scan" {
		t.Errorf("alice's is %+v", got)
	}
	// An admin tells them apart, and can name either.
	for _, uid := range []int{alice, bob} {
		id := fmt.Sprintf("scan.%d", uid)
		if got := decodeAs[apitype.Job](t, second(root.do("GET", "/v1/jobs/"+id, ""))); got.ID != id || got.Owner != fmt.Sprint("uid:", uid) {
			t.Errorf("to root %s is %+v", id, got)
		}
	}
	root.refused("GET", "/v1/jobs/scan", "", 404)
	// The whole id is good for its owner, and nobody else.
	if got := decodeAs[apitype.Job](t, second(a.do("GET", fmt.Sprintf("/v1/jobs/scan.%d", alice), ""))); got.ID != "scan" {
		t.Errorf("by its whole id: %+v", got)
	}
	b.refused("GET", fmt.Sprintf("/v1/jobs/scan.%d", alice), "", 404)
}

func TestSubmitBatch(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	batch := func(documents ...string) string { return `{"jobs":[` + strings.Join(documents, ",") + `]}` }
	var many []string
	for i := range transforms.MaxBatch {
		many = append(many, fmt.Sprintf(`{"id":"b%d","image":"busybox","args":["%d"]}`, i, i))
	}
	code, body := p.do("POST", "/v1/jobs", batch(many...))
	jobs := decodeAs[apitype.Jobs](t, body).Jobs
	if code != 201 || len(jobs) != len(many) || jobs[999].ID != "b999" {
		t.Fatalf("%d, %d jobs", code, len(jobs))
	}
	// All or none, and the one to blame is named.
	e := p.refused("POST", "/v1/jobs", batch(`{"id":"x1","image":"busybox"}`, `{"id":"x2","image":"nope"}`), 404)
	if e.Kind != apitype.KindNoImage || e.Field != "jobs[1].image" || !strings.Contains(e.Message, "jobs[1]") {
		t.Errorf("got %+v", e)
	}
	p.refused("GET", "/v1/jobs/x1", "", 404)
	if e := p.refused("POST", "/v1/jobs", batch(`{"id":"x1","image":"busybox"}`, `{"id":"b1","image":"busybox"}`), 409); e.Kind != apitype.KindConflict {
		t.Errorf("got %+v", e)
	}
	p.refused("GET", "/v1/jobs/x1", "", 404)
	// A job may wait for another of the same batch.
	if code, body := p.do("POST", "/v1/jobs", batch(`{"id":"y1","image":"busybox"}`, `{"id":"y2","image":"busybox","after":["y1"]}`)); code != 201 {
		t.Errorf("%d %s", code, body)
	}
	// Repeated as a whole it is 200; in part, 201.
	if code, _ := p.do("POST", "/v1/jobs", batch(many[:3]...)); code != 200 {
		t.Errorf("repeated: %d", code)
	}
	if code, _ := p.do("POST", "/v1/jobs", batch(many[0], `{"id":"z","image":"busybox"}`)); code != 201 {
		t.Errorf("repeated in part: %d", code)
	}
}

func TestSubmitRefuses(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	other := w.person(bob).submit(`{"image":"busybox"}`).ID
	for _, test := range []struct {
		document    string
		status      int
		kind, field string
		says        []string
	}{
		{``, 400, apitype.KindBadRequest, "", []string{"an object was expected"}},
		{`{"image":`, 400, apitype.KindBadRequest, "image", nil},
		{`{"image":"busybox","cpu":1}`, 400, apitype.KindBadRequest, "cpu", []string{"unknown field"}},
		{`{"image":"nope"}`, 404, apitype.KindNoImage, "image", []string{`"nope"`, "images import"}},
		{`{"image":"busybox","resources":{"memory":"64g"}}`, 400, apitype.KindBadRequest, "resources.memory", []string{"64.0 GiB", "8.0 GiB"}},
		{`{"image":"busybox","resources":{"cpus":4.5}}`, 400, apitype.KindBadRequest, "resources.cpus", []string{"4.5", "at most 4"}},
		{`{"image":"busybox","resources":{"gpus":2}}`, 400, apitype.KindBadRequest, "resources.gpus", []string{"2", "at most 1"}},
		{`{"image":"busybox","resources":{"scratch":"200g"}}`, 400, apitype.KindBadRequest, "resources.scratch", []string{"200.0 GiB", "100.0 GiB"}},
		{`{"image":"busybox","resources":{"memory":-1}}`, 400, apitype.KindBadRequest, "resources.memory", []string{"-1"}},
		{`{"image":"busybox","network":"host"}`, 403, apitype.KindForbidden, "network", []string{"not allowed"}},
		{`{"image":"busybox","after":["none"]}`, 400, apitype.KindBadRequest, "after", []string{"none"}},
		{`{"image":"busybox","after_any":["` + other + `"]}`, 400, apitype.KindBadRequest, "after_any", []string{other}},
		{`{"image":"busybox","name":"` + strings.Repeat("x", 2<<20) + `"}`, 413, apitype.KindTooLarge, "", []string{"1048576"}},
	} {
		e := p.refused("POST", "/v1/jobs", test.document, test.status)
		if e.Kind != test.kind || e.Field != test.field {
			t.Errorf("%.60s: got %+v", test.document, e)
		}
		for _, part := range test.says {
			if !strings.Contains(e.Message, part) {
				t.Errorf("%.60s: %q does not say %q", test.document, e.Message, part)
			}
		}
		if strings.ContainsRune(e.Message, '\n') {
			t.Errorf("%.60s: more than a line: %q", test.document, e.Message)
		}
	}
	if n := len(decodeAs[apitype.Jobs](t, second(p.do("GET", "/v1/jobs", ""))).Jobs); n != 0 {
		t.Errorf("%d jobs were accepted", n)
	}
}

// TestUnknownTask: it is a job, born failed, with the reason.
func TestUnknownTask(t *testing.T) {
	w := newWorker(t, nil)
	job := w.person(alice).submit(`{"task":"lab.tasks.segment","args":["x"]}`)
	if job.State != "failed" || !strings.Contains(job.Reason, "lab.tasks.segment") || job.ExitCode == nil || *job.ExitCode != 125 {
		t.Errorf("got %+v", job)
	}
}

func TestSubmitToFullQueue(t *testing.T) {
	w := newWorker(t, func(_ *Config, o *queue.Options) { o.MaxJobs = 1 })
	p := w.person(alice)
	p.submit(`{"image":"busybox"}`)
	if e := p.refused("POST", "/v1/jobs", `{"image":"busybox"}`, 503); e.Kind != apitype.KindFull {
		t.Errorf("got %+v", e)
	}
}

// TestSecretsAreMasked in what the API shows, not in what is kept.
func TestSecretsAreMasked(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	id := p.submit(`{"image":"busybox","env":{"GIRDER_TOKEN":"tell-nobody","db_password":"tell-nobody","HOME":"/h"}}`).ID
	for _, path := range []string{"/v1/jobs/" + id, "/v1/jobs"} {
		_, body := p.do("GET", path, "")
		if strings.Contains(string(body), "tell-nobody") {
			t.Errorf("%s tells: %s", path, body)
		}
	}
	job := decodeAs[apitype.Job](t, second(p.do("GET", "/v1/jobs/"+id, "")))
	var document struct{ Env map[string]string }
	if err := json.Unmarshal(job.Document, &document); err != nil || document.Env["HOME"] != "/h" || document.Env["GIRDER_TOKEN"] != "***" {
		t.Errorf("got %v, %v", document, err)
	}
	kept, err := w.queue.Job(id)
	if err != nil || !strings.Contains(string(kept.Body), "tell-nobody") {
		t.Errorf("kept %s, %v", kept.Body, err)
	}
}

// TestSlowBodies: a user who sends large requests slowly holds up nobody else's.
func TestSlowBodies(t *testing.T) {
	w := newWorker(t, nil)
	const slow = 10 * maxBig // so many that some have all turns before the next comes
	begun := make(chan error, slow)
	for range slow {
		conn, err := dialAs(w.socket, bob, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
		go func() {
			_, err := conn.Read(make([]byte, 1)) // the server asks for the body
			begun <- err
		}()
	}
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	w.person(alice).do("GET", "/v1/status", "")
	conn, err := dialAs(w.socket, alice, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(conn, "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "400") {
		t.Errorf("another user's request: %q, %v", line, err)
	}
}

// TestSecretsOfADocumentAreKeptApart from it: nothing that is kept or shown of the
// document holds them, and what was shown cannot be submitted.
func TestSecretsOfADocumentAreKeptApart(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	job := p.submit(`{"image":"busybox","girder":{"api_url":"https://girder.test/api/v1","api_key":"HUSH-1"},
		"outputs":[{"name":"o","url":"https://sink.test/","headers":{"X-Key":"HUSH-2"}}],
		"downloads":[{"name":"ct","file_id":"5f0c1d2e3a4b5c6d7e8f9a0b"}]}`)
	kept, err := w.queue.Job(job.ID)
	if err != nil {
		t.Fatal(err)
	}
	_, shown := p.do("GET", "/v1/jobs/"+job.ID, "")
	if strings.Contains(string(kept.Body)+string(shown), "HUSH") {
		t.Errorf("a secret is in %s or %s", kept.Body, shown)
	}
	data, err := w.queue.Secrets(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	var secrets transforms.Secrets
	if err := json.Unmarshal(data, &secrets); err != nil || secrets.APIKeys["girder"] != "HUSH-1" || secrets.Headers["o"]["X-Key"] != "HUSH-2" {
		t.Errorf("kept apart: %s, %v", data, err)
	}
	if e := p.refused("POST", "/v1/jobs", string(kept.Body), 400); e.Field != "girder.api_key" {
		t.Errorf("what was shown: %+v", e)
	}
	if e := p.refused("POST", "/v1/jobs", `{"image":"busybox","downloads":[{"name":"ct","file_id":"5f0c1d2e3a4b5c6d7e8f9a0b"}]}`, 400); e.Field != "girder" {
		t.Errorf("without a server: %+v", e)
	}
	// Its secrets are gone with it, so that a copy could do nothing.
	if status, body := p.do("POST", "/v1/jobs/"+job.ID+"/cancel", ""); status != 200 {
		t.Fatalf("%d: %s", status, body)
	}
	if e := p.refused("POST", "/v1/jobs/"+job.ID+"/retry", "", 409); !strings.Contains(e.Message, "submit its document again") {
		t.Errorf("a copy without secrets: %+v", e)
	}
}
