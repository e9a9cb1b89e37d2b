package celery

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// record is a message as the recordings and our fixtures have it.
type record struct {
	Exchange    string   `json:"exchange_name"`
	RoutingKeys []string `json:"routing_keys"`
	Properties  struct {
		ContentType     string          `json:"content_type"`
		ContentEncoding string          `json:"content_encoding"`
		DeliveryMode    uint8           `json:"delivery_mode"`
		Priority        uint8           `json:"priority"`
		CorrelationID   string          `json:"correlation_id"`
		ReplyTo         string          `json:"reply_to"`
		Expiration      string          `json:"expiration"`
		Headers         json.RawMessage `json:"headers"`
	} `json:"properties"`
	Body string `json:"body"`
}

func (r record) delivery(t testing.TB) Delivery {
	t.Helper()
	p := r.Properties
	d := Delivery{
		Exchange: r.Exchange, RoutingKey: r.RoutingKeys[0], Body: []byte(r.Body),
		Properties: Properties{p.ContentType, p.ContentEncoding, p.DeliveryMode, p.Priority, p.CorrelationID, p.ReplyTo, p.Expiration},
	}
	d.Headers = tableOf(t, p.Headers)
	return d
}

// tableOf is JSON as an AMQP table: integers stay integers.
func tableOf(t testing.TB, data []byte) map[string]any {
	t.Helper()
	if len(data) == 0 {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return integers(m).(map[string]any)
}

func integers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return int32(n)
		}
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = integers(v[k])
		}
	}
	return v
}

func readRecords(t *testing.T, file string) []record {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var records []record
	if strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		var doc struct{ Messages []record }
		err = json.Unmarshal(data, &doc)
		records = doc.Messages
	} else {
		err = json.Unmarshal(data, &records)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return records
}

// TestRecords reads every message of the recordings that GIRDER_WORKER_RECORDS
// names: files NAME.amqp.json, with messages in a list or under "messages".
func TestRecords(t *testing.T) {
	dir := os.Getenv("GIRDER_WORKER_RECORDS")
	if dir == "" {
		t.Log("not run: GIRDER_WORKER_RECORDS names no directory of recordings")
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.amqp.json"))
	if err != nil {
		t.Fatal(err)
	}
	tasks := 0
	for _, file := range files {
		for _, r := range readRecords(t, file) {
			if !strings.Contains(string(r.Properties.Headers), `"task"`) {
				continue
			}
			tasks++
			task, err := Decode(r.delivery(t), Options{})
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			checkRecorded(t, file, r, task)
		}
	}
	if tasks == 0 {
		t.Errorf("%s holds no task message", dir)
	}
	t.Logf("read %d task messages", tasks)
}

func checkRecorded(t *testing.T, file string, r record, task Task) {
	h := tableOf(t, r.Properties.Headers)
	if task.ID != h["id"] || task.Name != h["task"] || task.RootID != h["root_id"] || task.ReplyTo != r.Properties.ReplyTo {
		t.Errorf("%s: read as %+v", file, task.Request)
	}
	if task.Job == nil || task.Job.Headers["Girder-Token"] == "" || !strings.HasSuffix(task.Job.URL, task.Job.Reference) {
		t.Errorf("%s: job %+v", file, task.Job)
	}
	if hooks, _ := h["girder_result_hooks"].([]any); len(hooks) != len(task.Hooks) {
		t.Errorf("%s: %d hooks, want %d", file, len(task.Hooks), len(hooks))
	}
	if task.ArgsRepr != h["argsrepr"] && len(h["argsrepr"].(string)) < maxRepr && !strings.Contains(task.ArgsRepr, mask) {
		t.Errorf("%s: argsrepr %s, want %s", file, task.ArgsRepr, h["argsrepr"])
	}
	for _, secret := range task.Secrets() {
		shown, err := json.Marshal(task.Request)
		if err != nil {
			t.Fatal(err)
		}
		if len(secret) > 20 && strings.Contains(string(shown), secret) {
			t.Errorf("%s: a token is in %s", file, shown)
		}
	}
	if !json.Valid(task.PlainArgs) || !json.Valid(task.PlainKwargs) || len(task.Args) == 0 || len(task.Kwargs) == 0 || len(task.Embed) == 0 {
		t.Errorf("%s: args %s (%s), kwargs %s (%s), embed %s", file, task.Args, task.PlainArgs, task.Kwargs, task.PlainKwargs, task.Embed)
	}
}

// TestRecordedControl: requests are read, answers and results and events that we
// write are those that were recorded, to the byte or, of events, to the field.
func TestRecordedControl(t *testing.T) {
	dir := os.Getenv("GIRDER_WORKER_RECORDS")
	if dir == "" {
		t.Log("not run: GIRDER_WORKER_RECORDS names no directory of recordings")
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.amqp.json"))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, file := range files {
		for _, r := range readRecords(t, file) {
			d := r.delivery(t)
			switch {
			case r.Exchange == ControlExchange:
				counts["request"]++
				c, err := DecodeCommand(d)
				if err != nil || c.Method == "" || c.ReplyTo != (Address{}) && (c.Ticket == "" || c.Expires.IsZero()) {
					t.Errorf("%s: %+v, %v", file, c, err)
				}
				node := "celery@vm"
				if len(c.Destination) > 0 {
					node = c.Destination[0]
				}
				if ours, err := c.For(node, time.Unix(0, 0)); err != nil || !ours {
					t.Errorf("%s: %+v is not for the worker that was recorded (%v)", file, c, err)
				}
			case r.Exchange == ReplyExchange && r.Body == `{"celery@vm": {"ok": "pong"}}`:
				counts["pong"]++
				c := Command{Method: "ping", Ticket: "t", ReplyTo: Address{r.Exchange, r.RoutingKeys[0]}}
				m, ok, err := c.Reply("celery@vm", (&Panel{Node: "celery@vm"}).Answer(t.Context(), &c), &Clock{})
				if !ok || err != nil || string(m.Body) != r.Body || m.Exchange != r.Exchange || m.RoutingKey != r.RoutingKeys[0] || m.Properties != d.Properties {
					t.Errorf("%s: %+v, %v", file, m, err)
				}
			case r.Exchange == EventExchange:
				counts["event"]++
				checkRecordedEvents(t, file, r)
			case r.Exchange == "" && !strings.Contains(string(r.Properties.Headers), `"task"`):
				counts["result"]++
				checkRecordedResult(t, file, r, d)
			}
		}
	}
	for _, what := range []string{"request", "pong", "event", "result"} {
		if counts[what] == 0 {
			t.Errorf("no %s among the recordings", what)
		}
	}
	t.Logf("held against %v", counts)
}

// checkRecordedResult writes a result that says the same, and wants the same bytes.
func checkRecordedResult(t *testing.T, file string, r record, d Delivery) {
	var recorded struct {
		ID     string          `json:"task_id"`
		Status State           `json:"status"`
		Result json.RawMessage `json:"result"`
		Trace  string          `json:"traceback"`
	}
	if err := json.Unmarshal([]byte(r.Body), &recorded); err != nil {
		t.Fatal(err)
	}
	res := Result{State: recorded.Status, Traceback: recorded.Trace}
	if recorded.Status != Success {
		var e struct {
			Type    string          `json:"exc_type"`
			Message json.RawMessage `json:"exc_message"`
			Module  string          `json:"exc_module"`
		}
		if err := json.Unmarshal(recorded.Result, &e); err != nil {
			t.Fatal(err)
		}
		res.Exception = Exception{Type: e.Type, Module: e.Module}
		args, ok := sequence(valueOf(e.Message))
		if !ok {
			t.Fatalf("%s: %s", file, e.Message)
		}
		res.Exception.Args = args
	}
	request := Request{ID: recorded.ID, ReplyTo: r.RoutingKeys[0], CorrelationID: d.Properties.CorrelationID}
	m, ok, err := request.Reply(res)
	if !ok || err != nil || string(m.Body) != r.Body || m.Properties != d.Properties || m.RoutingKey != r.RoutingKeys[0] {
		t.Errorf("%s: %v\n got %+v %s\nwant %+v %s", file, err, m.Properties, m.Body, d.Properties, r.Body)
	}
}

// checkRecordedEvents wants our events of the same types to have the same fields.
func checkRecordedEvents(t *testing.T, file string, r record) {
	s := &EventSource{Node: "celery@vm", Clock: &Clock{}}
	request := &Request{ID: "i", Name: "t"}
	ours := map[string]Event{
		"task-received": s.Received(request, noon), "task-started": s.Started(request, noon),
		"task-succeeded": s.Succeeded(request, nil, 0, noon), "task-failed": s.Failed(request, FailedWith(ExitCode(1)), noon),
	}
	var events []map[string]any
	text := r.Body
	if !strings.HasPrefix(text, "[") {
		text = "[" + text + "]"
	}
	if err := json.Unmarshal([]byte(text), &events); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		kind := e["type"].(string)
		var m Message
		var err error
		if own, ok := ours[kind]; ok {
			m, err = s.Tasks([]Event{own})
		} else {
			m, err = s.Worker(kind, Pulse{}, noon)
		}
		if err != nil || m.RoutingKey != r.RoutingKeys[0] || m.Properties != r.delivery(t).Properties {
			t.Errorf("%s: %s goes to %s with %+v (%v)", file, kind, m.RoutingKey, m.Properties, err)
		}
		body := strings.Trim(string(m.Body), "[]")
		if kind == WorkerOnline {
			body = string(m.Body)
		}
		var own map[string]any
		if err := json.Unmarshal([]byte(body), &own); err != nil {
			t.Fatalf("%s: %v", m.Body, err)
		}
		if got, want := slices.Sorted(maps.Keys(own)), slices.Sorted(maps.Keys(e)); !slices.Equal(got, want) {
			t.Errorf("%s: %s has %v, recorded are %v", file, kind, got, want)
		}
	}
}
