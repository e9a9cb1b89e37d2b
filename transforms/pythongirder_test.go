package transforms

import (
	"encoding/json"
	"strings"
	"testing"
)

// Each server that a call names is moved, and nothing else of it.
func TestMoveGirders(t *testing.T) {
	client := `{"py/object":"girder_client.GirderClient","urlBase":"http://a/api/v1/","token":"x"}`
	c := PythonCall{
		Args: []json.RawMessage{
			[]byte(`{"py/object":"girder_worker_utils.transforms.girder_io.GirderFileId","file_id":"1","gc":` + client + `}`),
			[]byte(`["http://a/api/v1", 12345678901234567890, "girder_client.GirderClient"]`),
		},
		Kwargs:  []byte(`{"k":[{"deep":{"py/object":"girder_client.GirderClient","py/state":{"urlBase":"http://b/api/v1"}}}]}`),
		Hooks:   []json.RawMessage{[]byte(`{"gc":` + client + `}`)},
		Request: map[string]any{"girder_api_url": "http://c/api/v1"},
	}
	var asked []string
	if err := c.MoveGirders(func(api string) string {
		asked = append(asked, api)
		return strings.Replace(api, "http://", "http://x.", 1)
	}); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"task":"","args":[{"file_id":"1","gc":{"py/object":"girder_client.GirderClient","token":"x","urlBase":"http://x.a/api/v1/"},` +
		`"py/object":"girder_worker_utils.transforms.girder_io.GirderFileId"},["http://a/api/v1",12345678901234567890,"girder_client.GirderClient"]],` +
		`"kwargs":{"k":[{"deep":{"py/object":"girder_client.GirderClient","py/state":{"urlBase":"http://x.b/api/v1"}}}]},` +
		`"hooks":[{"gc":{"py/object":"girder_client.GirderClient","token":"x","urlBase":"http://x.a/api/v1/"}}],"request":{"girder_api_url":"http://x.c/api/v1"}}`
	if string(data) != want || strings.Join(asked, " ") != "http://c/api/v1 http://b/api/v1 http://a/api/v1 http://a/api/v1" {
		t.Errorf("got  %s\nwant %s\nasked %q", data, want, asked)
	}
}

func TestFromContainer(t *testing.T) {
	for api, want := range map[string][2]string{
		"http://localhost:8080/api/v1":        {"http://host.docker.internal:8080/api/v1", "localhost:8080"},
		"http://127.0.0.1/api/v1":             {"http://host.docker.internal:80/api/v1", "127.0.0.1:80"},
		"https://[::1]:444/api/v1":            {"https://host.docker.internal:444/api/v1", "[::1]:444"},
		"https://girder.example.org/api/v1":   {"https://girder.example.org/api/v1", "girder.example.org:443"},
		"http://192.0.2.1:8080/girder/api/v1": {"http://192.0.2.1:8080/girder/api/v1", "192.0.2.1:8080"},
		"nothing":                             {"nothing", ""},
	} {
		if inside, service := FromContainer(api); inside != want[0] || service != want[1] {
			t.Errorf("%s: %q, %q", api, inside, service)
		}
	}
}
