package celery

import (
	"net/url"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// TaskInfo is a task as remote control shows it.
type TaskInfo struct {
	Request      *Request
	Node         string
	Started      time.Time // zero: not yet
	Acknowledged bool
	PID          int // of the process that runs it; 0: none
}

func (i TaskInfo) value(safe bool) jsonpickle.Value {
	r := i.Request
	var started, pid, args, kwargs jsonpickle.Value
	if !i.Started.IsZero() {
		started = unix(i.Started)
	}
	if i.PID != 0 {
		pid = int64(i.PID)
	}
	args, kwargs = valueOf(r.PlainArgs), valueOf(r.PlainKwargs)
	if safe {
		args, kwargs = r.ArgsRepr, r.KwargsRepr
	}
	if args == nil {
		args = &jsonpickle.List{}
	}
	if kwargs == nil {
		kwargs = &jsonpickle.Dict{}
	}
	return dict("id", r.ID, "name", r.DisplayName(), "args", args, "kwargs", kwargs, "type", r.Name,
		"hostname", i.Node, "time_start", started, "acknowledged", i.Acknowledged,
		"delivery_info", dict("exchange", r.Exchange, "routing_key", r.RoutingKey, "priority", r.Priority, "redelivered", r.Redelivered),
		"worker_pid", pid)
}

// Stats are the figures of `celery inspect stats`, which Girder's worker page shows.
type Stats struct {
	Total    map[string]int64 // tasks accepted since the start, by name
	PID      int
	Uptime   time.Duration
	Slots    int   // max-concurrency
	PIDs     []int // of what runs jobs
	Prefetch int   // messages held at once
	Broker   Broker
	// Resources used by the daemon itself, in the units of getrusage.
	UserTime, SystemTime time.Duration
	MaxRSS               int64 // KiB
	MinorFaults          int64
	MajorFaults          int64
	BlocksIn, BlocksOut  int64
	Switches             int64 // voluntary
	Preemptions          int64 // involuntary switches
}

// Broker is the connection to RabbitMQ, without its password.
type Broker struct {
	Host        string
	Port        int
	User        string
	VirtualHost string
	TLS         bool
	Heartbeat   time.Duration
	Timeout     time.Duration // of connecting
	LoginMethod string        // "PLAIN"
	Alternates  []string      // further URLs; passwords are masked here
}

func (s Stats) value(clock int64) jsonpickle.Value {
	total := map[string]any{}
	accepted := int64(0)
	for name, n := range s.Total {
		total[name] = n
		accepted += n
	}
	pids := []any{}
	for _, pid := range s.PIDs {
		pids = append(pids, pid)
	}
	alternates := []string{}
	for _, u := range s.Broker.Alternates {
		alternates = append(alternates, MaskURL(u))
	}
	b := s.Broker
	return dict(
		"total", total, "pid", s.PID, "clock", Repr(clock), "uptime", int64(s.Uptime/time.Second),
		"pool", dict("max-concurrency", s.Slots, "processes", pids, "max-tasks-per-child", 1,
			"put-guarded-by-semaphore", false, "timeouts", []any{0, 0},
			"writes", dict("total", accepted, "strategy", "fair", "inqueues", dict("total", s.Slots, "active", len(s.PIDs)))),
		"broker", dict("hostname", b.Host, "userid", b.User, "virtual_host", b.VirtualHost, "port", b.Port,
			"insist", false, "ssl", b.TLS, "transport", "amqp", "connect_timeout", int64(b.Timeout/time.Second),
			"transport_options", map[string]any{}, "login_method", b.LoginMethod, "uri_prefix", nil,
			"heartbeat", b.Heartbeat.Seconds(), "failover_strategy", "round-robin", "alternates", alternates),
		"prefetch_count", s.Prefetch,
		"rusage", dict("utime", s.UserTime.Seconds(), "stime", s.SystemTime.Seconds(), "maxrss", s.MaxRSS,
			"ixrss", 0, "idrss", 0, "isrss", 0, "minflt", s.MinorFaults, "majflt", s.MajorFaults, "nswap", 0,
			"inblock", s.BlocksIn, "oublock", s.BlocksOut, "msgsnd", 0, "msgrcv", 0, "nsignals", 0,
			"nvcsw", s.Switches, "nivcsw", s.Preemptions),
	)
}

// Queue is a queue that tasks are consumed from.
type Queue struct {
	Name         string
	Exchange     string
	ExchangeType string // "direct"
	RoutingKey   string
	Durable      bool
	Exclusive    bool
	AutoDelete   bool
	Arguments    map[string]any // nil: none
}

func (q Queue) value() jsonpickle.Value {
	var arguments jsonpickle.Value
	if q.Arguments != nil {
		arguments = valueOf(q.Arguments)
	}
	return dict("name", q.Name,
		"exchange", dict("name", q.Exchange, "type", q.ExchangeType, "arguments", nil, "durable", q.Durable, "passive", false,
			"auto_delete", false, "delivery_mode", nil, "no_declare", false),
		"routing_key", q.RoutingKey, "queue_arguments", arguments, "binding_arguments", nil, "consumer_arguments", nil,
		"durable", q.Durable, "exclusive", q.Exclusive, "auto_delete", q.AutoDelete, "no_ack", false, "alias", nil,
		"bindings", []any{}, "no_declare", nil, "expires", nil, "message_ttl", nil, "max_length", nil,
		"max_length_bytes", nil, "max_priority", nil)
}

// maskConfiguration hides passwords and tokens, by what they are called and what they look like.
func maskConfiguration(conf map[string]any) jsonpickle.Value {
	m := newMasker()
	var hide func(key string, v any) any
	hide = func(key string, v any) any {
		switch v := v.(type) {
		case string:
			if isSecretKey(key) && v != "" {
				return mask
			}
			return m.text(MaskURL(v))
		case []string:
			out := []any{}
			for _, s := range v {
				out = append(out, hide(key, s))
			}
			return out
		case []any:
			out := []any{}
			for _, item := range v {
				out = append(out, hide(key, item))
			}
			return out
		case map[string]any:
			out := map[string]any{}
			for k, item := range v {
				out[k] = hide(k, item)
			}
			return out
		}
		return v
	}
	return valueOf(hide("", conf))
}

// MaskURL is a URL with its password hidden, as Celery shows it, and any other text as it is.
func MaskURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.User == nil {
		if at := strings.LastIndexByte(s, '@'); err != nil && at >= 0 && strings.Contains(s, "://") {
			return s[:strings.Index(s, "://")+3] + mask + s[at:]
		}
		return s
	}
	if _, has := u.User.Password(); !has {
		return s
	}
	start := strings.Index(s, "://") + 3
	at := strings.LastIndexByte(s[:start+len(s[start:])-len(afterAuthority(s[start:]))], '@')
	return s[:start] + url.User(u.User.Username()).String() + ":" + mask + s[at:]
}

// afterAuthority is what follows the host in a URL less its scheme.
func afterAuthority(s string) string {
	if i := strings.IndexAny(s, "/?#"); i >= 0 {
		return s[i:]
	}
	return ""
}
