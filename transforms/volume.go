package transforms

import (
	"os"
	"path"
	"strconv"
	"strings"
)

// volumeDirectory is where volumes are in the container unless the job says
// otherwise.
const volumeDirectory = "/mnt/girder_worker"

func (r *reader) bind() (b Bind, err error) {
	err = r.object(func(key string) (err error) {
		switch key {
		case "name":
			b.Name, err = r.identifier()
		case "source":
			b.Source, err = r.hostPath()
		case "target":
			b.Target, err = r.containerPath()
		case "read_only":
			b.ReadOnly, err = r.boolean()
		default:
			err = problem("unknown field")
		}
		return err
	})
	switch {
	case err != nil:
	case b.Source == "":
		err = inField("source", problem("missing"))
	case b.Target == "":
		err = inField("target", problem("missing"))
	}
	return b, err
}

// volume is a name, or an object.
func (r *reader) volume() (v Volume, err error) {
	if r.kind() == '"' {
		v.Name, err = r.identifier()
	} else {
		err = r.object(func(key string) (err error) {
			switch key {
			case "name":
				v.Name, err = r.identifier()
			case "target":
				v.Target, err = r.containerPath()
			case "read_only":
				v.ReadOnly, err = r.boolean()
			case "host_dir":
				v.HostDir, err = r.hostPath()
			case "mode":
				v.Mode, err = r.mode()
			default:
				err = problem("unknown field")
			}
			return err
		})
	}
	switch {
	case err != nil:
	case v.Name == "":
		err = inField("name", problem("missing"))
	case v.Mode != 0 && v.HostDir == "":
		err = inField("mode", problem("it is that of host_dir, which is missing"))
	case v.Target == "":
		v.Target = path.Join(volumeDirectory, v.Name)
	}
	return v, err
}

// mode is octal digits in a string, as chmod takes them.
func (r *reader) mode() (os.FileMode, error) {
	s, err := r.text()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil || n == 0 {
		return 0, problem(`%.20q is no mode; write octal digits, as in "2775"`, s)
	}
	return os.FileMode(n), nil
}

func (w *writer) mounts(f *JobFile) {
	list(w, "binds", f.Binds, func(b *Bind) {
		w.text("name", b.Name)
		w.text("source", b.Source)
		w.text("target", b.Target)
		w.flag("read_only", b.ReadOnly)
	})
	list(w, "volumes", f.Volumes, func(v *Volume) {
		w.text("name", v.Name)
		w.text("target", v.Target)
		w.flag("read_only", v.ReadOnly)
		w.text("host_dir", v.HostDir)
		if v.Mode != 0 {
			w.text("mode", strconv.FormatUint(uint64(v.Mode), 8))
		}
	})
}

// usesDefault tells whether something is to come into or out of the default
// volume, which then need not be declared.
func (f *JobFile) usesDefault() bool {
	for i := range f.Downloads {
		if f.Downloads[i].Into == "" {
			return true
		}
	}
	for i := range f.Uploads {
		if f.Uploads[i].From == "" {
			return true
		}
	}
	return false
}

// volumes are those of the job, with the default volume where it is used.
func (f *JobFile) volumes() []Volume {
	all := append([]Volume(nil), f.Volumes...)
	if f.usesDefault() && f.place(DefaultVolume) == "" {
		all = append(all, Volume{Name: DefaultVolume, Target: path.Join(volumeDirectory, DefaultVolume)})
	}
	return all
}

// place is where the container finds a volume or bind of the document by its
// name, and empty when there is none.
func (f *JobFile) place(name string) string {
	for i := range f.Volumes {
		if f.Volumes[i].Name == name {
			return f.Volumes[i].Target
		}
	}
	for i := range f.Binds {
		if f.Binds[i].Name == name {
			return f.Binds[i].Target
		}
	}
	return ""
}

// checkMounts refuses two things at one place, and what would hide something
// that the container needs.
func (f *JobFile) checkMounts() error {
	if len(f.Binds)+len(f.Volumes) == 0 && !f.usesDefault() {
		return nil
	}
	targets := make(map[string]bool)
	check := func(field, target string) error {
		switch {
		case targets[target]:
			return inField(field, problem("the target %s is given twice", target))
		case target == "/":
			return inField(field, problem("the target / would hide the image"))
		case within(target, PipeDirectory), f.pipesNeeded() && within(PipeDirectory, target):
			return inField(field, problem("the target %s would hide the job's pipes in %s", target, PipeDirectory))
		}
		for _, own := range []string{"/proc", "/sys", "/dev"} {
			if within(target, own) {
				return inField(field, problem("the target %s is within %s, which is the container's own", target, own))
			}
		}
		targets[target] = true
		return nil
	}
	for i := range f.Binds {
		if err := check("binds", f.Binds[i].Target); err != nil {
			return err
		}
	}
	for _, v := range f.volumes() {
		if err := check("volumes", v.Target); err != nil {
			return err
		}
	}
	for _, t := range f.Tmpfs {
		if targets[t.Target] {
			return inField("tmpfs", problem("the target %s is given twice", t.Target))
		}
	}
	return nil
}

// within tells whether the clean path p is dir or lies below it.
func within(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir) && p[len(dir)] == '/'
}
