// Package metrics serves /metrics, /healthz and /readyz over HTTP for whoever
// watches the machine. Numbers that are state are collected when they are asked
// for; what only happens is counted by [Events]. The registry is its own.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
)

// Source is whose numbers are served.
type Source interface {
	Snapshot(ctx context.Context) *Snapshot
	// Alive returns nil unless only a restart could help.
	Alive(ctx context.Context) error
	// Ready tells what the daemon needs to take and start jobs, and how it is.
	Ready(ctx context.Context) []Condition
}

// Condition is one thing that a daemon needs.
type Condition struct {
	Name string
	// Problem is empty where all is well.
	Problem string
	// Degraded: jobs are taken and started all the same.
	Degraded bool
}

// Server answers scrapes.
type Server struct {
	http   http.Server
	served chan struct{}
}

// Listen serves on address, host:port, until Shutdown. Without an address
// there is a server that does nothing. webConfig is a file in the format of
// Prometheus' exporters, with TLS and users; empty: neither. It is read again
// with each connection, so that certificates can be renewed.
func Listen(address, webConfig string, s Source, e *Events, logger *slog.Logger) (*Server, error) {
	server := &Server{served: make(chan struct{})}
	if address == "" {
		close(server.served)
		return server, nil
	}
	if err := web.Validate(webConfig); err != nil {
		return nil, fmt.Errorf("cannot serve metrics, mend %s (metrics_web_config) or leave it out: %w", webConfig, err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics, choose another metrics_address or off: %w", err)
	}
	server.http = http.Server{
		Handler:           Handler(s, e),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(server.served)
		// The library tells of its start and of TLS: of no interest but for debugging.
		err := web.Serve(l, &server.http, &web.FlagConfig{WebConfigFile: &webConfig}, slog.New(quiet{logger.Handler()}))
		if !errors.Is(err, http.ErrServerClosed) {
			logger.Error("Cannot go on serving metrics", "error", err)
		}
	}()
	return server, nil
}

// quiet lets no message through that is not at least a warning.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && q.Handler.Enabled(ctx, l)
}

// Shutdown ends the server and waits for it.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("cannot finish a scrape: %w", err), s.http.Close())
	}
	<-s.served
	return err
}

// registry has all that there is.
func registry(s Source, e *Events) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(&collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	r.MustRegister(e.collectors()...)
	return r
}

// Handler answers for s.
func Handler(s Source, e *Events) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry(s, e), promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, landing)
	})
	// Healthy: need not be restarted. Ready: takes and starts jobs.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		c := Condition{Name: "alive"}
		if err := s.Alive(r.Context()); err != nil {
			c.Problem = err.Error()
		}
		probe(w, []Condition{c})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { probe(w, s.Ready(r.Context())) })
	return mux
}

// landing tells a person who came with a browser where to go.
const landing = `<!DOCTYPE html>
<html lang="en">
<title>girder-worker</title>
<h1>girder-worker</h1>
<ul>
<li><a href="/metrics">/metrics</a>: numbers, for Prometheus
<li><a href="/healthz">/healthz</a>: whether the daemon moves, and needs no restart
<li><a href="/readyz">/readyz</a>: whether it takes and starts jobs
</ul>
</html>
`

// probe answers 503 when one of the conditions does not hold, with a line for each.
func probe(w http.ResponseWriter, conditions []Condition) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, c := range conditions {
		if c.Problem != "" && !c.Degraded {
			w.WriteHeader(http.StatusServiceUnavailable)
			break
		}
	}
	for _, c := range conditions {
		switch {
		case c.Problem == "":
			fmt.Fprintln(w, c.Name+": ok")
		case c.Degraded:
			fmt.Fprintln(w, c.Name+": degraded: "+c.Problem)
		default:
			fmt.Fprintln(w, c.Name+": failed: "+c.Problem)
		}
	}
}
