package metrics

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"girderworker/daemon/apitype"
)

// Snapshot is the daemon's state at one moment. What could not be found out is
// zero, and counted in Missing.
type Snapshot struct {
	apitype.Status

	// StoreActive and StoreHistory are how long the queue's files are.
	StoreActive, StoreHistory int64
	// Reaped is attempts that were cleaned up after, AuditLost lines that the audit
	// log lacks.
	Reaped    uint64
	AuditLost int
	// Girder counts requests by result: ok, refused, failed, unreachable.
	Girder     map[string]uint64
	LastAnswer time.Time
	// AMQP is nil where no broker is configured.
	AMQP    *AMQP
	Missing int
}

// AMQP is how the worker stands at RabbitMQ.
type AMQP struct {
	Up, Blocked       bool
	Queues, Consumers int
	Connections       int64
	// Deliveries are counted by what became of them, Rejected by why they were no
	// task to run, Messages by what became of what was sent.
	Deliveries, Rejected, Messages map[string]int64
}

const prefix = "girder_worker_"

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

var (
	jobs     = desc("jobs", "Jobs by state, the history included.", "state")
	attempts = desc("attempts", "Attempts under way.")
	oldest   = desc("queue_oldest_seconds", "How long the first of the jobs that could start waits; 0 when none does.")

	slots       = desc("slots_capacity", "How many attempts may run at a time.")
	slotsUsed   = desc("slots_allocated", "How many slots jobs have.")
	cpus        = desc("cpus_capacity", "Processors for jobs.")
	cpusUsed    = desc("cpus_allocated", "Processors that jobs have.")
	memory      = desc("memory_capacity_bytes", "Memory for jobs.")
	memoryUsed  = desc("memory_allocated_bytes", "Memory that jobs have.")
	gpus        = desc("gpus_capacity", "GPUs for jobs, a shared one as often as it may be had.")
	gpusUsed    = desc("gpus_allocated", "GPUs that jobs have.")
	gpusMissing = desc("gpus_missing", "GPUs that jobs have and that are not there any more.")

	images     = desc("images", "Images in the store.")
	imageBytes = desc("images_bytes", "What the images hold, unpacked; a layer that several share counts for each.")
	store      = desc("store_size_bytes", "Files of the queue: active jobs, and finished ones.", "file")
	diskSize   = desc("disk_size_bytes", "The file system of the state directory.")
	diskFree   = desc("disk_free_bytes", "What is free there.")
	diskInodes = desc("disk_free_inodes", "How many more files fit there.")

	reports       = desc("reports_pending_jobs", "Jobs of which somebody has still to be told something.", "sink")
	reportsOldest = desc("reports_oldest_seconds", "How long the first report waits; 0 when none does.")
	reported      = desc("reports_total", "What became of reports: changes of state that were told, pieces of log that may be there twice, refusals, jobs given up.", "result")
	reportedLog   = desc("reports_log_bytes_total", "Text that was added to logs in Girder.")
	girder        = desc("girder_requests_total", "Requests of reports to Girder by what became of them.", "result")
	girderServers = desc("girder_servers", "Girder servers that jobs report to now, by whether they answer.", "state")
	girderAnswer  = desc("girder_last_answer_timestamp_seconds", "When Girder last answered, in seconds since 1970; 0 before it did.")

	amqpUp         = desc("amqp_up", "1 while the worker is connected to RabbitMQ and can take tasks; absent without a broker.")
	amqpBlocked    = desc("amqp_blocked", "1 while RabbitMQ takes no messages.")
	amqpQueues     = desc("amqp_queues", "Queues that tasks are taken from.")
	amqpConsumers  = desc("amqp_consumers", "Queues at which a consumer waits for a task now.")
	amqpConnects   = desc("amqp_connections_total", "Connections made to RabbitMQ.")
	amqpDeliveries = desc("amqp_deliveries_total", "Messages of task queues by what became of them.", "result")
	amqpRejected   = desc("amqp_rejected_total", "Messages that were no task to run, by why.", "reason")
	amqpMessages   = desc("amqp_messages_total", "Results, answers and events by what became of them.", "result")

	reaped    = desc("orphans_reaped_total", "Attempts whose runner died and of which something had to be cleaned up.")
	auditLost = desc("audit_lost_lines", "Lines that the audit log lacks since the last one that could be written.")
	paused    = desc("paused", "1 while no jobs are started.")
	degraded  = desc("degraded", "How many things do not work as they should; the command status names them.")
	missing   = desc("scrape_missing", "Parts of this scrape that could not be read.")
	info      = desc("build_info", "The daemon's version.", "version", "commit", "goversion")
)

// closed are all label values of the metrics with a label whose values are
// counted elsewhere.
var (
	girderResults  = []string{"ok", "refused", "failed", "unreachable"}
	deliveryEnds   = []string{"accepted", "uncertain", "void", "returned", "rejected"}
	messageResults = []string{"published", "unroutable", "event_dropped"}
)

type collector struct{ source Source }

// Describe says which metrics there are, so that a name is registered once.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		jobs, attempts, oldest, slots, slotsUsed, cpus, cpusUsed, memory, memoryUsed, gpus, gpusUsed, gpusMissing,
		images, imageBytes, store, diskSize, diskFree, diskInodes, reports, reportsOldest, reported, reportedLog,
		girder, girderServers, girderAnswer, amqpUp, amqpBlocked, amqpQueues, amqpConsumers, amqpConnects,
		amqpDeliveries, amqpRejected, amqpMessages, reaped, auditLost, paused, degraded, missing, info,
	} {
		ch <- d
	}
}

// scrapeTime bounds what a scrape waits for.
const scrapeTime = 10 * time.Second

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTime)
	defer cancel()
	s := c.source.Snapshot(ctx)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	for _, state := range States {
		gauge(jobs, float64(s.Jobs[state]), state)
	}
	gauge(attempts, float64(s.Attempts))
	gauge(oldest, age(s.OldestQueued))
	for _, r := range []struct {
		name          string
		capacity, use *prometheus.Desc
	}{{"slots", slots, slotsUsed}, {"cpus", cpus, cpusUsed}, {"memory", memory, memoryUsed}, {"gpus", gpus, gpusUsed}} {
		gauge(r.capacity, s.Capacity[r.name])
		gauge(r.use, s.InUse[r.name])
	}
	gone := 0
	for _, g := range s.GPUs {
		if g.Missing {
			gone++
		}
	}
	gauge(gpusMissing, float64(gone))
	gauge(images, float64(s.Images.Count))
	gauge(imageBytes, float64(s.Images.Bytes))
	gauge(store, float64(s.StoreActive), "active")
	gauge(store, float64(s.StoreHistory), "history")
	gauge(diskSize, float64(s.Disk.Size))
	gauge(diskFree, float64(s.Disk.Free))
	gauge(diskInodes, float64(s.Disk.FreeInodes))
	c.outside(s, gauge, count)
	count(reaped, float64(s.Reaped))
	gauge(auditLost, float64(s.AuditLost))
	gauge(paused, one(s.Paused))
	gauge(degraded, float64(len(s.Degraded)))
	gauge(missing, float64(s.Missing))
	gauge(info, 1, s.Version, s.Commit, runtime.Version())
}

// outside is what others have to do with: Girder and RabbitMQ.
func (c *collector) outside(s *Snapshot, gauge, count func(*prometheus.Desc, float64, ...string)) {
	r := s.Reports
	gauge(reports, float64(r.Girder), "girder")
	gauge(reports, float64(r.Celery), "celery")
	gauge(reportsOldest, age(r.Oldest))
	count(reportedLog, float64(r.LogBytes))
	for result, n := range map[string]uint64{"delivered": r.Delivered, "duplicate": r.Duplicates, "refused": r.Refused, "gave_up": r.GaveUp} {
		count(reported, float64(n), result)
	}
	for _, result := range girderResults {
		count(girder, float64(s.Girder[result]), result)
	}
	up := 0
	for _, server := range s.Servers {
		if server.Problem == "" {
			up++
		}
	}
	gauge(girderServers, float64(up), "up")
	gauge(girderServers, float64(len(s.Servers)-up), "down")
	last := 0.0
	if !s.LastAnswer.IsZero() {
		last = float64(s.LastAnswer.UnixNano()) / 1e9
	}
	gauge(girderAnswer, last)
	a := s.AMQP
	if a == nil {
		return
	}
	gauge(amqpUp, one(a.Up))
	gauge(amqpBlocked, one(a.Blocked))
	gauge(amqpQueues, float64(a.Queues))
	gauge(amqpConsumers, float64(a.Consumers))
	count(amqpConnects, float64(a.Connections))
	for _, end := range deliveryEnds {
		count(amqpDeliveries, float64(a.Deliveries[end]), end)
	}
	for reason, n := range a.Rejected { // the source has the closed set
		count(amqpRejected, float64(n), reason)
	}
	for _, result := range messageResults {
		count(amqpMessages, float64(a.Messages[result]), result)
	}
}

func age(since time.Time) float64 {
	if since.IsZero() {
		return 0
	}
	return max(0, time.Since(since).Seconds())
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
