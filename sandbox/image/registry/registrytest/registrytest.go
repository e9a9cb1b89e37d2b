// Package registrytest is a registry in memory, on loopback, that can be told to
// want credentials and to misbehave.
package registrytest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"girderworker/sandbox/image/imagetest"
)

// Server is a registry.
type Server struct {
	*httptest.Server
	// Host is HOST:PORT, as references have it.
	Host string

	mu    sync.Mutex
	fault func(w http.ResponseWriter, r *http.Request, next http.Handler)
	seen  []Seen
	store http.Handler
	auth  auth
}

// Seen is a request that came.
type Seen struct {
	Path, Authorization, Range string
}

type auth struct {
	user, password string
	bearer         bool
}

// New starts a registry; t stops it. With secure it speaks TLS.
func New(t testing.TB, secure bool) *Server {
	t.Helper()
	s := &Server{store: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	if secure {
		s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
		s.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.Server.StartTLS()
	} else {
		s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	}
	t.Cleanup(s.Server.Close)
	_, s.Host, _ = strings.Cut(s.Server.URL, "://")
	return s
}

// Login has the registry want a user and a password: at every request, or with
// bearer at its own token service.
func (s *Server) Login(user, password string, bearer bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.auth = auth{user, password, bearer}
}

// Fault answers requests for a registry that misbehaves; nil ends that.
func (s *Server) Fault(f func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// Seen returns the requests since the last call.
func (s *Server) Seen() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.seen = append(s.seen, Seen{r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Range")})
	fault, auth := s.fault, s.auth
	s.mu.Unlock()
	user, password, basic := r.BasicAuth()
	known := auth.user == "" || basic && user == auth.user && password == auth.password
	switch {
	case r.URL.Path == "/token" && known:
		fmt.Fprint(w, `{"token":"a-token"}`)
		return
	case auth.bearer && r.Header.Get("Authorization") != "Bearer a-token":
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, s.URL))
		w.WriteHeader(http.StatusUnauthorized)
		return
	case !auth.bearer && !known:
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if fault != nil {
		fault(w, r, s.store)
		return
	}
	s.store.ServeHTTP(w, r)
}

// CAFile writes the certificate of a TLS server into a file.
func (s *Server) CAFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(name, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// AuthFile writes credentials as `docker login` does.
func (s *Server) AuthFile(t testing.TB, user, password string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "auth.json")
	text, err := json.Marshal(map[string]any{"auths": map[string]any{s.Host: map[string]string{"username": user, "password": password}}})
	if err == nil {
		err = os.WriteFile(name, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Digest of data, as a registry writes it.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Push puts the first image or index of an OCI layout where a client finds it by
// tag, past all credentials and faults, and returns its digest.
func (s *Server) Push(t testing.TB, repo, tag string, files map[string][]byte) string {
	t.Helper()
	digest, err := imagetest.TopDigest(files)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if strings.HasPrefix(name, "blobs/") {
			s.PushBlob(t, repo, data)
		}
	}
	// Manifests below an index come first.
	for _, indexes := range []bool{false, true} {
		for name, data := range files {
			var m struct {
				MediaType string
				Config    json.RawMessage
				Manifests json.RawMessage
			}
			if strings.HasPrefix(name, "blobs/") && json.Unmarshal(data, &m) == nil && m.MediaType != "" && len(m.Manifests) > 0 == indexes {
				s.PushManifest(t, repo, Digest(data), m.MediaType, data)
			}
		}
	}
	top := files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]
	var m struct{ MediaType string }
	if err := json.Unmarshal(top, &m); err != nil {
		t.Fatal(err)
	}
	s.PushManifest(t, repo, tag, m.MediaType, top)
	return digest
}

// PushSignature puts a signature beside an image, as cosign does.
func (s *Server) PushSignature(t testing.TB, repo, digest string, payload, value []byte) {
	t.Helper()
	manifest, blobs, err := imagetest.SignatureManifest(payload, value)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		s.PushBlob(t, repo, b)
	}
	s.PushManifest(t, repo, strings.Replace(digest, ":", "-", 1)+".sig", "application/vnd.oci.image.manifest.v1+json", manifest)
}

// PushBlob puts a blob into a repository.
func (s *Server) PushBlob(t testing.TB, repo string, data []byte) {
	t.Helper()
	s.put(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+Digest(data), "application/octet-stream", data)
}

// PushManifest puts a manifest or an index under a tag or its digest.
func (s *Server) PushManifest(t testing.TB, repo, ref, kind string, data []byte) {
	t.Helper()
	s.put(t, http.MethodPut, "/v2/"+repo+"/manifests/"+ref, kind, data)
}

func (s *Server) put(t testing.TB, method, path, kind string, data []byte) {
	t.Helper()
	r := httptest.NewRequest(method, path, bytes.NewReader(data))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	s.store.ServeHTTP(w, r)
	if w.Code != http.StatusCreated && w.Code != http.StatusAccepted {
		t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}
