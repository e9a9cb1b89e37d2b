package celery

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
