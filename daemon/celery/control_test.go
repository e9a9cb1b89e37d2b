package celery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const node = "celery@lab"

var noon = time.Date(2026, 11, 21, 12, 0, 0, 500_000_000, time.UTC)

// worker is a Worker with fixed facts that notes what is done to it.
type worker struct {
	did    []string
	events bool
	fail   error
}

func (w *worker) info(id string) TaskInfo {
	return TaskInfo{
		Request: &Request{
			ID: id, Name: "girder_worker.docker.tasks.docker_run", RoutingKey: "celery",
			ArgsRepr: "('busybox',)", KwargsRepr: "{}", PlainArgs: json.RawMessage(`["busybox"]`), PlainKwargs: json.RawMessage(`{"a":1.5}`),
		},
		Node: node, Started: noon, Acknowledged: true, PID: 77,
	}
}

func (w *worker) Active(context.Context) ([]TaskInfo, error) {
	return []TaskInfo{w.info("a")}, w.fail
}
func (w *worker) Reserved(context.Context) ([]TaskInfo, error) {
	return []TaskInfo{{Request: &Request{ID: "r", Name: "t", Shadow: "shown"}, Node: node}}, nil
}
func (w *worker) Scheduled(context.Context) ([]Scheduled, error) {
	return []Scheduled{{ETA: noon.Add(time.Hour), Priority: 6, Task: w.info("s")}}, nil
}
func (w *worker) Find(_ context.Context, ids []string) ([]Found, error) {
	if slices.Contains(ids, "a") {
		return []Found{{"active", w.info("a")}}, nil
	}
	return nil, nil
}
func (w *worker) Revocations(context.Context) ([]Revocation, error) {
	return []Revocation{{"x", noon}, {"y", noon}}, nil
}
func (w *worker) Registered() []string { return []string{"t.b", "celery.chain", "t.a", "t.a"} }
func (w *worker) Stats(context.Context) (Stats, error) {
	return Stats{
		Total: map[string]int64{"t.a": 3}, PID: 5, Uptime: 90 * time.Second, Slots: 2, PIDs: []int{77}, Prefetch: 2,
		Broker: Broker{Host: "127.0.0.1", Port: 5672, User: "guest", VirtualHost: "/", Heartbeat: time.Minute, Timeout: 4 * time.Second,
			LoginMethod: "PLAIN", Alternates: []string{"amqp://u:hidden@other//"}},
		UserTime: 1500 * time.Millisecond, MaxRSS: 20000,
	}, nil
}
func (w *worker) Queues() []Queue {
	return []Queue{{Name: "celery", Exchange: "celery", ExchangeType: "direct", RoutingKey: "celery", Durable: true}}
}
func (w *worker) Configuration() map[string]any {
	return map[string]any{"broker_url": "amqp://guest:hidden@127.0.0.1:5672//", "girder_api_key": "hidden", "slots": 2,
		"nested": map[string]any{"password": "hidden"}, "list": []any{"amqp://a:hidden@b/"}}
}
func (w *worker) Report() string { return "girder-worker 1.0" }
func (w *worker) Revoke(_ context.Context, ids []string) ([]string, error) {
	w.did = append(w.did, "revoke "+strings.Join(ids, " "))
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id != "a" }), w.fail
}
func (w *worker) SendEvents(on bool) bool {
	before := w.events
	w.events = on
	return before
}
func (w *worker) Heartbeat() { w.did = append(w.did, "heartbeat") }
func (w *worker) Consume(queue string) error {
	w.did = append(w.did, "consume "+queue)
	return w.fail
}
func (w *worker) Cancel(queue string) error {
	w.did = append(w.did, "cancel "+queue)
	return w.fail
}
func (w *worker) Shutdown() error { w.did = append(w.did, "shutdown"); return w.fail }

func command(body string, headers map[string]any) Delivery {
	return Delivery{Exchange: ControlExchange, Properties: jsonProperties(persistent), Headers: headers, Body: []byte(body)}
}

// TestPanel answers every command, and some more than once.
func TestPanel(t *testing.T) {
	var out strings.Builder
	w := &worker{}
	clock := &Clock{}
	p := &Panel{Node: node, Worker: w, Clock: clock}
	asked := map[string]bool{}
	ask := func(method, arguments string) {
		asked[method] = true
		body := fmt.Sprintf(`{"method": %q, "arguments": %s, "destination": null, "pattern": null, "matcher": null, "ticket": "ticket", `+
			`"reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"}}`, method, arguments)
		c, err := DecodeCommand(command(body, map[string]any{"clock": int64(10), "expires": 1795225294.1381066}))
		if err != nil {
			t.Errorf("%s: %v", method, err)
			return
		}
		m, ok, err := c.Reply(node, p.Answer(t.Context(), &c), clock)
		if err != nil {
			t.Errorf("%s: %v", method, err)
		}
		fmt.Fprintf(&out, "%s %s\n", method, arguments)
		if ok {
			fmt.Fprintf(&out, "  -> %s %s %v %s\n", m.Exchange, m.RoutingKey, m.Headers, m.Body)
			if !json.Valid(m.Body) || m.Properties.DeliveryMode != 1 {
				t.Errorf("%s: %+v", method, m)
			}
		}
		for _, did := range w.did {
			fmt.Fprintf(&out, "  %s\n", did)
		}
		w.did = nil
	}
	for _, c := range [][2]string{
		{"ping", `{}`}, {"ping", `{"unexpected": 1}`}, {"ping", `null`},
		{"active", `{}`}, {"active", `{"safe": true}`}, {"active", `{"safe": null}`},
		{"dump_active", `{}`}, {"reserved", `{}`}, {"dump_reserved", `{}`}, {"scheduled", `{}`}, {"dump_schedule", `{}`},
		{"revoked", `{}`}, {"dump_revoked", `{}`}, {"registered", `{"taskinfoitems": []}`}, {"registered", `{"builtins": true}`}, {"dump_tasks", `{}`},
		{"stats", `{}`}, {"report", `{}`}, {"active_queues", `{}`}, {"clock", `{}`}, {"conf", `{"with_defaults": false}`}, {"dump_conf", `{}`},
		{"query_task", `{"ids": ["a", "b"]}`}, {"query_task", `{"ids": "b"}`}, {"query_task", `{"ids": [1]}`},
		{"hello", `{"from_node": "w2@lab", "revoked": {}}`}, {"hello", `{"from_node": "w2@lab", "revoked": {"k": [1.5, "k"], "": 1}}`},
		{"hello", `{"from_node": "celery@lab"}`}, {"hello", `{"from_node": 5}`},
		{"revoke", `{"task_id": "a", "terminate": false, "signal": null}`}, {"revoke", `{"task_id": ["a", "b"], "terminate": true, "signal": "SIGKILL"}`},
		{"revoke", `{"task_id": "b", "terminate": true}`}, {"revoke", `{"task_id": 7}`}, {"revoke", `{"task_id": []}`}, {"revoke", `{"task_id": "a", "terminate": "yes"}`},
		{"terminate", `{"signal": "TERM", "task_id": ["a"]}`}, {"terminate", `{"signal": "TERM", "task_id": {}}`},
		{"enable_events", `{}`}, {"enable_events", `{}`}, {"disable_events", `{}`}, {"disable_events", `{}`}, {"heartbeat", `{}`},
		{"add_consumer", `{"queue": "lab_extra"}`}, {"add_consumer", `{}`}, {"cancel_consumer", `{"queue": "lab_extra"}`}, {"cancel_consumer", `{"queue": ""}`},
		{"rate_limit", `{"task_name": "t.none", "rate_limit": "5/s"}`}, {"rate_limit", `{"task_name": "t.a", "rate_limit": "5/s"}`}, {"time_limit", `{"task_name": "t.a", "hard": 5}`},
		{"pool_grow", `{"n": 1}`}, {"pool_shrink", `{"n": 1}`}, {"pool_restart", `{}`}, {"autoscale", `{"max": 3}`}, {"election", `{"id": "e", "topic": "t"}`},
		{"memsample", `{}`}, {"memdump", `{}`}, {"objgraph", `{}`}, {"shutdown", `{}`}, {"no_such_method", `{}`},
	} {
		ask(c[0], c[1])
	}
	w.fail = errors.New("the queue cannot be read")
	ask("active", `{}`)
	ask("revoke", `{"task_id": "a"}`)
	ask("shutdown", `{}`)
	for _, name := range Commands() {
		if !asked[name] {
			t.Errorf("%s was not asked", name)
		}
	}
	if strings.Contains(out.String(), "hidden") {
		t.Error("a password is shown")
	}
	golden(t, "control.txt", out.String())
}

func TestCommandIsRefused(t *testing.T) {
	good := `{"method": "ping", "arguments": {}, "destination": null}`
	for name, c := range map[string]struct {
		d    Delivery
		want string
	}{
		"no JSON":        {command(`{`, nil), "not valid JSON"},
		"list":           {command(`[]`, nil), "a list, not an object"},
		"no method":      {command(`{}`, nil), "there is none"},
		"method":         {command(`{"method": 5}`, nil), "the number 5, not text"},
		"arguments":      {command(`{"method": "ping", "arguments": [1]}`, nil), "a list, not a table"},
		"destination":    {command(`{"method": "ping", "destination": 5}`, nil), "not a list of nodes"},
		"destinations":   {command(`{"method": "ping", "destination": [5]}`, nil), "[0]: the number 5, not a node"},
		"reply_to":       {command(`{"method": "ping", "reply_to": "q"}`, nil), "reply_to: text, not a table"},
		"reply_to's key": {command(`{"method": "ping", "reply_to": {"exchange": 1}}`, nil), "field reply_to, exchange: the number 1"},
		"clock":          {command(good, map[string]any{"clock": "1"}), "header clock: text, not a whole number"},
		"expires":        {command(good, map[string]any{"expires": "soon"}), "not seconds since 1970"},
		"pickle":         {Delivery{Properties: Properties{ContentType: "application/x-python-serialize"}, Body: []byte("x")}, "pickle"},
		"code":           {command(`{"method": {"py/function": "os.system"}}`, nil), "py/function"},
		"too large":      {command(`"`+strings.Repeat("x", maxCommand)+`"`, nil), "at most"},
		"long pattern":   {command(`{"method": "ping", "pattern": "`+strings.Repeat("*", 2000)+`"}`, nil), "at most 1024"},
		"many nodes":     {command(`{"method": "ping", "destination": [`+strings.Repeat(`"n",`, 10_000)+`"n"]}`, nil), "10001 nodes"},
	} {
		_, err := DecodeCommand(c.d)
		if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestCommandIsForUs(t *testing.T) {
	for _, c := range []struct {
		fields  string
		expires any
		want    bool
		err     string
	}{
		{`"destination": null`, nil, true, ""},
		{`"destination": []`, nil, true, ""},
		{`"destination": ["celery@lab"]`, nil, true, ""},
		{`"destination": "celery@lab"`, nil, true, ""},
		{`"destination": ["celery@other"]`, nil, false, ""},
		{`"destination": ["celery@other"], "pattern": "*", "matcher": "glob"`, nil, false, ""},
		{`"pattern": "celery@*", "matcher": "glob"`, nil, true, ""},
		{`"pattern": "celery", "matcher": "glob"`, nil, false, ""},
		{`"pattern": "other@*"`, nil, true, ""}, // as kombu: a pattern without a matcher is none
		{`"pattern": "celery", "matcher": "pcre"`, nil, true, ""},
		{`"pattern": "lab", "matcher": "pcre"`, nil, false, ""},
		{`"pattern": "(?=celery)", "matcher": "pcre"`, nil, false, "pattern"},
		{`"pattern": "(celery", "matcher": "pcre"`, nil, false, "pattern"},
		{`"pattern": "x", "matcher": "sql"`, nil, false, "only glob and pcre"},
		{`"destination": null`, 0, true, ""},
		{`"destination": null`, unix(noon.Add(time.Second)), true, ""},
		{`"destination": null`, unix(noon.Add(-time.Second)), true, ""},
		{`"ticket": "t", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "k"}`, unix(noon.Add(time.Second)), true, ""},
		{`"ticket": "t", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "k"}`, unix(noon.Add(-time.Second)), false, ""},
	} {
		d, err := DecodeCommand(command(`{"method": "ping", `+c.fields+`}`, map[string]any{"expires": c.expires}))
		if err != nil {
			t.Errorf("%s: %v", c.fields, err)
			continue
		}
		got, err := d.For(node, noon)
		if got != c.want || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, %v", c.fields, got, err)
		}
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"*", "a/b\nc", true}, {"?", "ä", true}, {"?", "", false}, {"a.c", "abc", false}, {"a.c", "a.c", true},
		{"[abc]@x", "b@x", true}, {"[!abc]@x", "b@x", false}, {"[!abc]@x", "d@x", true}, {"[a-c]", "b", true}, {"[a-c]", "-", false},
		{"[]]", "]", true}, {"[!]]", "]", false}, {"[!]]", "a", true}, {"[", "[", true}, {"[abc", "[abc", true}, {"[a-]", "-", true}, {"[^a]", "^", true},
		{`[\]`, `\`, true}, {"(a|b)", "a", false}, {"(a|b)", "(a|b)", true}, {"w[0-9]*@lab", "w12@lab", true},
	} {
		got, err := matchNode(c.name, c.pattern, "glob")
		if err != nil || got != c.want {
			t.Errorf("%q matches %q: %v, %v", c.pattern, c.name, got, err)
		}
	}
}

func TestMingle(t *testing.T) {
	clock := &Clock{}
	hello, err := Hello(node, []Revocation{{"x", noon}}, "ticket", Address{ReplyExchange, "oid"}, noon.Add(time.Second), clock)
	if err != nil {
		t.Fatal(err)
	}
	if hello.Exchange != ControlExchange || hello.RoutingKey != "" || hello.Properties.DeliveryMode != 2 || hello.Headers["clock"] != int64(1) {
		t.Errorf("%+v", hello)
	}
	want := `{"method": "hello", "arguments": {"from_node": "celery@lab", "revoked": {"x": [1795262400.5, "x"]}}, "destination": null, "pattern": null, "matcher": null, "ticket": "ticket", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"}}`
	if string(hello.Body) != want {
		t.Errorf("hello is %s", hello.Body)
	}
	// Another worker answers it.
	c, err := DecodeCommand(Delivery{Properties: hello.Properties, Headers: hello.Headers, Body: hello.Body})
	if err != nil {
		t.Fatal(err)
	}
	peer := &worker{}
	reply, ok, err := c.Reply("w2@lab", (&Panel{Node: "w2@lab", Worker: peer, Clock: clock}).Answer(t.Context(), &c), clock)
	if !ok || err != nil || !slices.Equal(peer.did, []string{"revoke x"}) {
		t.Fatalf("%v %v %v", ok, err, peer.did)
	}
	peers, err := DecodePeers(Delivery{Properties: reply.Properties, Headers: reply.Headers, Body: reply.Body})
	if err != nil || len(peers) != 1 || peers[0].Node != "w2@lab" || !slices.Equal(peers[0].Revoked, []string{"x", "y"}) || peers[0].Clock == 0 {
		t.Errorf("%+v, %v", peers, err)
	}
	for body, n := range map[string]int{`{"w": null}`: 0, `{"w": {"error": "no"}}`: 0, `{"w": {"revoked": [["t"], 5], "clock": "x"}}`: 1, `{}`: 0} {
		if peers, err := DecodePeers(command(body, nil)); err != nil || len(peers) != n {
			t.Errorf("%s: %v, %v", body, peers, err)
		}
	}
	if _, err := DecodePeers(command(`[]`, nil)); !errors.Is(err, ErrRequest) {
		t.Errorf("%v", err)
	}
}

func TestEvents(t *testing.T) {
	var out strings.Builder
	s := &EventSource{Node: node, PID: 5, Clock: &Clock{}, Ident: "girder-worker", Version: "1.0", System: "Linux"}
	show := func(m Message, err error) {
		if err != nil {
			t.Error(err)
		}
		if !json.Valid(m.Body) || m.Exchange != EventExchange || m.Properties.DeliveryMode != 1 {
			t.Errorf("%+v", m)
		}
		fmt.Fprintf(&out, "%s %v %s\n", m.RoutingKey, m.Headers, m.Body)
	}
	for _, kind := range []string{WorkerOnline, WorkerHeartbeat, WorkerOffline} {
		show(s.Worker(kind, Pulse{2 * time.Second, 1, 7, [3]float64{0.5, 1, 0.25}}, noon))
	}
	r := &Request{ID: "a", Name: "t.a", RootID: "a", ArgsRepr: "(1,)", KwargsRepr: "{}", ETA: noon}
	var b EventBuffer
	if b.Add(s.Started(r, noon)); len(b.Take()) != 0 {
		t.Error("a buffer that is off keeps events")
	}
	if b.Send(true) || !b.Send(true) || !b.Sending() {
		t.Error("switching on")
	}
	for _, e := range []Event{
		s.Received(r, noon), s.Started(r, noon), s.Succeeded(r, nil, 1500*time.Millisecond, noon),
		s.Failed(r, FailedWith(ExitCode(7)), noon), s.Retried(r, FailedWith(Failed("it's \"so\"")), noon),
		s.Revoked(r, true, "SIGTERM", false, noon), s.Revoked(r, false, "", true, noon), s.Rejected(r, false, noon),
	} {
		if b.Add(e) {
			t.Error("full too early")
		}
	}
	b.Add(s.Started(r, noon))
	if !b.Add(s.Started(r, noon)) {
		t.Error("not full")
	}
	show(s.Tasks(b.Take()))
	if b.Take() != nil {
		t.Error("taken twice")
	}
	golden(t, "events.txt", out.String())
	for zone, want := range map[int]int{0: 0, 3600: -1, -3600: 1, -12600: 3, 19800: -6} {
		if got := utcOffset(noon.In(time.FixedZone("", zone))); got != want {
			t.Errorf("offset of %d is %d, want %d", zone, got, want)
		}
	}
}

func TestClock(t *testing.T) {
	var c Clock
	if c.Forward() != 1 || c.Adjust(10) != 11 || c.Adjust(3) != 12 || c.Value() != 12 || c.Adjust(1<<63-1) != 13 {
		t.Errorf("the clock is at %d", c.Value())
	}
}

func TestMaskURL(t *testing.T) {
	for in, want := range map[string]string{
		"amqp://guest:secret@host:5672//": "amqp://guest:********@host:5672//",
		"amqp://guest@host//":             "amqp://guest@host//",
		"amqp://host//":                   "amqp://host//",
		"amqp://u:p@ss@host/v":            "amqp://u:********@host/v",
		"amqp://u:p%40ss@host/v@w":        "amqp://u:********@host/v@w",
		"amqp://u:p ss@host/":             "amqp://********@host/",
		"amqps://:secret@host/":           "amqps://:********@host/",
		"just text, a@b":                  "just text, a@b",
		"":                                "",
	} {
		if got := MaskURL(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
