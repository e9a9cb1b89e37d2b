package transforms

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// OnHost tells whether the root file system is made of the host's: there is no image.
func (p *Plan) OnHost() bool { return p.Python != nil || len(p.Command) > 0 }

// OnHost tells whether the root file system is made of the host's: there is no image.
func (f *JobFile) OnHost() bool { return f.Python != nil || len(f.Command) > 0 }

// HostPlaces are the directories of a host's root in which a command's container has
// its own: nothing of the machine is seen there.
func HostPlaces() []string { return []string{"/mnt", "/tmp", "/var/tmp"} }

func (f *JobFile) checkCommand() error {
	if f.Command == nil {
		return nil
	}
	for _, other := range []struct {
		field string
		given bool
		why   string
	}{
		{"image", f.Image != "", "there is a command: a task runs an image, or a program of this machine"},
		{"python", f.Python != nil, "there is a command"},
		{"pull", f.Pull != "", "a command has no image"},
		{"entrypoint", f.Entrypoint != nil, "command says which program runs"},
		{"user", f.User != "", "a command runs as whoever asks for it"},
		{"group_add", f.GroupAdd != nil, "a command has the groups of whoever asks for it"},
	} {
		if other.given {
			return inField(other.field, problem("%s", other.why))
		}
	}
	return checkProgram(f.Command)
}

// checkProgram refuses what can be no command: the program is a path, or a name.
func checkProgram(command []string) error {
	if len(command) == 0 || command[0] == "" {
		return inField("command", problem("an empty command; write the path of a program"))
	}
	program := command[0]
	switch {
	case len(program) > MaxPath || strings.ContainsFunc(program, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return inField("command", problem("%.80q is no path of a program", program))
	case strings.ContainsRune(program, '/') && (!path.IsAbs(program) || path.Clean(program) != program):
		return inField("command", problem("%.200q: write a clean absolute path, as in /usr/bin/convert, or a name that is looked for in the usual places", program))
	}
	return nil
}

// CheckCommand refuses a command's plan that would have the container see something
// else where the host's files are: whoever calls it could then bring programs.
func (p *Plan) CheckCommand() error {
	if p.Command == nil {
		return nil
	}
	if p.Python != nil || p.Image != "" || p.Entrypoint != nil || p.User != "" || p.Options.GroupAdd != nil {
		return inField("command", problem("a program of this machine runs as its caller and as nothing else"))
	}
	if err := checkProgram(p.Command); err != nil {
		return err
	}
	own := func(target string) bool {
		return slices.ContainsFunc(HostPlaces(), func(dir string) bool { return strings.HasPrefix(target, dir+"/") })
	}
	check := func(field, target string) error {
		if !own(target) || path.Clean(target) != target {
			return inField(field, problem("the target %s is the machine's own; what a command gets is beneath %s", target, strings.Join(HostPlaces(), ", ")))
		}
		for _, b := range p.Binds { // where there may be links to anywhere
			if target != b.Target && within(target, b.Target) {
				return inField(field, problem("the target %s is in that of %s", target, b.Source))
			}
		}
		return nil
	}
	for _, b := range p.Binds {
		if err := check("binds", b.Target); err != nil {
			return err
		}
	}
	for _, v := range p.Volumes {
		if err := check("volumes", v.Target); err != nil {
			return err
		}
	}
	for _, s := range p.Streams {
		if s.Path != "" {
			if err := check("inputs and outputs", s.Path); err != nil {
				return err
			}
		}
	}
	for _, t := range p.Options.Tmpfs {
		if !slices.Contains(HostPlaces(), t.Target) {
			if err := check("tmpfs", t.Target); err != nil {
				return err
			}
		}
	}
	for _, d := range p.Options.Devices {
		if at := path.Clean(cmp.Or(d.Target, d.Source)); !strings.HasPrefix(at, "/dev/") {
			if err := check("devices", at); err != nil {
				return err
			}
		}
	}
	return nil
}
