package transforms

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/transforms/jsonpickle"
	"girderworker/transforms/recordtest"
)

// TestRecordedTasks decodes every docker_run that was recorded. Each must be a job document that Plan can carry out, the hooks
// as AMQP tables and as JSON must come to the same, and no token may be in it.
func TestRecordedTasks(t *testing.T) {
	decoded := 0
	for _, file := range recordtest.Files(t, ".amqp.json") {
		name := strings.TrimSuffix(filepath.Base(file), ".amqp.json")
		for _, m := range recordtest.Messages(t, file) {
			h := headersOf(t, m)
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
				asTables.Hooks = append(asTables.Hooks, recordtest.Table(t, hook))
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
		t.Error("the recordings hold no docker_run")
	}
	t.Logf("decoded %d tasks", decoded)
}

// recordedHeaders are the headers of a task that a job document is made of.
type recordedHeaders struct {
	Task    string            `json:"task"`
	Hooks   []json.RawMessage `json:"girder_result_hooks"`
	APIURL  string            `json:"girder_api_url"`
	Session map[string]any    `json:"girder_client_session_kwargs"`
	Spec    struct {
		Reference string `json:"reference"`
	} `json:"jobInfoSpec"`
}

func headersOf(t *testing.T, m recordtest.Message) (h recordedHeaders) {
	t.Helper()
	if m.Task(t) == "" {
		return h // of an event, or an answer
	}
	if err := json.Unmarshal(m.Properties.Headers, &h); err != nil {
		t.Fatal(err)
	}
	return h
}
