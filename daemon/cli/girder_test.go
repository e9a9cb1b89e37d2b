package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const girderID = "5f0c1d2e3a4b5c6d7e8f9a0b"

// ownConfig is a home directory with a girder.json, and how it is looked up.
func ownConfig(t *testing.T, content string, mode os.FileMode) func(string) (string, bool) {
	t.Helper()
	home := t.TempDir()
	dir := filepath.Join(home, ".config", "girder-worker")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "girder.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
	return func(name string) (string, bool) { return home, name == "HOME" }
}

const ownServer = `{"api_url": "https://girder.test/api/v1", "api_key": "KEY"}`

func TestFlagsThatNameGirder(t *testing.T) {
	document := func(lookup func(string) (string, bool), args ...string) (string, error) {
		var flags jobFlags
		cmd := &cobra.Command{}
		flags.add(cmd)
		if err := cmd.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		d, err := flags.document(cmd, lookup, "img", nil)
		if err != nil {
			return "", err
		}
		data, err := json.Marshal(d)
		return string(data), err
	}
	own := ownConfig(t, ownServer, 0o600)
	got, err := document(own, "--input", "ct=girder:"+girderID, "--input", "all=girder-folder:"+girderID, "--output", "mask.nii=girder-item:"+girderID)
	want := `{"downloads":[{"name":"all","folder_id":"` + girderID + `"}],"girder":{"api_url":"https://girder.test/api/v1","api_key":"KEY"},"image":"img",` +
		`"inputs":[{"name":"ct","file_id":"` + girderID + `"}],"uploads":[{"name":"mask.nii","item_id":"` + girderID + `"}]}`
	if err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
	if got, err := document(own); err != nil || strings.Contains(got, "KEY") {
		t.Errorf("a job that needs no Girder carries the key: %s, %v", got, err)
	}
	if _, err := document(own, "--output", "a=girder:"+girderID); err == nil || !strings.Contains(err.Error(), "girder-item:ID") {
		t.Errorf("an output into a file of Girder: %v", err)
	}
	if _, err := document(ownConfig(t, ownServer, 0o640), "--input", "a=girder:"+girderID); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key that others may read: %v", err)
	}
	if _, err := document(ownConfig(t, "api_key = KEY", 0o600), "--input", "a=girder:"+girderID); err == nil || strings.Contains(err.Error(), "KEY") {
		t.Errorf("a configuration that is not JSON: %v", err)
	}
}

func TestOwnServerOfDocuments(t *testing.T) {
	own := ownConfig(t, ownServer, 0o600)
	for document, want := range map[string]string{
		`{"image": "a"}`:                                  `{"image": "a"}`,
		` {"uploads": [], "uploads": []}`:                 `{"girder": ` + ownServer + `,"uploads": [], "uploads": []}`,
		`{"inputs": [{"name": "a", "file_id": "x"}]}`:     `{"girder": ` + ownServer + `,"inputs": [{"name": "a", "file_id": "x"}]}`,
		`{"downloads": [], "girder": "http://other"}`:     `{"downloads": [], "girder": "http://other"}`,
		`{"jobs": [{"downloads": []}]}`:                   `{"jobs": [{"downloads": []}]}`,
		`not JSON`:                                        `not JSON`,
		`{"task": "t", "kwargs": {"a": "girder-file:x"}}`: `{"girder": ` + ownServer + `,"task": "t", "kwargs": {"a": "girder-file:x"}}`,
		`{"task": "t", "kwargs": {"a": "/b"}}`:            `{"task": "t", "kwargs": {"a": "/b"}}`,
		`{"image": "a", "args": ["girder-file:x"]}`:       `{"image": "a", "args": ["girder-file:x"]}`,
	} {
		got, err := withOwnGirder([]byte(document), own)
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %s, %v", document, got, err)
		}
	}
	none := func(string) (string, bool) { return "", false }
	if got, err := withOwnGirder([]byte(`{"downloads": []}`), none); err != nil || string(got) != `{"downloads": []}` {
		t.Errorf("without a configuration: %s, %v", got, err)
	}
}
