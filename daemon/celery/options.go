package celery

import (
	"fmt"
	"strings"
	"time"

	"girderworker/transforms/jsonpickle"
)

// callOptions are the options of apply_async that a signature may carry, read.
type callOptions struct {
	taskID, replyTo             string
	queue, exchange, routingKey string
	rootID, parentID, groupID   string
	groupIndex                  *int64
	shadow                      string
	priority                    int64
	eta                         string // ISO 8601; from countdown when that is given
	expires                     time.Time
	timelimit                   []any
	retries                     int64
	ignoreResult                bool
	link, linkError             []Signature
	chord                       *Signature
	headers                     map[string]any
}

// options reads the options at the time at which the signature would be published:
// some count from then.
func (s Signature) options(now time.Time) (callOptions, error) {
	m, _ := plainOf(s.Options).(map[string]any)
	f := mapFields("option", m)
	o := callOptions{
		taskID: f.text("task_id", maxID), replyTo: f.text("reply_to", maxID),
		queue: f.text("queue", maxID), exchange: f.text("exchange", maxID), routingKey: f.text("routing_key", maxID),
		rootID: f.text("root_id", maxID), parentID: f.text("parent_id", maxID), groupID: f.text("group_id", maxID),
		shadow: f.text("shadow", maxName), ignoreResult: f.boolean("ignore_result", false),
		headers: f.table("headers"),
	}
	if n, ok := f.integer("group_index", 0, 1<<31-1); ok {
		o.groupIndex = &n
	}
	o.priority, _ = f.integer("priority", 0, 255)
	o.retries, _ = f.integer("retries", 0, 1<<31-1)
	if eta := f.when("eta"); !eta.IsZero() {
		o.eta = isoformat(eta)
	}
	if after, ok := f.seconds("countdown"); ok && after > 0 {
		o.eta = isoformat(now.UTC().Add(after))
	}
	if after, ok := f.seconds("expires"); ok {
		o.expires = now.UTC().Add(after)
	} else {
		o.expires = f.when("expires")
	}
	o.timelimit = []any{f.limit("time_limit"), f.limit("soft_time_limit")}

	for _, l := range []struct {
		key  string
		into *[]Signature
	}{{"link", &o.link}, {"link_error", &o.linkError}} {
		v, _ := s.Options.Get(l.key)
		var err error
		if *l.into, err = signaturesOf(v); err != nil {
			f.wrong(l.key, "%w", err)
		}
	}
	if v, _ := s.Options.Get("chord"); v != nil {
		chord, err := signatureOf(v)
		if err != nil {
			f.wrong("chord", "%w", err)
		}
		o.chord = &chord
	}
	if err := f.err(); err != nil {
		return callOptions{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return o, nil
}

// seconds reads a number of seconds from now; ok is false where there is no number.
func (f *fields) seconds(name string) (d time.Duration, ok bool) {
	var s float64
	switch v, _ := f.get(name); v := v.(type) {
	case int64:
		s = float64(v)
	case float64:
		s = v
	default:
		return 0, false
	}
	if !(s >= -maxLimit.Seconds() && s <= maxLimit.Seconds()) {
		f.wrong(name, "%v seconds make no sense", s)
		return 0, false
	}
	return time.Duration(s * float64(time.Second)), true
}

// limit reads a time limit as Celery passes it on: a number, or nil.
func (f *fields) limit(name string) any {
	d, ok := f.seconds(name)
	if v := f.value(name); v != nil && !ok {
		f.mismatch(name, "seconds", v)
	}
	if !ok || d <= 0 {
		return nil
	}
	return f.value(name)
}

// girderHeaders are what Girder's tasks take out of their keyword arguments and
// options before they are sent, and put into the headers.
var girderHeaders = []string{"girder_client_token", "girder_api_url", "girder_result_hooks"}

// isGirderJobOption tells the options that say how Girder's job is to look: they
// are used up in making it and are not sent.
func isGirderJobOption(name string) bool {
	return name == "girder_user" || strings.HasPrefix(name, "girder_job_")
}

// without is d less the keys that taken accepts, which it may keep.
func without(d *jsonpickle.Dict, taken func(jsonpickle.Member) bool) *jsonpickle.Dict {
	rest := &jsonpickle.Dict{}
	for _, m := range d.Members {
		if !taken(m) {
			rest.Members = append(rest.Members, m)
		}
	}
	return rest
}
