// Package girdertest is a Girder server for tests: real HTTP on the loopback
// interface, with users, tokens, folders, items, files, uploads and jobs that
// behave as a Girder 3.2 was seen to behave, and with faults on command.
package girdertest

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// Scopes of tokens.
const (
	ScopeRead      = "core.data.read"
	ScopeWrite     = "core.data.write"
	ScopeCreateJob = "jobs.rest.create_job"
	scopeAll       = "core.user_auth" // stands for every scope but ScopeCreateJob
)

// Config is what an administrator of the server may set.
type Config struct {
	// MinChunk is core.upload_minimum_chunk_size in bytes; 0 means 5 MiB.
	MinChunk int64
	// SHA512 makes file documents tell the hash, as the plugin hashsum_download does.
	SHA512 bool
	// LogLimit, when not 0, is about how many bytes of a job's log are kept, as
	// Girder does since 2026: with each piece, the limit divided by its length is
	// how many pieces are.
	LogLimit int
	// Handler, when not nil, is what the routes are served by in the end: it may
	// wrap them, or add some.
	Handler func(routes http.Handler) http.Handler
	// Now is the server's clock; nil: the real one.
	Now func() time.Time
}

// Server is one server. Its methods are what an administrator sees and does,
// without HTTP. They may be called at any time.
type Server struct {
	config  Config
	tb      Owner
	http    *httptest.Server
	dir     string        // of uploaded contents
	closing chan struct{} // closed at the end: nothing may hang longer

	mu      sync.Mutex
	users   map[string]*user
	tokens  map[string]*token
	keys    map[string]string // API key to user
	folders map[string]*folder
	items   map[string]*item
	files   map[string]*file
	uploads map[string]*upload
	jobs    map[string]*job
	order   int // of creation
	faults  []*armed
	calls   []Call
}

// Owner is whose the server is: a test, or a program that shows something.
type Owner interface {
	TempDir() string
	Cleanup(func())
	Fatalf(format string, args ...any) // ends the goroutine
}

// New starts a server that ends with its owner.
func New(tb Owner, config Config) *Server {
	if config.MinChunk == 0 {
		config.MinChunk = 5 << 20
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Server{
		config: config, tb: tb, dir: tb.TempDir(), closing: make(chan struct{}),
		users: map[string]*user{}, tokens: map[string]*token{}, keys: map[string]string{},
		folders: map[string]*folder{}, items: map[string]*item{}, files: map[string]*file{},
		uploads: map[string]*upload{}, jobs: map[string]*job{},
	}
	var handler http.Handler = s.routes()
	if config.Handler != nil {
		handler = config.Handler(handler)
	}
	s.http = httptest.NewServer(handler)
	tb.Cleanup(func() {
		close(s.closing)
		s.http.CloseClientConnections()
		s.http.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.files {
			f.content.close()
		}
		for _, u := range s.uploads {
			u.temp.Close()
		}
	})
	return s
}

// API is the root of the REST API, without a slash at the end.
func (s *Server) API() string { return s.http.URL + "/api/v1" }

// route is a handler that gets its parameters, and answers a document or an error.
type route func(*request) (any, error)

// request is an HTTP request as Girder sees it.
type request struct {
	*http.Request
	w     http.ResponseWriter
	token *token // nil: anonymous, or a token that is not known
	user  *user  // nil: the token is of nobody
}

// param looks a parameter up in the query and in a form body.
func (r *request) param(name string) string { return r.Form.Get(name) }

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]route{
		"GET /system/version":      s.getVersion,
		"POST /api_key/token":      s.postAPIKeyToken,
		"GET /folder":              s.listFolders,
		"POST /folder":             s.postFolder,
		"GET /folder/{id}":         s.getFolder,
		"GET /item":                s.listItems,
		"GET /item/{id}":           s.getItem,
		"GET /item/{id}/files":     s.listFiles,
		"GET /file/{id}":           s.getFile,
		"GET /file/{id}/download":  s.download,
		"POST /file":               s.postFile,
		"PUT /file/{id}/contents":  s.putContents,
		"POST /file/chunk":         s.postChunk,
		"GET /file/offset":         s.getOffset,
		"POST /file/completion":    s.postCompletion,
		"DELETE /file/upload/{id}": s.deleteUpload,
		"POST /job":                s.postJob,
		"GET /job/{id}":            s.getJob,
		"PUT /job/{id}":            s.putJob,
		"PUT /job/{id}/cancel":     s.putJobCancel,
		"POST /job/{id}/artifact":  s.postArtifact,
		"GET /job/{id}/artifact":   s.listArtifacts,
	} {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" /api/v1"+path, func(w http.ResponseWriter, r *http.Request) {
			s.serve(pattern, handle, w, r)
		})
	}
	return mux
}

// Call is one request that the server has seen.
type Call struct {
	Route  string // as in [Server.Fail], "GET /file/{id}"
	Path   string // below the API
	Header http.Header
	// Form is the query and, of a form, the body.
	Form map[string][]string
	// Length is the Content-Length, -1 when there was none.
	Length int64
}

// Calls returns the requests to a route, in order; route "" means all.
func (s *Server) Calls(route string) []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var calls []Call
	for _, c := range s.calls {
		if route == "" || c.Route == route {
			calls = append(calls, c)
		}
	}
	return calls
}

// newID makes an ObjectId; the caller holds the lock.
func (s *Server) newID() string {
	s.order++
	return fmt.Sprintf("%08x%010x%06x", s.config.Now().Unix(), 0x61b2c3d4e5, s.order)
}

func secret() string {
	var b [32]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// content is what a file holds.
type content struct {
	io.ReaderAt
	size int64
}

func (c content) close() {
	if f, ok := c.ReaderAt.(io.Closer); ok {
		f.Close()
	}
}
