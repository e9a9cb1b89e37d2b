package transforms

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds v, as indented JSON, against testdata/NAME.
func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %s\nwant %s", name, got, want)
	}
}

func TestFullDocument(t *testing.T) {
	f, err := ParseJobFile([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseJobFile(f.AppendJSON(nil))
	if err != nil || !reflect.DeepEqual(again, f) {
		t.Errorf("the canonical form reads back as %+v, %v", again, err)
	}
	secrets, err := f.TakeSecrets()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.secrets.json", secrets)
	stored := f.AppendJSON(nil)
	for _, secret := range []string{"secret-token", `"key"`, "quiet", "hush", "me:word"} {
		if bytes.Contains(stored, []byte(secret)) {
			t.Errorf("%s is in the stored document %s", secret, stored)
		}
	}
	if f, err = ParseJobFile(stored); err != nil {
		t.Fatal(err)
	}
	plan, err := f.Plan()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.plan.json", plan)
	if _, err := f.TakeSecrets(); err == nil {
		t.Error("a document without its secrets was submitted")
	}
}
