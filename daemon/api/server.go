// Package api serves HTTP/JSON under /v1 on the Unix socket. The table in
// route.go is the whole of it: every route with who may use it. The server
// holds no state of its own: jobs are the queue's, attempts and images the
// daemon's, reached through the interfaces of backend.go.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/plugin"
	"girderworker/queue"
	"girderworker/transforms"
)

// The server's limits on requests. Logs, events, waits and image archives are
// exempt from the time limits: they last as long as somebody reads or writes.
const (
	maxBody        = 32 << 20 // a batch
	bigBody        = 1 << 20  // larger ones, or of unknown length, are read maxBig at a time, one of each user but root
	maxBig         = 4
	maxHeader      = 16 << 10
	headerTimeout  = 10 * time.Second
	requestTimeout = time.Minute
	idleTimeout    = 5 * time.Minute
	perUser        = 128 // connections at once, of each user but root
)

// Config is what a [Server] is made of. Everything but Logger is needed.
type Config struct {
	Queue   *queue.Store
	Control Control
	Images  Images
	Live    Live
	// StateDir is where attempts have their directories, see package attempt.
	StateDir string
	// RunAs chooses who a peer's jobs run as on the host. It must not answer
	// uid 0: what root submits gets an unprivileged identity.
	RunAs func(Peer) (queue.Identity, error)
	// Expect is called, where it is not nil, when documents have arrived that
	// are not on the disk yet: for what can be got ready meanwhile.
	Expect func()
	// Policy says what a peer's jobs may ask; nil lets them ask anything.
	Policy Policy
	// Tasks are those that a document may name; nil: none but docker_run.
	Tasks    *plugin.Registry
	Version  apitype.Version
	Settings Settings
	Logger   *slog.Logger
}

// Settings are what a reload of the configuration can change.
type Settings struct {
	// AdminGroups are the gids whose members see and end everyone's jobs.
	AdminGroups []int
	// Defaults complete a document that names no limits.
	Defaults transforms.Defaults
	// Machine is the most that one job can ever get: a document that asks for
	// more is refused at once. A zero field is no limit, but for GPUs.
	Machine transforms.Resources
	// HostNetwork lets jobs ask for the host's network.
	HostNetwork bool
}

// A Server answers the requests of one socket.
type Server struct {
	queue    *queue.Store
	control  Control
	images   Images
	live     Live
	stateDir string
	runAs    func(Peer) (queue.Identity, error)
	policy   Policy
	tasks    *plugin.Registry
	expect   func()
	version  apitype.Version
	logger   *slog.Logger
	settings atomic.Pointer[Settings]

	// buffers are for the bodies of requests and answers.
	buffers sync.Pool
	// big holds a token for each large body that is being read, so that no user
	// fills the memory with them.
	big chan struct{}
	// bigOfUser has one token for each user (uid → chan struct{}), so that none
	// keeps all of the above by sending slowly.
	bigOfUser sync.Map
	conns     connections
	http      http.Server
	mux       *http.ServeMux
	// stopping ends first at shutdown, and with it what would last.
	stopping context.Context
	stop     context.CancelFunc
}

// New makes a server that does not listen yet.
func New(c Config) *Server {
	s := &Server{
		queue:    c.Queue,
		control:  c.Control,
		images:   c.Images,
		live:     c.Live,
		stateDir: c.StateDir,
		runAs:    c.RunAs,
		policy:   c.Policy,
		tasks:    c.Tasks,
		expect:   c.Expect,
		version:  c.Version,
		logger:   c.Logger,
		conns:    connections{perUser: perUser, conns: make(map[net.Conn]use), users: make(map[int]int)},
		mux:      http.NewServeMux(),
		big:      make(chan struct{}, maxBig),
	}
	if s.tasks == nil {
		s.tasks = new(plugin.Registry)
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	s.Apply(c.Settings)
	for _, rt := range routes() {
		s.mux.Handle(rt.pattern, s.handler(rt))
	}
	s.mux.HandleFunc("/", s.noRoute)
	s.http = http.Server{
		Handler:           s.mux,
		MaxHeaderBytes:    maxHeader,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		ConnContext:       s.conns.connContext,
		ConnState:         s.conns.changed,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
	return s
}

// Apply replaces the settings for the requests to come.
func (s *Server) Apply(settings Settings) { s.settings.Store(&settings) }

// Serve answers the connections of l until Shutdown; nil after one. It may run
// on several listeners at once.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown stops listening, ends streams, and waits for requests under way
// until ctx ends; then it cuts them off.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("cannot finish all requests: %w", err), s.http.Close())
	}
	return err
}

// handler puts a route's access rule before its handler.
func (s *Server) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var c call
		defer s.recover(w, r)
		err := rt.access(s, r, &c)
		if err == nil {
			err = rt.handle(s, w, r, &c)
		}
		if err != nil {
			s.fail(w, r, &c, err)
		}
	})
}

// recover keeps a defect in one request from ending the daemon.
func (s *Server) recover(w http.ResponseWriter, r *http.Request) {
	v := recover()
	if v == nil {
		return
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	s.logger.LogAttrs(r.Context(), slog.LevelError, "Request panicked",
		slog.String("method", r.Method), slog.String("path", r.URL.Path),
		slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
	w.Header().Set("Connection", "close")
	s.answer(w, http.StatusInternalServerError, apitype.Failure{Error: apitype.Error{
		Kind: apitype.KindInternal, Message: "internal error; the daemon's log has the details"}})
}

// noRoute answers what the table does not have.
func (s *Server) noRoute(w http.ResponseWriter, r *http.Request) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); pattern != "/" && pattern != "" {
			w.Header().Add("Allow", method)
		}
	}
	if allow := w.Header().Values("Allow"); len(allow) > 0 {
		s.answer(w, http.StatusMethodNotAllowed, apitype.Failure{Error: apitype.Error{
			Kind: apitype.KindBadRequest, Message: fmt.Sprintf("%s is not for %s; it takes %v", r.Method, r.URL.Path, allow)}})
		return
	}
	s.fail(w, r, new(call), failure(apitype.KindNotFound, "no route %s %s", r.Method, r.URL.Path))
}

func (s *Server) buffer() *bytes.Buffer {
	if b, ok := s.buffers.Get().(*bytes.Buffer); ok {
		return b
	}
	return new(bytes.Buffer)
}

// release takes a buffer back. One that a batch made large is left to the
// garbage collector.
func (s *Server) release(b *bytes.Buffer) {
	if b.Cap() <= 64<<10 {
		b.Reset()
		s.buffers.Put(b)
	}
}

// answer sends v as JSON. A client that is gone is nobody's error.
func (s *Server) answer(w http.ResponseWriter, code int, v any) {
	b := s.buffer()
	defer s.release(b)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		s.logger.Error("Cannot encode answer", slog.Any("error", err))
		http.Error(w, `{"error":{"kind":"internal","message":"cannot encode the answer"}}`, http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes())
}

// readBody reads a request's body of at most limit bytes into a buffer that the
// caller puts back.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, limit int64) (*bytes.Buffer, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	if r.ContentLength < 0 || r.ContentLength > bigBody {
		done, err := s.takeBig(r.Context())
		if err != nil {
			return nil, err
		}
		defer done()
	}
	b := s.buffer()
	if r.ContentLength > 0 {
		b.Grow(int(min(r.ContentLength+bytes.MinRead, bigBody)))
	}
	if _, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		s.release(b)
		return nil, fmt.Errorf("cannot read the request: %w", err)
	}
	return b, nil
}

// takeBig waits for the caller's turn to read a large body, until ctx ends. The
// function that it returns ends the turn.
func (s *Server) takeBig(ctx context.Context) (done func(), err error) {
	peer, err := peerOf(ctx)
	if err != nil {
		return nil, err
	}
	own := make(chan struct{}, 1)
	if peer.UID != 0 {
		known, _ := s.bigOfUser.LoadOrStore(peer.UID, own)
		own = known.(chan struct{})
	}
	select {
	case own <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case s.big <- struct{}{}:
	case <-ctx.Done():
		<-own
		return nil, ctx.Err()
	}
	return func() { <-s.big; <-own }, nil
}

// decode reads an optional small JSON body into v, strictly.
func (s *Server) decode(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := s.readBody(w, r, 64<<10)
	if err != nil {
		return err
	}
	defer s.release(b)
	if b.Len() == 0 {
		return nil
	}
	dec := json.NewDecoder(b)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return failure(apitype.KindBadRequest, "cannot read the request: %v", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return failure(apitype.KindBadRequest, "cannot read the request: text after the document")
	}
	return nil
}
