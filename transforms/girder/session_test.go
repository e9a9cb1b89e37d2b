package girder_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"girderworker/transforms/girder"
	"girderworker/transforms/girder/girdertest"
)

func TestParseSession(t *testing.T) {
	got, err := girder.ParseSession(map[string]any{
		"verify": "/etc/ca.pem", "cert": []any{"/c.pem", "/k.pem"},
		"headers": map[string]any{"X-Lab": "yes"}, "proxies": map[string]any{"https": "http://proxy:3128"},
	})
	want := girder.Session{CAFile: "/etc/ca.pem", CertFile: "/c.pem", KeyFile: "/k.pem", Headers: map[string]string{"X-Lab": "yes"}, Proxies: map[string]string{"https": "http://proxy:3128"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, c := range []struct {
		in   map[string]any
		want girder.Session
	}{
		{nil, girder.Session{}},
		{map[string]any{"verify": true}, girder.Session{}},
		{map[string]any{"verify": false}, girder.Session{Insecure: true}},
		{map[string]any{"verify": nil, "cert": nil, "headers": nil}, girder.Session{}},
		{map[string]any{"cert": "/both.pem"}, girder.Session{CertFile: "/both.pem"}},
	} {
		if got, err := girder.ParseSession(c.in); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: got %+v, %v", c.in, got, err)
		}
	}
	_, err = girder.ParseSession(map[string]any{"verify": 1.5, "cert": []any{"a"}, "headers": "x", "proxies": map[string]any{"http": 1}, "trust_env": false})
	for _, key := range []string{"verify", "cert", "headers", "proxies", "trust_env"} {
		if err == nil || !strings.Contains(err.Error(), `"`+key+`"`) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}

// tlsServer puts TLS in front of a fake Girder, and returns a file with its certificate.
func tlsServer(t *testing.T, w *world, change func(*tls.Config)) (api, caFile string) {
	target, err := url.Parse(strings.TrimSuffix(w.API(), "/api/v1"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(forward(target))
	server.TLS = &tls.Config{}
	change(server.TLS)
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells every handshake that fails
	server.StartTLS()
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL + "/api/v1", caFile
}

// forward passes requests on to another server.
func forward(target *url.URL) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI = target.Scheme, target.Host, ""
		response, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer response.Body.Close()
		for k, v := range response.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(response.StatusCode)
		io.Copy(w, response.Body)
	})
}

func TestVerify(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	api, ca := tlsServer(t, w, func(*tls.Config) {})
	other, _ := selfSigned(t)
	for name, c := range map[string]struct {
		session girder.Session
		says    string // empty: it works
	}{
		"unknown":  {girder.Session{}, `(of "O=Acme Co", signed by "O=Acme Co") is not signed by an authority that is known here; a session`},
		"other":    {girder.Session{CAFile: other}, "is not signed by an authority in " + other},
		"trusted":  {girder.Session{CAFile: ca}, ""},
		"insecure": {girder.Session{Insecure: true}, ""},
	} {
		client := newClient(t, girder.Config{API: api, Token: w.token, Session: c.session, Sleep: w.pauses.sleep})
		if _, err := client.Item(t.Context(), w.item); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if w.pauses.count() != 0 {
		t.Errorf("a certificate that is not trusted was tried again after %v", w.pauses.took)
	}
}

func TestClientCertificate(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	api, ca := tlsServer(t, w, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	without := newClient(t, girder.Config{API: api, Token: w.token, Session: girder.Session{CAFile: ca}, Retry: girder.Retry{Attempts: 1}})
	if _, err := without.Item(t.Context(), w.item); err == nil {
		t.Error("no certificate was asked for")
	}
	cert, key := selfSigned(t)
	with := newClient(t, girder.Config{API: api, Token: w.token, Session: girder.Session{CAFile: ca, CertFile: cert, KeyFile: key}})
	if _, err := with.Item(t.Context(), w.item); err != nil {
		t.Error(err)
	}
}

func TestHeadersAndProxies(t *testing.T) {
	w := newWorld(t, girdertest.Config{})
	target, _ := url.Parse(w.API())
	seen := make(chan string, 10)
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		seen <- r.URL.Host
		forward(target).ServeHTTP(rw, r)
	}))
	defer proxy.Close()
	for _, key := range []string{"http", "http://girder.test", "all"} {
		c := newClient(t, girder.Config{API: "http://girder.test/api/v1", Token: w.token, Session: girder.Session{
			Headers: map[string]string{"X-Lab": "yes", "User-Agent": "not this"},
			Proxies: map[string]string{key: strings.TrimPrefix(proxy.URL, "http://")},
		}})
		if _, err := c.Item(t.Context(), w.item); err != nil {
			t.Fatal(err)
		}
		if host := <-seen; host != "girder.test" {
			t.Errorf("the proxy was asked for %s", host)
		}
	}
	for _, call := range w.Calls("") {
		if call.Header.Get("X-Lab") != "yes" || call.Header.Get("User-Agent") != "girder-worker" {
			t.Errorf("called with %v", call.Header)
		}
	}
}

// elsewhere is another server, which must never see a token.
func elsewhere(t *testing.T, answer string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.EqualFold(name, "Girder-Token") || strings.EqualFold(name, "X-Lab") {
				t.Errorf("%s went to another server", name)
			}
		}
		if r.Method != http.MethodGet {
			t.Errorf("a %s went to another server", r.Method)
		}
		w.Write([]byte(answer))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestRedirects(t *testing.T) {
	w := newWorld(t, girdertest.Config{}, func(c *girder.Config) {
		c.Session.Headers = map[string]string{"X-Lab": "yes"}
	})
	ctx := t.Context()
	status := girder.JobRunning
	job, jobToken := w.AddJob(w.user, "celery_handler")
	reporter := newClient(t, girder.Config{API: w.API(), Token: jobToken, Sleep: w.pauses.sleep})
	other := elsewhere(t, "contents from elsewhere")

	// Assetstores answer downloads with another address.
	file := w.AddFile(w.item, "f", []byte("contents from elsewhere"))
	doc, err := w.c.File(ctx, file)
	if err != nil {
		t.Fatal(err)
	}
	w.Fail("GET /file/{id}/download", 1, girdertest.Redirect(303, other+"/bucket/key?signature=secret"))
	if got, err := readAll(w.c.Download(ctx, doc)); string(got) != "contents from elsewhere" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	link, err := w.c.File(ctx, w.AddLink(w.item, "link", other+"/page"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(w.c.Download(ctx, link)); string(got) != "contents from elsewhere" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	// The same server at another path keeps the token.
	w.Fail("GET /item/{id}", 1, girdertest.Redirect(302, "/api/v1/item/"+w.item))
	if _, err := w.c.Item(ctx, w.item); err != nil {
		t.Error(err)
	}
	w.Fail("PUT /job/{id}", 1, girdertest.Redirect(307, "/api/v1/job/"+job))
	if _, err := reporter.UpdateJob(ctx, job, girder.JobReport{Status: &status}); err != nil || w.Job(job).Status != 2 {
		t.Errorf("a report that was sent on: %v", err)
	}

	for name, location := range map[string]string{"found": other + "/x", "no http": "file:///etc/passwd", "loop": "/api/v1/job/" + job} {
		for _, code := range []int{301, 302, 303, 307, 308} {
			if name == "loop" && code >= 307 {
				continue // allowed, above
			}
			w.Fail("PUT /job/{id}", 1, girdertest.Redirect(code, location))
			_, err := reporter.UpdateJob(ctx, job, girder.JobReport{Log: "x"})
			if !errors.Is(err, girder.ErrRedirect) || errors.Is(err, girder.ErrUncertain) {
				t.Errorf("%s, %d: got %v", name, code, err)
			}
		}
	}
	w.Fail("GET /file/{id}/download", 100, girdertest.Redirect(302, "/api/v1/file/"+file+"/download"))
	if _, err := w.c.Download(ctx, doc); !errors.Is(err, girder.ErrRedirect) {
		t.Errorf("a circle: got %v", err)
	}
	if log := w.Job(job).Log; len(log) != 0 {
		t.Errorf("the log is %q", log)
	}
	if w.pauses.count() != 0 {
		t.Errorf("waited %v", w.pauses.took)
	}
}
