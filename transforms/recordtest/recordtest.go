// Package recordtest reads what was recorded between a real Girder, its RabbitMQ
// and its Python worker, for tests that hold our code against it. The recordings
// are no part of the project: [Dir] says where they are.
package recordtest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Message is an AMQP message as it was published.
type Message struct {
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

// Task is the name of the task in the message's header; "" is an event, a
// result or a control message.
func (m Message) Task(t testing.TB) string {
	task, _ := Table(t, m.Properties.Headers)["task"].(string)
	return task
}

// Dir is the directory that GIRDER_WORKER_RECORDS names: files NAME.amqp.json,
// NAME.job.json, NAME.http.log. Without one the test is skipped.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("GIRDER_WORKER_RECORDS")
	if dir == "" {
		t.Skip("GIRDER_WORKER_RECORDS names no directory of recordings")
	}
	return dir
}

// Files are the recordings of one kind by what their names end in, ".amqp.json"
// for example. That there are none is an error.
func Files(t testing.TB, suffix string) []string {
	t.Helper()
	dir := Dir(t)
	files, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s holds no *%s (%v)", dir, suffix, err)
	}
	return files
}

// Messages reads a file of them, in a list or under "messages".
func Messages(t testing.TB, file string) []Message {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ Messages []Message }
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		err = json.Unmarshal(data, &doc)
	} else {
		err = json.Unmarshal(data, &doc.Messages)
	}
	if err != nil {
		t.Fatalf("cannot read %s: %v", file, err)
	}
	return doc.Messages
}

// Table is a JSON object as the table that the AMQP library makes of the same:
// whole numbers are int32 where they fit, else int64.
func Table(t testing.TB, data []byte) map[string]any {
	t.Helper()
	if len(data) == 0 {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var table map[string]any
	if err := dec.Decode(&table); err != nil {
		t.Fatal(err)
	}
	field(table)
	return table
}

func field(v any) any {
	switch v := v.(type) {
	case json.Number:
		n, err := v.Int64()
		switch {
		case err != nil:
			f, _ := v.Float64()
			return f
		case n == int64(int32(n)):
			return int32(n)
		}
		return n
	case []any:
		for i := range v {
			v[i] = field(v[i])
		}
	case map[string]any:
		for key := range v {
			v[key] = field(v[key])
		}
	}
	return v
}
