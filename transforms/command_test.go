package transforms

import (
	"slices"
	"strings"
	"testing"

	"girderworker/sandbox"
)

// TestCommandDocument: a command is kept as it is, and runs nothing else.
func TestCommandDocument(t *testing.T) {
	f, err := ParseJobFile([]byte(`{"command": ["/bin/echo", "{v}"], "args": ["{v}", "{progress}"], "volumes": ["v"], "progress": true, "network": "none"}`))
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseJobFile(f.AppendJSON(nil))
	if err != nil || !slices.Equal(again.Command, f.Command) {
		t.Errorf("%+v, %v", again, err)
	}
	p, err := f.Plan()
	if err != nil || !f.OnHost() || !p.OnHost() || !p.Options.Init || !slices.Equal(p.Command, []string{"/bin/echo", "{v}"}) ||
		!slices.Equal(p.Args, []string{"/mnt/girder_worker/v", PipeDirectory + "/progress"}) || p.Network != sandbox.NetworkNone {
		t.Errorf("%+v, %v", p, err)
	}
	for document, says := range map[string]string{
		`{"command": []}`:                       "command: an empty command",
		`{"command": [""]}`:                     "command: an empty command",
		`{"command": ["./x"]}`:                  "clean absolute path",
		`{"command": ["/x/"]}`:                  "clean absolute path",
		`{"command": ["a\nb"]}`:                 "no path of a program",
		`{"command": "/x"}`:                     "command: ",
		`{"command": ["/x"], "image": "i"}`:     "image: there is a command",
		`{"command": ["/x"], "entrypoint": []}`: "entrypoint: command says",
		`{"command": ["/x"], "user": "root"}`:   "user: a command runs as whoever",
		`{"command": ["/x"], "pull": "always"}`: "pull: a command has no image",
		`{"command": ["/x"], "python": {"interpreter": "/p", "module": "m"}}`: "python: there is a command",
	} {
		if _, err := ParseJobFile([]byte(document)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want …%s…", document, err, says)
		}
	}
}

// TestCommandMounts: nothing is put where the machine's own files are.
func TestCommandMounts(t *testing.T) {
	plan := func(change func(*Plan)) error {
		p := Plan{Command: []string{"/bin/true"}}
		change(&p)
		return p.CheckCommand()
	}
	for name, change := range map[string]func(*Plan){
		"none":         func(*Plan) {},
		"beneath /mnt": func(p *Plan) { p.Binds = []Bind{{Source: "/a", Target: "/mnt/a"}, {Source: "/b", Target: "/mnt/ab"}} },
		"a volume":     func(p *Plan) { p.Volumes = []Volume{{Name: "v", Target: "/tmp/v"}} },
		"a pipe in it": func(p *Plan) { p.Volumes = []Volume{{Target: "/tmp/v"}}; p.Streams = []Stream{{Path: "/tmp/v/p"}, {}} },
		"memory":       func(p *Plan) { p.Options.Tmpfs = []Tmpfs{{Target: "/tmp"}, {Target: "/var/tmp/x"}} },
		"a device":     func(p *Plan) { p.Options.Devices = []Device{{Source: "/dev/fuse"}} },
	} {
		if err := plan(change); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Plan){
		"binds":              func(p *Plan) { p.Binds = []Bind{{Target: "/usr/lib"}} },
		"binds, all":         func(p *Plan) { p.Binds = []Bind{{Target: "/mnt"}} },
		"binds, unclean":     func(p *Plan) { p.Binds = []Bind{{Target: "/mnt/../usr"}} },
		"binds, within":      func(p *Plan) { p.Binds = []Bind{{Target: "/mnt/a"}, {Target: "/mnt/a/link"}} },
		"volumes":            func(p *Plan) { p.Volumes = []Volume{{Target: "/opt"}} },
		"volumes, in a bind": func(p *Plan) { p.Binds, p.Volumes = []Bind{{Target: "/mnt/a"}}, []Volume{{Target: "/mnt/a/link"}} },
		"inputs":             func(p *Plan) { p.Streams = []Stream{{Path: "/usr/bin/env"}} },
		"inputs, in a bind":  func(p *Plan) { p.Binds, p.Streams = []Bind{{Target: "/mnt/a"}}, []Stream{{Path: "/mnt/a/link"}} },
		"tmpfs":              func(p *Plan) { p.Options.Tmpfs = []Tmpfs{{Target: "/usr"}} },
		"devices":            func(p *Plan) { p.Options.Devices = []Device{{Source: "/dev/fuse", Target: "/dev/../usr/bin/env"}} },
		"command":            func(p *Plan) { p.Image = "i" },
		"command, python":    func(p *Plan) { p.Python = &Python{} },
		"command, user":      func(p *Plan) { p.User = "0" },
		"command, groups":    func(p *Plan) { p.Options.GroupAdd = []string{"0"} },
		"command, name":      func(p *Plan) { p.Command = []string{"a/b"} },
		"command, none":      func(p *Plan) { p.Command = []string{} },
	} {
		field, _, _ := strings.Cut(name, ",")
		if err := plan(change); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
