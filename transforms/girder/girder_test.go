package girder_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"girderworker/transforms/girder"
	"girderworker/transforms/girder/girdertest"
)

// world is a server with one user, who has a folder and an item, and a client.
type world struct {
	*girdertest.Server
	user, folder, item string
	token              string
	c                  *girder.Client
	pauses             *pauses
}

// pauses takes the place of sleeping.
type pauses struct {
	mu   sync.Mutex
	took []time.Duration
	then func() // at each pause
}

func (p *pauses) sleep(ctx context.Context, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took = append(p.took, d)
	if p.then != nil {
		p.then()
	}
	return context.Cause(ctx)
}

func (p *pauses) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.took)
}

func newWorld(t *testing.T, server girdertest.Config, change ...func(*girder.Config)) *world {
	t.Helper()
	w := &world{Server: girdertest.New(t, server), pauses: &pauses{}}
	w.user = w.AddUser(false)
	w.folder = w.AddFolder(w.user, "Private")
	w.item = w.AddItem(w.folder, "item")
	w.token = w.AddToken(w.user, girdertest.ScopeRead, girdertest.ScopeWrite)
	config := girder.Config{API: w.API(), Token: w.token, Sleep: w.pauses.sleep}
	for _, f := range change {
		f(&config)
	}
	w.c = newClient(t, config)
	return w
}

func newClient(t *testing.T, config girder.Config) *girder.Client {
	t.Helper()
	c, err := girder.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

const nobody = "000000000000000000000000"

func TestConfig(t *testing.T) {
	for _, bad := range []girder.Config{
		{},
		{API: "girder.test/api/v1"},
		{API: "ftp://girder.test/api/v1"},
		{API: "http://user:password@girder.test/api/v1"},
		{API: "http://girder.test/api/v1?token=secret"},
		{API: "http://girder.test", ChunkSize: 65 << 20},
		{API: "http://girder.test", ChunkSize: -1},
		{API: "http://girder.test", Session: girder.Session{CAFile: "/no/such/file"}},
		{API: "http://girder.test", Session: girder.Session{CAFile: "/dev/zero"}},
		{API: "http://girder.test", Session: girder.Session{CAFile: "/etc/passwd"}},
		{API: "http://girder.test", Session: girder.Session{CertFile: "/etc/passwd"}},
		{API: "http://girder.test", Session: girder.Session{Headers: map[string]string{"girder-token": "x"}}},
		{API: "http://girder.test", Session: girder.Session{Proxies: map[string]string{"http": "http://"}}},
	} {
		if _, err := girder.New(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		} else if s := err.Error(); strings.Contains(s, "password") && strings.Contains(s, "user:") || strings.Contains(s, "secret") {
			t.Errorf("the error tells a secret: %v", err)
		}
	}
	c := newClient(t, girder.Config{API: "http://girder.test/api/v1//"})
	if c.API() != "http://girder.test/api/v1" {
		t.Errorf("API is %s", c.API())
	}
}

func TestSplitJobURL(t *testing.T) {
	api, id, err := girder.SplitJobURL("http://127.0.0.1:8090/api/v1/job/6b00f6cc4c398922d75c6423")
	if api != "http://127.0.0.1:8090/api/v1" || id != "6b00f6cc4c398922d75c6423" || err != nil {
		t.Errorf("got %q, %q, %v", api, id, err)
	}
	for _, bad := range []string{"", "http://h/api/v1/job/", "http://h/api/v1/item/6b00f6cc4c398922d75c6423", "http://h/job/../6b00f6cc4c398922d75c6423", "http://h/job/6b00f6cc4c398922d75c6423?a=b"} {
		if _, _, err := girder.SplitJobURL(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestDocuments(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	ctx := t.Context()
	id := w.AddFile(w.item, "a.txt", []byte("hello"))
	f, err := w.c.File(ctx, id)
	if err != nil || f.Name != "a.txt" || f.Size == nil || *f.Size != 5 || f.ItemID != w.item || f.MimeType != "application/octet-stream" || f.Created.IsZero() {
		t.Errorf("got %+v, %v", f, err)
	}
	link := w.AddLink(w.item, "link", "http://elsewhere.test/")
	if f, err := w.c.File(ctx, link); err != nil || f.Size != nil || f.LinkURL != "http://elsewhere.test/" {
		t.Errorf("got %+v, %v", f, err)
	}
	if i, err := w.c.Item(ctx, w.item); err != nil || i.Name != "item" || i.FolderID != w.folder {
		t.Errorf("got %+v, %v", i, err)
	}
	if d, err := w.c.Folder(ctx, w.folder); err != nil || d.Name != "Private" || d.ParentID != w.user || d.ParentType != "user" {
		t.Errorf("got %+v, %v", d, err)
	}
	if v, err := w.c.Version(ctx); err != nil || v != "3.2.9" {
		t.Errorf("got %q, %v", v, err)
	}
	for _, call := range w.Calls("") {
		if call.Header.Get("Girder-Token") != w.token || call.Header.Get("User-Agent") != "girder-worker" {
			t.Errorf("%s was called with %v", call.Route, call.Header)
		}
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	ctx := t.Context()
	other := w.AddItem(w.AddFolder(w.AddUser(false), "Private"), "theirs")
	anonymous := newClient(t, girder.Config{API: w.API()})
	get := func(c *girder.Client, id string) error { _, err := c.Item(ctx, id); return err }
	for name, c := range map[string]struct {
		err  error
		want error
		says string
	}{
		"unknown":   {get(w.c, nobody), girder.ErrNoSuch, "Girder answered 400 to GET item/" + nobody + ": Invalid item id (" + nobody + ")."},
		"malformed": {get(w.c, "../file"), nil, `cannot use "../file" as the id of a Girder item: want 24 hexadecimal digits`},
		"theirs":    {get(w.c, other), girder.ErrDenied, "403"},
		"anonymous": {get(anonymous, w.item), girder.ErrDenied, "401"},
	} {
		if c.err == nil || c.want != nil && !errors.Is(c.err, c.want) || !strings.Contains(c.err.Error(), c.says) {
			t.Errorf("%s: got %v; want %v, %q", name, c.err, c.want, c.says)
		}
	}
	var status *girder.StatusError
	if err := get(w.c, nobody); !errors.As(err, &status) || status.Status != 400 || status.Type != "rest" {
		t.Errorf("got %#v", status)
	}
	if w.pauses.count() != 0 {
		t.Errorf("waited %v for what does not mend", w.pauses.took)
	}
}

func TestPages(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	var want []string
	for i := range 120 {
		name := string(rune('a'+i/26)) + string(rune('a'+i%26))
		w.AddItem(w.folder, name)
		w.AddFolder(w.folder, "folder "+name)
		w.AddFile(w.item, name, nil)
		want = append(want, name)
	}
	var files, folders, items []string
	for f, err := range w.c.ItemFiles(t.Context(), w.item) {
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f.Name)
	}
	for f, err := range w.c.Subfolders(t.Context(), w.folder) {
		if err != nil {
			t.Fatal(err)
		}
		folders = append(folders, strings.TrimPrefix(f.Name, "folder "))
	}
	for i, err := range w.c.FolderItems(t.Context(), w.folder) {
		if err != nil {
			t.Fatal(err)
		}
		if i.Name != "item" {
			items = append(items, i.Name)
		}
	}
	for kind, got := range map[string][]string{"files": files, "folders": folders, "items": items} {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d of them: %v", kind, len(got), got)
		}
	}
	if n := len(w.Calls("GET /item/{id}/files")); n != 3 {
		t.Errorf("%d pages of files", n)
	}
	for _, err := range w.c.ItemFiles(t.Context(), nobody) {
		if !errors.Is(err, girder.ErrNoSuch) {
			t.Errorf("got %v", err)
		}
	}
}

// A server that always has another page, or more in it than was asked for.
func TestPagesThatNeverEnd(t *testing.T) {
	for _, n := range []int{50, 51} {
		entry := `{"_id": "` + nobody + `", "name": "x"}`
		page := "[" + strings.Repeat(entry+",", n-1) + entry + "]"
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(page)) }))
		defer server.Close()
		c := newClient(t, girder.Config{API: server.URL})
		var last error
		for _, last = range c.FolderItems(t.Context(), nobody) {
		}
		if !errors.Is(last, girder.ErrAnswer) {
			t.Errorf("%d entries: got %v", n, last)
		}
	}
}

func TestFolder(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	a, err := w.c.MakeFolder(t.Context(), w.folder, "out")
	if err != nil {
		t.Fatal(err)
	}
	w.Fail("POST /folder", 1, girdertest.DropAfter())
	b, err := w.c.MakeFolder(t.Context(), w.folder, "out")
	if err != nil || a.ID != b.ID {
		t.Errorf("got %+v and %+v, %v", a, b, err)
	}
	if got := w.Tree(w.folder); !slices.Equal(got, []string{"item/", "out/"}) {
		t.Errorf("the folder holds %q", got)
	}
}

func TestRetries(t *testing.T) {
	transient := map[string]girdertest.Fault{
		"429": girdertest.Status(429), "500": girdertest.Status(500), "502": girdertest.Status(502), "503": girdertest.Status(503), "504": girdertest.Status(504),
		"drop before": girdertest.DropBefore(), "drop after": girdertest.DropAfter(), "truncate": girdertest.Truncate(20),
		"garbage": girdertest.Garbage(), "hang": girdertest.Hang(), "stall": girdertest.Stall(20),
	}
	for name, fault := range transient {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, girdertest.Config{}, func(c *girder.Config) {
				c.Retry.Attempts = 3
				if name == "hang" || name == "stall" {
					c.Timeout = time.Second
				}
			})
			w.Fail("GET /item/{id}", 2, fault)
			if i, err := w.c.Item(t.Context(), w.item); err != nil || i.Name != "item" {
				t.Fatalf("got %+v, %v", i, err)
			}
			if w.pauses.count() != 2 {
				t.Errorf("waited %v", w.pauses.took)
			}
			w.Fail("GET /item/{id}", -1, fault)
			if i, err := w.c.Item(t.Context(), w.item); err == nil {
				t.Errorf("got %+v in the end", i)
			} else if strings.Contains(err.Error(), w.token) {
				t.Errorf("the error tells the token: %v", err)
			}
			// A GET that breaks on a connection which was idle is tried once more by net/http.
			if n := len(w.Calls("GET /item/{id}")); n < 3+3 || n > 3+4 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

func TestPausesGrow(t *testing.T) {
	w := newWorld(t, girdertest.Config{}, func(c *girder.Config) {
		c.Retry = girder.Retry{Attempts: 6, First: time.Second, Max: 5 * time.Second}
	})
	w.Fail("", -1, girdertest.Status(502))
	if _, err := w.c.Item(t.Context(), w.item); err == nil {
		t.Fatal("no error")
	}
	for i, d := range w.pauses.took {
		most := []time.Duration{1, 2, 4, 5, 5}[i] * time.Second
		if d > most || d < most/2 {
			t.Errorf("pause %d is %v, want %v to %v", i, d, most/2, most)
		}
	}
	w.Mend()
	w.pauses.took = nil
	w.Fail("", 1, girdertest.Busy(429, 17*time.Second))
	w.Fail("", 1, girdertest.Busy(503, 24*time.Hour))
	if _, err := w.c.Item(t.Context(), w.item); err != nil {
		t.Fatal(err)
	}
	if want := []time.Duration{17 * time.Second, 5 * time.Minute}; !slices.Equal(w.pauses.took, want) {
		t.Errorf("waited %v, want %v", w.pauses.took, want)
	}
}

// TestTenMinutes: a server that answers 500 for ten minutes is outlasted by whoever
// waits for longer, and told of by whoever does not.
func TestTenMinutes(t *testing.T) {
	for patience, want := range map[time.Duration]bool{6 * time.Hour: true, 11 * time.Minute: true, 5 * time.Minute: false} {
		w := newWorld(t, girdertest.Config{}, func(c *girder.Config) { c.Retry = girder.Retry{}.For(patience) })
		waited := func() (sum time.Duration) {
			for _, d := range w.pauses.took {
				sum += d
			}
			return sum
		}
		w.Fail("", -1, girdertest.Status(500))
		w.pauses.then = func() {
			if waited() >= 10*time.Minute*9/10 {
				w.Mend()
			}
		}
		_, err := w.c.Item(t.Context(), w.item)
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "Girder answered 500 to GET item/") {
			t.Errorf("waiting for %v: %v", patience, err)
		}
		if sum := waited(); !want && (sum < patience*2/3 || sum > patience*4/3) {
			t.Errorf("it gave up after %v of %v", sum, patience)
		}
	}
}

func TestContextEndsWaiting(t *testing.T) {
	gone := errors.New("the job was canceled")
	w := newWorld(t, girdertest.Config{})
	ctx, cancel := context.WithCancelCause(t.Context())
	w.Fail("", -1, girdertest.Status(500))
	w.pauses.then = func() { cancel(gone) }
	if _, err := w.c.Item(ctx, w.item); !errors.Is(err, gone) {
		t.Errorf("during a pause: got %v", err)
	}
	w.Mend()
	w.Fail("", -1, girdertest.Hang())
	ctx, cancel = context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	before := len(w.Calls(""))
	go func() { _, err := w.c.Item(ctx, w.item); done <- err }()
	for len(w.Calls("")) == before {
		time.Sleep(time.Millisecond)
	}
	cancel(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Errorf("during a call: got %v", err)
	}
}

func TestAnswerIsBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte(`{"name": "`))
		for range 33 {
			w.Write(make([]byte, 1<<20))
		}
	}))
	defer server.Close()
	c := newClient(t, girder.Config{API: server.URL, Retry: girder.Retry{Attempts: 1}})
	if _, err := c.Item(t.Context(), nobody); !errors.Is(err, girder.ErrAnswer) || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

// An answer about something else than what was asked for is not used.
func TestAnswerIsTheOneAskedFor(t *testing.T) {
	for _, answer := range []string{`{}`, `null`, `[]`, `"x"`, `{"_id": "111111111111111111111111"}`, `{"_id": 5}`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(answer)) }))
		defer server.Close()
		c := newClient(t, girder.Config{API: server.URL, Retry: girder.Retry{Attempts: 1}})
		if f, err := c.File(t.Context(), nobody); !errors.Is(err, girder.ErrAnswer) {
			t.Errorf("%s: got %+v, %v", answer, f, err)
		}
		if f, err := c.Job(t.Context(), nobody); !errors.Is(err, girder.ErrAnswer) {
			t.Errorf("%s: got %+v, %v", answer, f, err)
		}
	}
}

func TestErrorsAreFitForALog(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(400)
		w.Write([]byte(`{"type": "rest", "message": "\u001b[31mred\n` + strings.Repeat("x", 5000) + `"}`))
	}))
	defer server.Close()
	c := newClient(t, girder.Config{API: server.URL})
	_, err := c.Item(t.Context(), nobody)
	if s := err.Error(); strings.ContainsAny(s, "\x1b\n") || len(s) > 700 {
		t.Errorf("got %q", s)
	}
}

func TestAPIKey(t *testing.T) {
	now := time.Now()
	w := newWorld(t, girdertest.Config{Now: func() time.Time { return now }})
	key := w.AddAPIKey(w.user)
	c := newClient(t, girder.Config{API: w.API(), APIKey: key, Sleep: w.pauses.sleep, Now: func() time.Time { return now }})
	get := func() {
		t.Helper()
		if _, err := c.Item(t.Context(), w.item); err != nil {
			t.Fatal(err)
		}
	}
	tokens := func() int { return len(w.Calls("POST /api_key/token")) }
	get()
	get()
	if tokens() != 1 {
		t.Errorf("%d tokens for two calls", tokens())
	}
	now = now.Add(7 * 24 * time.Hour * 95 / 100) // it would end soon
	get()
	if tokens() != 2 {
		t.Errorf("%d tokens, want a second one before the first ends", tokens())
	}
	calls := w.Calls("GET /item/{id}")
	w.RevokeToken(calls[len(calls)-1].Header.Get("Girder-Token"))
	get()
	if tokens() != 3 {
		t.Errorf("%d tokens, want a third one for the one that was refused", tokens())
	}
	ahead := newClient(t, girder.Config{API: w.API(), APIKey: key, Now: func() time.Time { return now.AddDate(10, 0, 0) }})
	for range 3 {
		if _, err := ahead.Item(t.Context(), w.item); err != nil {
			t.Fatal(err)
		}
	}
	if tokens() != 4 {
		t.Errorf("%d tokens, want one more for a client whose clock is ahead", tokens())
	}
	w.Fail("POST /api_key/token", 2, girdertest.Status(500))
	calls = w.Calls("GET /item/{id}")
	w.RevokeToken(calls[len(calls)-1].Header.Get("Girder-Token"))
	get()

	for _, call := range w.Calls("POST /api_key/token") {
		if call.Header.Get("Girder-Token") != "" {
			t.Error("an old token went along")
		}
	}
	wrong := newClient(t, girder.Config{API: w.API(), APIKey: "no-such-key"})
	if _, err := wrong.Item(t.Context(), w.item); err == nil || strings.Contains(err.Error(), "no-such-key") || !strings.Contains(err.Error(), "API key") {
		t.Errorf("got %v", err)
	}
	// A log must not be lost or appended twice because of a token.
	job, _ := w.AddJob(w.user, "celery_handler")
	w.Fail("POST /api_key/token", 1, girdertest.DropAfter())
	calls = w.Calls("GET /item/{id}")
	w.RevokeToken(calls[len(calls)-1].Header.Get("Girder-Token"))
	if _, err := c.UpdateJob(t.Context(), job, girder.JobReport{Log: "once\n"}); err != nil {
		t.Fatal(err)
	}
	if got := w.Job(job).Log; !slices.Equal(got, []string{"once\n"}) {
		t.Errorf("the log is %q", got)
	}
}

func TestCleanName(t *testing.T) {
	long := strings.Repeat("é", 200) + ".tar"
	for in, want := range map[string]string{
		"a.txt": "a.txt", "a/b": "a_b", "/etc/passwd": "_etc_passwd", "../../x": ".._.._x", ".": "_.", "..": "_..", "": "_",
		"...": "...", "a\x00b": "a_b", "\x00": "_", "/": "_", "a b\n": "a b\n", "\xff": "_", "-rf": "-rf", strings.Repeat("x", 255): strings.Repeat("x", 255),
	} {
		if got := girder.CleanName(in); got != want {
			t.Errorf("CleanName(%q) = %q, want %q", in, got, want)
		}
	}
	a, b := girder.CleanName(long), girder.CleanName(strings.Repeat("é", 201)+".tar")
	if len(a) > 255 || len(a) < 250 || !strings.HasSuffix(a, ".tar") || a == b {
		t.Errorf("got %d bytes %q and %q", len(a), a, b)
	}
}

func FuzzCleanName(f *testing.F) {
	f.Add("..")
	f.Add(strings.Repeat("é", 300) + ".x/")
	f.Fuzz(func(t *testing.T, name string) {
		got := girder.CleanName(name)
		if got == "" || got == "." || got == ".." || len(got) > 255 || strings.ContainsAny(got, "/\x00") || got != strings.ToValidUTF8(got, "") {
			t.Errorf("CleanName(%q) = %q", name, got)
		}
		if girder.CleanName(got) != got {
			t.Errorf("CleanName(%q) is not clean", name)
		}
	})
}
