package transforms

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/transforms/jsonpickle"
)

// TestRecordedTasks decodes every docker_run that was recorded from a real Girder,
// when there are such recordings: GIRDER_WORKER_RECORDS names a directory of
// NAME.amqp.json. Each must be a job document that Plan can carry out, the hooks
// as AMQP tables and as JSON must come to the same, and no token may be in it.
func TestRecordedTasks(t *testing.T) {
	dir := os.Getenv("GIRDER_WORKER_RECORDS")
	if dir == "" {
		t.Log("not run: GIRDER_WORKER_RECORDS names no directory of recordings")
		return
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.amqp.json"))
	if err != nil {
		t.Fatal(err)
	}
	decoded := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".amqp.json")
		for _, m := range recordedMessages(t, file) {
			h := m.Properties.Headers
			if h.Task != TaskDockerRun {
				continue
			}
			v, err := jsonpickle.Decode([]byte(m.Body), PickleOptions())
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			task := Task{Name: h.Task, APIURL: h.APIURL, JobID: h.Spec.Reference, Session: h.Session}
			switch v := v.(type) {
			case jsonpickle.Tuple:
				task.Args, task.Kwargs = v[0].(jsonpickle.Tuple), v[1].(*jsonpickle.Dict)
			case *jsonpickle.List:
				task.Args, task.Kwargs = v.Items[0].(*jsonpickle.List).Items, v.Items[1].(*jsonpickle.Dict)
			}
			asTables := task
			for _, hook := range h.Hooks {
				task.Hooks = append(task.Hooks, []byte(hook))
				var table any
				if err := json.Unmarshal(hook, &table); err != nil {
					t.Fatal(err)
				}
				asTables.Hooks = append(asTables.Hooks, fieldTable(table))
			}
			f, secrets, err := FromTask(task)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			decoded++
			other, otherSecrets, err := FromTask(asTables)
			if err != nil {
				t.Errorf("%s: with hooks as tables: %v", name, err)
			} else if string(other.AppendJSON(nil)) != string(f.AppendJSON(nil)) || len(otherSecrets.Tokens) != len(secrets.Tokens) {
				t.Errorf("%s: with hooks as tables %s", name, other.AppendJSON(nil))
			}
			if _, err := f.Plan(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			stored := string(f.AppendJSON(nil))
			if written, err := ParseJobFile([]byte(stored)); err != nil {
				t.Errorf("%s: nobody could write its document by hand: %v", name, err)
			} else if again := string(written.AppendJSON(nil)); again != stored {
				t.Errorf("%s: written by hand it is %s, not %s", name, again, stored)
			}
			for _, token := range secrets.Tokens {
				if strings.Contains(stored, token) {
					t.Errorf("%s: a token is in %s", name, stored)
				}
			}
			if testing.Verbose() {
				t.Logf("%s: %s", name, stored)
			}
		}
	}
	if decoded == 0 {
		t.Errorf("%s holds no docker_run", dir)
	}
	t.Logf("decoded %d tasks", decoded)
}

type recordedMessage struct {
	Properties struct {
		Headers struct {
			Task    string            `json:"task"`
			Hooks   []json.RawMessage `json:"girder_result_hooks"`
			APIURL  string            `json:"girder_api_url"`
			Session map[string]any    `json:"girder_client_session_kwargs"`
			Spec    struct {
				Reference string `json:"reference"`
			} `json:"jobInfoSpec"`
		} `json:"headers"`
	} `json:"properties"`
	Body string `json:"body"`
}

func recordedMessages(t *testing.T, file string) []recordedMessage {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var messages []recordedMessage
	if strings.HasPrefix(strings.TrimSpace(string(data)), "{") {
		var doc struct{ Messages []recordedMessage }
		err = json.Unmarshal(data, &doc)
		messages = doc.Messages
	} else {
		err = json.Unmarshal(data, &messages)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return messages
}

// fieldTable is what the AMQP library makes of a table: whole numbers are integers.
func fieldTable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			v[key] = fieldTable(v[key])
		}
	case []any:
		for i := range v {
			v[i] = fieldTable(v[i])
		}
	case float64:
		if v == float64(int32(v)) {
			return int32(v)
		}
	}
	return v
}
