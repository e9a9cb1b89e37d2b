package api

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/plugin"
	"girderworker/queue"
)

// TestAccess asks every route as everybody: one row a route, one column a person.
func TestAccess(t *testing.T) {
	type row struct {
		route string // as in the table of routes
		body  string
		setup string // the state of the job of the path
		// statuses for the owner, another user, a member of the admin group, root
		owner, other, admin, root int
	}
	const job = `{"image":"busybox"}`
	rows := []row{
		{"GET /v1/version", "", "", 200, 200, 200, 200},
		{"GET /v1/status", "", "", 200, 200, 200, 200},
		{"POST /v1/jobs", job, "", 201, 201, 201, 201},
		{"GET /v1/jobs", "", "", 200, 200, 200, 200},
		{"GET /v1/jobs/{id}", "", "queued", 200, 404, 200, 200},
		{"DELETE /v1/jobs/{id}", "", "canceled", 200, 404, 200, 200},
		{"DELETE /v1/jobs/{id}", "", "queued", 409, 404, 409, 409},
		{"POST /v1/jobs/{id}/cancel", "", "queued", 200, 404, 200, 200},
		{"POST /v1/jobs/{id}/hold", "", "queued", 200, 404, 200, 200},
		{"POST /v1/jobs/{id}/hold", "", "canceled", 409, 404, 409, 409},
		{"POST /v1/jobs/{id}/release", "", "held", 200, 404, 200, 200},
		{"POST /v1/jobs/{id}/release", "", "queued", 409, 404, 409, 409},
		{"POST /v1/jobs/{id}/retry", "", "canceled", 201, 404, 201, 201},
		{"POST /v1/jobs/{id}/retry", "", "queued", 409, 404, 409, 409},
		{"GET /v1/jobs/{id}/why", "", "queued", 200, 404, 200, 200},
		{"GET /v1/jobs/{id}/log", "", "queued", 200, 404, 200, 200},
		{"GET /v1/jobs/{id}/wait", "", "canceled", 200, 404, 200, 200},
		{"GET /v1/jobs/{id}/result", "", "canceled", 200, 404, 200, 200},
		{"POST /v1/calls", `{"task": "lab.echo", "kwargs": {"text": "a"}}`, "", 201, 201, 201, 201},
		{"GET /v1/tasks", "", "", 200, 200, 200, 200},
		{"GET /v1/tasks/{name}", "", "", 200, 200, 200, 200},
		{"GET /v1/images", "", "", 200, 200, 200, 200},
		{"POST /v1/images", "archive", "", 201, 201, 201, 201},
		{"DELETE /v1/images?ref=busybox", "", "", 204, 204, 204, 204},
		{"POST /v1/images/pull?ref=busybox", "", "", 200, 200, 200, 200},
		{"POST /v1/images/pin?ref=busybox", "", "", 403, 403, 204, 204},
		{"POST /v1/images/unpin?ref=busybox", "", "", 403, 403, 204, 204},
		{"POST /v1/images/prune", "", "", 403, 403, 200, 200},
		{"POST /v1/images/verify?ref=busybox", "", "", 204, 204, 204, 204},
		{"POST /v1/pause", "", "", 403, 403, 200, 200},
		{"POST /v1/drain", "", "", 403, 403, 200, 200},
		{"POST /v1/resume", "", "", 403, 403, 200, 200},
		{"GET /v1/backup", "", "", 403, 403, 200, 200},
	}
	// It has no end of its own: TestEvents asks it as everybody.
	elsewhere := []string{"GET /v1/events"}
	for _, rt := range routes() {
		if !slices.Contains(elsewhere, rt.pattern) &&
			!slices.ContainsFunc(rows, func(r row) bool { return pattern(r.route) == rt.pattern }) {
			t.Errorf("no row for %s", rt.pattern)
		}
	}

	w := newWorker(t, func(c *Config, _ *queue.Options) {
		c.Tasks = new(plugin.Registry)
		c.Tasks.Set("files", []plugin.Task{echo()}, nil)
	})
	owner, other, admin, root := w.person(alice), w.person(bob), w.person(operator, adminGroup), w.person(0)
	for _, r := range rows {
		for _, asked := range []struct {
			who  string
			as   *person
			want int
		}{{"owner", owner, r.owner}, {"other", other, r.other}, {"admin", admin, r.admin}, {"root", root, r.root}} {
			method, path, _ := strings.Cut(r.route, " ")
			path = strings.ReplaceAll(path, "{name}", "lab.echo")
			if strings.Contains(path, "{id}") { // only then: it makes a job
				path = strings.ReplaceAll(path, "{id}", jobIn(owner, r.setup))
			}
			code, body := asked.as.do(method, path, r.body)
			if code != asked.want {
				t.Errorf("%s of a %s job as %s: %d, want %d: %s", r.route, r.setup, asked.who, code, asked.want, body)
			}
			if code >= 400 {
				if e := decodeAs[apitype.Failure](t, body).Error; e.Message == "" || status(e.Kind) != code {
					t.Errorf("%s as %s: envelope %+v for status %d", r.route, asked.who, e, code)
				}
			}
		}
	}
}

func pattern(route string) string {
	path, _, _ := strings.Cut(route, "?")
	return path
}

// jobIn submits a job as p and brings it into a state.
func jobIn(p *person, state string) string {
	id := p.submit(`{"image":"busybox"}`).ID
	switch state {
	case "canceled":
		p.do("POST", "/v1/jobs/"+id+"/cancel", "")
	case "held":
		p.do("POST", "/v1/jobs/"+id+"/hold", "")
	}
	return id
}

// TestOthersJobsDoNotExist: what is somebody else's answers as what is not.
func TestOthersJobsDoNotExist(t *testing.T) {
	w := newWorker(t, nil)
	owner, other := w.person(alice), w.person(bob)
	id := owner.submit(`{"image":"busybox"}`).ID
	theirs := other.refused("GET", "/v1/jobs/"+id, "", 404)
	none := other.refused("GET", "/v1/jobs/none", "", 404)
	if strings.Replace(theirs.Message, id, "X", 1) != strings.Replace(none.Message, "none", "X", 1) || theirs.Kind != none.Kind {
		t.Errorf("they differ: %+v and %+v", theirs, none)
	}
	if jobs := decodeAs[apitype.Jobs](t, second(other.do("GET", "/v1/jobs", ""))).Jobs; len(jobs) != 0 {
		t.Errorf("listed %+v", jobs)
	}
	other.refused("GET", "/v1/jobs?owner=64901", "", 403)
	for _, p := range []*person{owner, w.person(0), w.person(operator, adminGroup)} {
		if jobs := decodeAs[apitype.Jobs](t, second(p.do("GET", "/v1/jobs", ""))).Jobs; len(jobs) != 1 || jobs[0].ID != id {
			t.Errorf("uid %d: listed %+v", p.uid, jobs)
		}
	}
	// Nobody learns how somebody else's job ends by waiting for it.
	refused := other.refused("POST", "/v1/jobs", `{"image":"busybox","after":["`+id+`"]}`, 400)
	if refused.Field != "after" {
		t.Errorf("got %+v", refused)
	}
}

func second[A, B any](_ A, b B) B { return b }

// TestIdentity: the kernel's word, all groups included, is what the job gets.
func TestIdentity(t *testing.T) {
	w := newWorker(t, nil)
	var groups []int
	for g := range 100 { // more than the first buffer has room for
		groups = append(groups, 50000+g)
	}
	id := w.person(alice, groups...).submit(`{"image":"busybox"}`).ID
	job, err := w.queue.Job(id)
	if err != nil {
		t.Fatal(err)
	}
	if job.Owner != "uid:64901" || job.Identity.UID != alice || job.Identity.GID != alice {
		t.Errorf("got %q, %+v", job.Owner, job.Identity)
	}
	for _, g := range groups {
		if !slices.Contains(job.Identity.Groups, g) {
			t.Fatalf("group %d is missing from %v", g, job.Identity.Groups)
		}
	}
	id = w.person(0).submit(`{"image":"busybox"}`).ID
	if job, err = w.queue.Job(id); err != nil || job.Owner != "uid:0" || job.Identity.UID != 64999 {
		t.Errorf("root's job: %q, %+v, %v", job.Owner, job.Identity, err)
	}
}

// TestUnidentified: a peer that the kernel cannot name may ask for the version
// and nothing else, and does no harm to the listener.
func TestUnidentified(t *testing.T) {
	w := newWorker(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(l) }()
	for _, rt := range routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+l.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		want := http.StatusUnauthorized
		if path == "/v1/version" {
			want = http.StatusOK
		}
		if answer.StatusCode != want {
			t.Errorf("%s: %d, want %d", rt.pattern, answer.StatusCode, want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	l.Close()
	<-served // "use of closed network connection"; the other listener is another's test
	if code, _ := w.person(alice).do("GET", "/v1/status", ""); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}

// TestConnectionLimit: one user cannot keep the others out, nor lock themselves out with
// connections that they only keep.
func TestConnectionLimit(t *testing.T) {
	w := newWorker(t, nil, func(s *Server) { s.conns.perUser = 2 })
	hold := func(uid int, path string) net.Conn {
		conn, err := dialAs(w.socket, uid, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		// Answered, so that the server has counted the connection.
		if _, err := conn.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	first := hold(alice, "/v1/events")
	hold(alice, "/v1/events")
	greedy := w.person(alice)
	if e := greedy.refused("GET", "/v1/status", "", 503); e.Kind != apitype.KindUnavailable {
		t.Errorf("got %+v", e)
	}
	if code, _ := w.person(bob).do("GET", "/v1/status", ""); code != 200 {
		t.Errorf("another user: %d", code)
	}
	first.Close()
	for { // until the server has seen it closed
		if code, _ := greedy.do("GET", "/v1/status", ""); code == 200 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the closed connection is still counted")
		}
	}

	const carol = 64909
	kept := []net.Conn{hold(carol, "/v1/version"), hold(carol, "/v1/version")}
	for { // until the server has seen that their answers have ended
		if code, _ := w.person(carol).do("GET", "/v1/status", ""); code == 200 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("connections that are only kept are in the way")
		}
	}
	closed := make(chan error, len(kept))
	for _, conn := range kept {
		go func() {
			_, err := io.Copy(io.Discard, conn)
			closed <- err
		}()
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestNoRoute(t *testing.T) {
	w := newWorker(t, nil)
	p := w.person(alice)
	p.refused("GET", "/v1/nothing", "", 404)
	p.refused("GET", "/", "", 404)
	answer := p.open(t.Context(), "PUT", "/v1/jobs", nil, "")
	answer.Body.Close()
	if answer.StatusCode != 405 || !slices.Equal(answer.Header.Values("Allow"), []string{"GET", "POST"}) {
		t.Errorf("PUT: %d, Allow %v", answer.StatusCode, answer.Header.Values("Allow"))
	}
}

// TestPanic: a defect in one request is that request's.
func TestPanic(t *testing.T) {
	w := newWorker(t, nil)
	w.panicking = true
	if e := w.person(alice).refused("GET", "/v1/status", "", 500); e.Kind != apitype.KindInternal {
		t.Errorf("got %+v", e)
	}
	w.panicking = false
	if code, _ := w.person(alice).do("GET", "/v1/status", ""); code != 200 {
		t.Errorf("afterwards: %d", code)
	}
}
