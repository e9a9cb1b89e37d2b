package celery

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/transforms/recordtest"
)

func recordedDelivery(t testing.TB, r recordtest.Message) Delivery {
	t.Helper()
	p := r.Properties
	return Delivery{
		Exchange: r.Exchange, RoutingKey: r.RoutingKeys[0], Body: []byte(r.Body), Headers: recordtest.Table(t, p.Headers),
		Properties: Properties{p.ContentType, p.ContentEncoding, p.DeliveryMode, p.Priority, p.CorrelationID, p.ReplyTo, p.Expiration},
	}
}

// TestRecords reads every message that was recorded.
func TestRecords(t *testing.T) {
	tasks := 0
	for _, file := range recordtest.Files(t, ".amqp.json") {
		for _, r := range recordtest.Messages(t, file) {
			if r.Task(t) == "" {
				continue
			}
			tasks++
			task, err := Decode(recordedDelivery(t, r), Options{})
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			checkRecorded(t, file, r, task)
		}
	}
	if tasks == 0 {
		t.Error("the recordings hold no task message")
	}
	t.Logf("read %d task messages", tasks)
}

func checkRecorded(t *testing.T, file string, r recordtest.Message, task Task) {
	h := recordtest.Table(t, r.Properties.Headers)
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
	counts := map[string]int{}
	for _, file := range recordtest.Files(t, ".amqp.json") {
		for _, r := range recordtest.Messages(t, file) {
			d := recordedDelivery(t, r)
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
			case r.Exchange == "" && r.Task(t) == "":
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
func checkRecordedResult(t *testing.T, file string, r recordtest.Message, d Delivery) {
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
func checkRecordedEvents(t *testing.T, file string, r recordtest.Message) {
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
		if err != nil || m.RoutingKey != r.RoutingKeys[0] || m.Properties != recordedDelivery(t, r).Properties {
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
