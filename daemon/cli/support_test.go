package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSupportHidesSecrets plants secrets wherever a bundle looks.
func TestSupportHidesSecrets(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	token := strings.Repeat("Zq7", 21) + "x"
	write("worker.cfg", fmt.Sprintf("[girder_worker]\nstate_dir = %s\npolicy_file = %[1]s/policy.toml\n[celery]\nbroker = amqp://lab:plantedbroker@rabbit/\nbackend = redis://x:plantedbackend@h/\n", dir))
	write("worker.local.cfg", "[DEFAULT]\nrabbitmq_pass = planteddefault\n")
	write("policy.toml", "# see https://me:plantedpolicy@wiki.lab/\n[default]\n")
	write("audit.jsonl", strings.Join([]string{
		`{"event":"refused","reason":"cannot reach plantedbroker, amqp://other:plantedother@h/"}`,
		`{"event":"refused","reason":"girder_token=plantedtoken, {\"api_key\": \"plantedkey\"}"}`,
		`{"event":"refused","reason":"Authorization: Bearer plantedbearer"}`,
		`{"event":"start","job":"visible","image":"sha256:` + strings.Repeat("0a", 32) + `"}`,
		`{"event":"end","reason":"` + token + `"}`,
	}, "\n")+"\n")
	target := filepath.Join(dir, "bundle.tar.gz")
	var said bytes.Buffer
	p := thisProcess("--socket", filepath.Join(dir, "none"), "support", "--config", filepath.Join(dir, "worker.cfg"), target)
	p.Stderr = &said
	if code := Main(p); code != 0 {
		t.Fatalf("exit code %d: %s", code, &said)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	files := bundleFiles(t, target)
	for name, text := range files {
		for _, secret := range []string{"planted", token} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s holds …%.80q", name, text[max(0, i-20):])
			}
		}
	}
	for name, want := range map[string]string{
		"config.txt":             "broker = amqp://lab:***@rabbit/",
		"policy.toml":            "me:***@wiki.lab",
		"audit.jsonl":            `"job":"visible","image":"sha256:` + strings.Repeat("0a", 32),
		"version.json":           `"1.2.3"`,
		"machine/proc-version":   "Linux",
		"MANIFEST":               "status.json: exit code 125", // no daemon answers
		"machine/proc-meminfo":   "MemTotal",
		"config.json":            "no_effect",
		"status.txt":             "cannot",
		"machine/proc-loadavg":   " ",
		"machine/proc-cgroups":   "memory",
		"machine/etc-os-release": "ID",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s lacks %s:\n%.500s", name, want, files[name])
		}
	}
}

func bundleFiles(t *testing.T, path string) map[string]string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name, ok := strings.CutPrefix(h.Name, "girder-worker-support/")
		if !ok {
			t.Errorf("%s is outside", h.Name)
		}
		files[name] = string(data)
	}
}
