package daemon_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
	"girderworker/transforms/girder/girdertest"
)

// A job of somebody whom policy lets have the use of the machine's API key works
// in Girder with tokens of it. The key itself is with root and one process that
// is nobody's, and nowhere else.
func TestMachineKey(t *testing.T) {
	w := newWorld(t)
	w.stop()
	g := girdertest.New(t, girdertest.Config{MinChunk: 1})
	machine := g.AddUser(true)
	key := g.AddAPIKey(machine)
	folder := g.AddFolder(machine, "data")
	item := g.AddItem(folder, "in")
	file := g.AddFile(item, "in.txt", []byte("from Girder"))
	results := g.AddItem(folder, "out")
	keyFile := filepath.Join(filepath.Dir(w.config), "girder.key")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	write(keyFile, key+"\n", 0o600)
	rules := filepath.Join(filepath.Dir(w.config), "policy.toml")
	write(rules, fmt.Sprintf("[group.%d]\ngirder_key = true\n", memberGID), 0o644)
	w.configure("slots = 4", "policy_file = "+rules, "girder_url = "+g.API()+"/", "girder_key_file = "+keyFile)
	w.start()

	fields := []any{
		"downloads", []map[string]any{{"name": "ct", "file_id": file}},
		"uploads", []map[string]any{{"name": "out.txt", "item_id": results}},
	}
	// Root is not in the group.
	for name, more := range map[string][]any{
		"which is not named":          nil,
		"which is named":              {"girder", map[string]any{"machine_key": true}},
		"which is named with its URL": {"girder", map[string]any{"machine_key": true, "api_url": g.API()}},
	} {
		_, err := w.client.Submit(t.Context(), document("true", append(more, fields...)...))
		var api *client.Error
		if !errors.As(err, &api) || more != nil && (api.Kind != apitype.KindForbidden || api.Field != "girder.machine_key" || !strings.Contains(api.Text, "girder_key")) {
			t.Errorf("somebody without the right gets the key %s: %v", name, err)
		}
	}

	submit := w.submitAsPerson
	// A token that has ended is replaced.
	g.Fail("GET /file/{id}/download", 1, girdertest.Status(401))
	g.Fail("POST /api_key/token", 1, girdertest.Status(503))
	script := `cat "$0"; echo; echo "{girder.token}"; echo -n result >/mnt/girder_worker/default/out.txt; cat /proc/*/environ /proc/*/cmdline`
	id := submit(document("", append([]any{"args", []string{"sh", "-c", script, "{ct}"}}, fields...)...))
	if job := w.wait(id); job.State != "succeeded" {
		t.Fatalf("job %+v\n%s", job, w.log(id))
	}
	log := w.log(id)
	if !strings.HasPrefix(log, "from Girder\n{girder.token}\n") {
		t.Errorf("the log is %q", log)
	}
	if files := g.Files(results); len(files) != 1 || string(files[0].Data) != "result" {
		t.Errorf("uploaded were %+v", files)
	}
	given := g.Calls("POST /api_key/token")
	if len(given) < 3 {
		t.Errorf("%d tokens were asked for, want one for the download, another after the 401, and one for the upload", len(given))
	}
	for _, call := range g.Calls("") {
		if strings.Contains(call.Path+call.Header.Get("Girder-Token"), key) {
			t.Errorf("the key was sent along with %s", call.Path)
		}
	}
	nowhere := func(what string, data []byte) {
		t.Helper()
		if bytes.Contains(data, []byte(key)) {
			t.Errorf("the key is in %s", what)
		}
		for _, call := range g.Calls("GET /file/{id}/download") {
			if token := call.Header.Get("Girder-Token"); token != "" && bytes.Contains(data, []byte(token)) {
				t.Errorf("a token is in %s", what)
			}
		}
	}
	shown, err := json.Marshal(w.job(id))
	if err != nil {
		t.Fatal(err)
	}
	nowhere("what is shown of the job", shown)
	nowhere("the job's log", []byte(log))
	nowhere("the daemon's log", []byte(w.stderr.String()))
	err = filepath.WalkDir(w.state(), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the job is told to be over before its work directory is removed
		}
		if info, stat := d.Info(); err == nil && stat == nil && d.Type().IsRegular() && info.Size() < 64<<20 { // not a disk
			data, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			nowhere(path, data)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	// While it is in use, nobody's process has it: not the submitter's, not the front's.
	g.Fail("GET /file/{id}/download", -1, girdertest.Hang())
	id = submit(document("true", fields...))
	w.eventually("the download hangs", func() bool {
		return strings.Contains(w.job(id).Stage, "fetching")
	})
	keepers := 0
	for _, pid := range w.processes() {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		nowhere(fmt.Sprintf("process %d", pid), append(line, environ...))
		_, uid, _ := strings.Cut(string(status), "\nUid:\t")
		uid, _, _ = strings.Cut(uid, "\t")
		switch uid {
		case "0", fmt.Sprint(frontUID), fmt.Sprint(personUID):
		default:
			keepers++
		}
	}
	if keepers != 1 {
		t.Errorf("%d processes are nobody's, want the one that keeps the key", keepers)
	}
	if _, err := w.client.Cancel(t.Context(), id, "enough"); err != nil {
		t.Fatal(err)
	}
	if job := w.wait(id); job.State != "canceled" {
		t.Errorf("job %+v", job)
	}
	g.Mend()

	// A key that others could read, and another server: told, and nothing is sent.
	write(keyFile, key, 0o640)
	before := len(g.Calls(""))
	if job := w.wait(submit(document("true", fields...))); job.State != "failed" || !strings.Contains(job.Error, "must be a file of root with mode 0600") {
		t.Errorf("job %+v", job)
	}
	write(keyFile, key, 0o600)
	other := girdertest.New(t, girdertest.Config{})
	job := w.wait(submit(document("true", append(fields, "girder", map[string]any{"machine_key": true, "api_url": other.API()})...)))
	if job.State != "failed" || !strings.Contains(job.Error, "goes to no other server") {
		t.Errorf("job %+v", job)
	}
	if len(g.Calls("")) != before || len(other.Calls("")) != 0 {
		t.Error("a server was called")
	}
}
