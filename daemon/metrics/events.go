package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The closed sets of label values. All of them are there from the start, so that
// a rate begins at 0.
var (
	States   = []string{"queued", "delayed", "held", "preparing", "running", "finishing", "succeeded", "failed", "canceled"}
	Sources  = []string{"socket", "amqp"}
	Stages   = []string{"preparing", "running", "finishing"}
	Outcomes = []string{"exited", "canceled", "timeout", "oom", "error", "interrupted"}
	// Results are how jobs end: a container that exited with another code than 0
	// is "failed", a job that never had an attempt and failed is "not_started".
	Results = []string{"succeeded", "failed", "canceled", "timeout", "oom", "error", "interrupted", "not_started"}
)

// waits has buckets from milliseconds to days: a job waits for a claim or for a
// weekend. Scrapes that can take native histograms get those besides.
var waits = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600}

func histogram(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
	}
}

// Events counts what happens and leaves no state behind that could be asked for.
// Its methods may be called concurrently, and cost little.
type Events struct {
	submitted *prometheus.CounterVec
	finished  *prometheus.CounterVec
	ended     *prometheus.CounterVec
	wait      *prometheus.HistogramVec
	stage     *prometheus.HistogramVec
	cpu       prometheus.Counter
	peak      prometheus.Histogram
	oom       prometheus.Counter
	streams   *prometheus.CounterVec
	logged    prometheus.Counter
	dropped   prometheus.Counter
	commit    prometheus.Histogram
	refusals  *prometheus.CounterVec
}

// NewEvents starts at 0.
func NewEvents() *Events {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	one := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	e := &Events{
		submitted: counter("girder_worker_jobs_submitted_total", "Jobs accepted, by where they came from.", "source"),
		finished:  counter("girder_worker_jobs_finished_total", "Jobs that came to their end, by how and by where they came from.", "result", "source"),
		ended:     counter("girder_worker_attempts_ended_total", "Attempts that ended; one that a reboot or a dead runner ended is interrupted.", "outcome"),
		wait:      prometheus.NewHistogramVec(histogram("girder_worker_queue_wait_seconds", "From when a job could start to its claim.", waits), []string{"source"}),
		stage:     prometheus.NewHistogramVec(histogram("girder_worker_stage_duration_seconds", "How long attempts were in each stage: inputs and start, container, uploads.", waits), []string{"stage"}),
		cpu:       one("girder_worker_job_cpu_seconds_total", "Processor time that containers have used, counted at their end."),
		peak: prometheus.NewHistogram(histogram("girder_worker_job_peak_memory_bytes", "The most memory that containers have used at a time.",
			prometheus.ExponentialBuckets(1<<22, 4, 10))),
		oom:      one("girder_worker_oom_kills_total", "Processes of jobs that the kernel killed for want of memory."),
		streams:  counter("girder_worker_stream_bytes_total", "What went through the streams of jobs; in is into the container.", "direction"),
		logged:   one("girder_worker_log_bytes_total", "Output kept in the logs of jobs."),
		dropped:  one("girder_worker_log_dropped_bytes_total", "Output of jobs beyond the limit of their logs."),
		commit:   prometheus.NewHistogram(histogram("girder_worker_store_commit_duration_seconds", "How long commits of the queue took.", prometheus.ExponentialBuckets(.0005, 2, 14))),
		refusals: counter("girder_worker_policy_refusals_total", "Jobs that policy refused, at the submission or at the start.", "source"),
	}
	for _, s := range Sources {
		e.submitted.WithLabelValues(s)
		e.refusals.WithLabelValues(s)
		e.wait.WithLabelValues(s)
		for _, r := range Results {
			e.finished.WithLabelValues(r, s)
		}
	}
	for _, s := range Stages {
		e.stage.WithLabelValues(s)
	}
	for _, o := range Outcomes {
		e.ended.WithLabelValues(o)
	}
	for _, d := range []string{"in", "out"} {
		e.streams.WithLabelValues(d)
	}
	return e
}

func (e *Events) collectors() []prometheus.Collector {
	return []prometheus.Collector{e.submitted, e.finished, e.ended, e.wait, e.stage, e.cpu, e.peak, e.oom, e.streams, e.logged, e.dropped, e.commit, e.refusals}
}

// Submitted counts an accepted job.
func (e *Events) Submitted(source string) { e.submitted.WithLabelValues(source).Inc() }

// Finished counts the end of a job.
func (e *Events) Finished(result, source string) { e.finished.WithLabelValues(result, source).Inc() }

// Ended counts the end of an attempt.
func (e *Events) Ended(outcome string) { e.ended.WithLabelValues(outcome).Inc() }

// Waited is how long a claimed job could have been started.
func (e *Events) Waited(source string, d time.Duration) {
	e.wait.WithLabelValues(source).Observe(max(0, d.Seconds()))
}

// Staged is how long an attempt was in one of [Stages].
func (e *Events) Staged(stage string, d time.Duration) {
	e.stage.WithLabelValues(stage).Observe(max(0, d.Seconds()))
}

// Used is what a container took.
type Used struct {
	CPU        time.Duration
	PeakMemory int64 // bytes; 0: not known
	OOMKills   int64
	In, Out    int64 // bytes of its streams
	Log        int64 // bytes kept
	Dropped    int64 // bytes beyond the log's limit
}

// Used adds what an attempt took.
func (e *Events) Used(u Used) {
	e.cpu.Add(max(0, u.CPU.Seconds()))
	if u.PeakMemory > 0 {
		e.peak.Observe(float64(u.PeakMemory))
	}
	for counter, n := range map[prometheus.Counter]int64{
		e.oom: u.OOMKills, e.logged: u.Log, e.dropped: u.Dropped,
		e.streams.WithLabelValues("in"): u.In, e.streams.WithLabelValues("out"): u.Out,
	} {
		counter.Add(float64(max(0, n)))
	}
}

// Committed is one commit of the queue.
func (e *Events) Committed(d time.Duration) { e.commit.Observe(d.Seconds()) }

// Refused counts a job that policy refused.
func (e *Events) Refused(source string) { e.refusals.WithLabelValues(source).Inc() }
