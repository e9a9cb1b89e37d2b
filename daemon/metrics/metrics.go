// Package metrics serves /metrics, /healthz and /readyz over HTTP for whoever
// watches the machine. Numbers are collected when they are asked for, from a
// registry of its own; nothing is counted twice.
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

	"girderworker/daemon/apitype"
)

// Source is whose numbers are served.
type Source interface {
	Status(ctx context.Context) (apitype.Status, error)
	// Healthy returns nil when the daemon can do its work.
	Healthy(ctx context.Context) error
}

// Server answers scrapes.
type Server struct {
	http   http.Server
	served chan struct{}
}

// Listen serves on address, host:port, until Shutdown. Without an address
// there is a server that does nothing.
func Listen(address string, s Source, logger *slog.Logger) (*Server, error) {
	server := &Server{served: make(chan struct{})}
	if address == "" {
		close(server.served)
		return server, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics, choose another metrics_address or off: %w", err)
	}
	server.http = http.Server{
		Handler:           Handler(s),
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(server.served)
		if err := server.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("Cannot go on serving metrics", "error", err)
		}
	}()
	return server, nil
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

// Handler answers for s.
func Handler(s Source) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprint(w, landing)
	})
	// Healthy: need not be restarted. Ready: takes and starts jobs.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { probe(w, s.Healthy(r.Context())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		err := s.Healthy(r.Context())
		if st, statusErr := s.Status(r.Context()); err == nil {
			if err = statusErr; err == nil && st.Paused {
				err = errors.New("paused")
			}
		}
		probe(w, err)
	})
	return mux
}

// landing tells a person who came with a browser where to go.
const landing = `<!DOCTYPE html>
<html lang="en">
<title>girder-worker</title>
<h1>girder-worker</h1>
<ul>
<li><a href="/metrics">/metrics</a>: numbers, for Prometheus
<li><a href="/healthz">/healthz</a>: whether the daemon can do its work
<li><a href="/readyz">/readyz</a>: whether it takes and starts jobs
</ul>
</html>
`

func probe(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

var (
	jobs     = prometheus.NewDesc("girder_worker_jobs", "Jobs by state, the history included.", []string{"state"}, nil)
	attempts = prometheus.NewDesc("girder_worker_attempts", "Attempts under way.", nil, nil)
	capacity = prometheus.NewDesc("girder_worker_capacity", "What jobs may use in all.", []string{"resource"}, nil)
	inUse    = prometheus.NewDesc("girder_worker_in_use", "What jobs use.", []string{"resource"}, nil)
	reports  = prometheus.NewDesc("girder_worker_reports_pending_jobs", "Jobs of which somebody has still to be told something.", []string{"sink"}, nil)
	oldest   = prometheus.NewDesc("girder_worker_reports_oldest_seconds", "How long the first report waits; 0 when none does.", nil, nil)
	reported = prometheus.NewDesc("girder_worker_reports_total", "What became of reports: changes of state that were told, pieces of log that may be there twice, refusals, jobs given up.", []string{"result"}, nil)
	logged   = prometheus.NewDesc("girder_worker_reports_log_bytes_total", "Text that was added to logs in Girder.", nil, nil)
	paused   = prometheus.NewDesc("girder_worker_paused", "1 while no jobs are started.", nil, nil)
	start    = prometheus.NewDesc("girder_worker_start_time_seconds", "When the daemon was started, in seconds since 1970.", nil, nil)
	info     = prometheus.NewDesc("girder_worker_build_info", "The daemon's version.", []string{"version", "commit"}, nil)
)

type collector struct{ source Source }

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{jobs, attempts, capacity, inUse, reports, oldest, reported, logged, paused, start, info} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st, err := c.source.Status(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(jobs, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for state, n := range st.Jobs {
		gauge(jobs, float64(n), state)
	}
	for resource, v := range st.Capacity {
		gauge(capacity, v, resource)
	}
	for resource, v := range st.InUse {
		gauge(inUse, v, resource)
	}
	gauge(attempts, float64(st.Attempts))
	r := st.Reports
	gauge(reports, float64(r.Girder), "girder")
	gauge(reports, float64(r.Celery), "celery")
	age := 0.0
	if !r.Oldest.IsZero() {
		age = max(0, time.Since(r.Oldest).Seconds())
	}
	gauge(oldest, age)
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count(logged, r.LogBytes)
	for result, n := range map[string]uint64{"delivered": r.Delivered, "duplicate": r.Duplicates, "refused": r.Refused, "gave_up": r.GaveUp} {
		count(reported, n, result)
	}
	isPaused := 0.0
	if st.Paused {
		isPaused = 1
	}
	gauge(paused, isPaused)
	gauge(start, float64(st.Started.UnixNano())/1e9)
	gauge(info, 1, st.Version, st.Commit)
}
