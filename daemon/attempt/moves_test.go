package attempt

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"girderworker/transforms"
)

const someID = "0123456789abcdef01234567"

// moves is a plan with one of everything that is moved.
func moves() transforms.Plan {
	return transforms.Plan{
		Image: "busybox", Args: []string{"run", "ab"}, Entrypoint: []string{"sh"}, Env: []string{"T="},
		Volumes: []transforms.Volume{{Name: "default", Target: "/mnt/girder_worker/v"}, {Name: "own", Target: "/own", HostDir: "/srv/own"}},
		Binds:   []transforms.Bind{{Name: "host", Source: "/srv", Target: "/srv"}},
		Girders: []transforms.Girder{{Name: "g", URL: "http://127.0.0.1/api/v1"}},
		Fetches: []transforms.Fetch{{Name: "f", Kind: transforms.FetchFile, Girder: "g", ID: someID, Into: "default", Direct: "/assets/f"}},
		Inserts: []transforms.Insertion{{Arg: 1, At: 1, Fetch: "f"}, {Arg: 1, At: 2, Fetch: "f"}, {List: transforms.InsertEnv, Arg: 0, At: 2, Token: "g"}},
		Hooks:   []transforms.Hook{{Name: "h", Kind: transforms.HookItem, Girder: "g", ID: someID, From: "host", Path: "out/a"}},
		Streams: []transforms.Stream{
			{Name: "in", Kind: transforms.StreamInput, Path: "/in", Girder: &transforms.GirderFile{Girder: "g", ID: someID}},
			{Name: "out", Kind: transforms.StreamOutput, Path: transforms.PipeDirectory + "/out", HTTP: &transforms.HTTPTarget{URL: "http://127.0.0.1/"}},
			{Name: "stdout", Kind: transforms.StreamStdout, Log: "stderr"},
		},
	}
}

func TestMoves(t *testing.T) {
	plan := moves()
	if err := validatePlan(&plan); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*transforms.Plan){
		"two volumes":        func(p *transforms.Plan) { p.Volumes[1].Name = "default" },
		"bind and volume":    func(p *transforms.Plan) { p.Binds[0].Name = "default" },
		"volume at the root": func(p *transforms.Plan) { p.Volumes[0].Target = "/" },
		"relative host_dir":  func(p *transforms.Plan) { p.Volumes[1].HostDir = "own" },
		"fetch from nowhere": func(p *transforms.Plan) { p.Fetches[0].Girder = "x" },
		"fetch to nowhere":   func(p *transforms.Plan) { p.Fetches[0].Into = "x" },
		"fetch of nothing":   func(p *transforms.Plan) { p.Fetches[0].ID = "../../../etc/passwd12345" },
		"fetch out of it":    func(p *transforms.Plan) { p.Fetches[0].Rename = "../a" },
		"kind of fetch":      func(p *transforms.Plan) { p.Fetches[0].Kind = "all" },
		"insert of nothing":  func(p *transforms.Plan) { p.Inserts[0].Fetch = "x" },
		"insert beyond":      func(p *transforms.Plan) { p.Inserts[1].At = 3 },
		"insert nowhere":     func(p *transforms.Plan) { p.Inserts[1].Arg = 2 },
		"insert backwards":   func(p *transforms.Plan) { p.Inserts[1].At = 0 },
		"insert in no list":  func(p *transforms.Plan) { p.Inserts[2].List = "image" },
		"insert no token":    func(p *transforms.Plan) { p.Inserts[2].Token = "x" },
		"insert both":        func(p *transforms.Plan) { p.Inserts[2].Fetch = "f" },
		"insert neither":     func(p *transforms.Plan) { p.Inserts[2].Token = "" },
		"relative direct":    func(p *transforms.Plan) { p.Fetches[0].Direct = "assets/f" },
		"direct folder":      func(p *transforms.Plan) { p.Fetches[0].Kind = transforms.FetchFolder },
		"mode":               func(p *transforms.Plan) { p.Volumes[1].Mode = 0o10000 },
		"server of no kind":  func(p *transforms.Plan) { p.Girders[0].URL = "ftp://g/api/v1" },
		"server's password":  func(p *transforms.Plan) { p.Girders[0].URL = "http://u:p@g/api/v1" },
		"target of no kind":  func(p *transforms.Plan) { p.Streams[1].HTTP.URL = "file:///etc/passwd" },
		"hook out of it":     func(p *transforms.Plan) { p.Hooks[0].Path = "a/../../b" },
		"hook from nowhere":  func(p *transforms.Plan) { p.Hooks[0].From = "x" },
		"kind of hook":       func(p *transforms.Plan) { p.Hooks[0].Kind = "x" },
		"no end":             func(p *transforms.Plan) { p.Streams[0].Girder = nil },
		"two ends":           func(p *transforms.Plan) { p.Streams[0].File = "/a" },
		"upload as input":    func(p *transforms.Plan) { p.Streams[0].Girder = nil; p.Streams[0].Log = "stdout" },
		"download as output": func(p *transforms.Plan) { p.Streams[1].HTTP = nil; p.Streams[1].Girder = p.Streams[0].Girder },
		"third log":          func(p *transforms.Plan) { p.Streams[2].Log = "stdin" },
		"stdout with a path": func(p *transforms.Plan) { p.Streams[2].Path = "/a" },
		"somebody's pipe":    func(p *transforms.Plan) { p.Streams[0].Path = transforms.PipeDirectory + "/out" },
	} {
		t.Run(name, func(t *testing.T) {
			plan := moves()
			change(&plan)
			if err := validatePlan(&plan); err == nil {
				t.Errorf("accepted: %+v", plan)
			}
		})
	}
}

func TestSecrets(t *testing.T) {
	d, err := NewDir(t.TempDir(), "job", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteSecrets(transforms.Secrets{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(d.file(secretsName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file without secrets: %v", err)
	}
	if s, err := d.ReadSecrets(); err != nil || s.Tokens != nil {
		t.Errorf("secrets of none are %v, %v", s, err)
	}
	if err := d.WriteSecrets(transforms.Secrets{Tokens: map[string]string{"g": "hush"}}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(d.file(secretsName)); err != nil || info.Mode() != 0o600 {
		t.Errorf("secrets are %v, %v", info.Mode(), err)
	}
	if s, err := d.ReadSecrets(); err != nil || s.Tokens["g"] != "hush" {
		t.Errorf("secrets are %v, %v", s, err)
	}
	if err := os.WriteFile(d.file(secretsName), []byte(`{"tokens":"hush"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadSecrets(); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("bad secrets: %v", err)
	}
	for range 2 {
		if err := d.RemoveSecrets(); err != nil {
			t.Error(err)
		}
	}
}

func TestFinish(t *testing.T) {
	d, err := NewDir(t.TempDir(), "job", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.Path(), 0o755); err != nil {
		t.Fatal(err)
	}
	unfinished := func(want bool) {
		t.Helper()
		if got, err := d.Unfinished(); got != want || err != nil {
			t.Errorf("unfinished is %v, %v", got, err)
		}
	}
	unfinished(false)
	if err := d.WriteFinish(Finish{Hook: 2, State: []byte(`{"file":1}`)}); err != nil {
		t.Fatal(err)
	}
	unfinished(false) // before its exit it is lost, not to be resumed
	exit, err := d.ReserveExit(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	if err := exit.Commit(Exit{Outcome: OutcomeExited}); err != nil {
		t.Fatal(err)
	}
	unfinished(true)
	f, err := d.ReadFinish()
	if err != nil || f.Hook != 2 || string(f.State) != `{"file":1}` {
		t.Errorf("it is %+v, %v", f, err)
	}
	for range 2 {
		if err := d.RemoveFinish(); err != nil {
			t.Error(err)
		}
	}
	unfinished(false)
}
