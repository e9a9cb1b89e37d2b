package transforms

import (
	"fmt"
	"math/big"
	"os"
	"path"
	"strings"

	"girderworker/transforms/jsonpickle"
)

func modeOf(bits int64) os.FileMode { return os.FileMode(bits) }

// pull reads pull_image, which is True when it is not given: true, false, or
// slicer_cli_web's 'if-not-present'.
func (d *taskDecoder) pull(v jsonpickle.Value) error {
	switch v {
	case true, int64(1):
		d.file.Pull = PullAlways
	case false, nil, int64(0):
		d.file.Pull = PullNever
	case "if-not-present":
		d.file.Pull = PullMissing
	default:
		return taskProblem("pull_image", "want True, False or 'if-not-present'")
	}
	return nil
}

func (d *taskDecoder) entrypoint(v jsonpickle.Value) error {
	items, err := listOf("entrypoint", v)
	if items == nil && err == nil && v != nil {
		items = []jsonpickle.Value{v}
		if _, isList := v.(*jsonpickle.List); isList {
			return nil // docker takes an empty one for none
		}
	}
	if err != nil {
		return err
	}
	for i, item := range items {
		at := fmt.Sprintf("entrypoint[%d]", i)
		switch item.(type) {
		case string, *jsonpickle.Object:
		default:
			return taskProblem(at, "it is no text")
		}
		s, given, err := d.argument(at, item)
		if err != nil {
			return err
		}
		if given {
			d.file.Entrypoint = append(d.file.Entrypoint, s)
		}
	}
	return nil
}

// listOf is the elements of a list or tuple; nil for what is neither.
func listOf(at string, v jsonpickle.Value) ([]jsonpickle.Value, error) {
	switch v := v.(type) {
	case *jsonpickle.List:
		return v.Items, nil
	case jsonpickle.Tuple:
		return v, nil
	case *jsonpickle.Dict, jsonpickle.Set:
		return nil, taskProblem(at, "it is no list")
	}
	return nil, nil
}

func (d *taskDecoder) arguments(v jsonpickle.Value) error {
	items, err := listOf("container_args", v)
	switch v.(type) {
	case nil, *jsonpickle.List, jsonpickle.Tuple:
	default:
		if err == nil {
			err = taskProblem("container_args", "it is no list; Python would take it for a list of its characters")
		}
	}
	if err != nil {
		return err
	}
	for i, item := range items {
		s, given, err := d.argument(fmt.Sprintf("container_args[%d]", i), item)
		if err != nil {
			return err
		}
		if given {
			d.file.Args = append(d.file.Args, s)
		}
	}
	return nil
}

// argument is a value as an argument: str() of it, where transforms are what they
// stand for. It is not given when it only connects a standard stream.
func (d *taskDecoder) argument(at string, v jsonpickle.Value) (s string, given bool, err error) {
	if o, ok := v.(*jsonpickle.Object); ok && kindOf(o) == classConnect {
		s, err := d.connect(at, o, false)
		return s, s != "", err
	}
	s, err = pyStr(v, func(o *jsonpickle.Object, repr bool) (string, error) { return d.object(at, o, repr) })
	if err != nil {
		if _, ok := err.(*DocumentError); !ok {
			err = inField(at, err)
		}
	}
	return s, true, err
}

// object is what a transform becomes as an argument. Within a list, which is
// written as Python shows it, only what is known now can stand.
func (d *taskDecoder) object(at string, o *jsonpickle.Object, nested bool) (string, error) {
	kind := kindOf(o)
	if nested {
		switch kind {
		case classFileVolume, classItemVolume, classFolderVolume, classDirectFile, classToken, classConnect:
			return "", taskProblem(at, "a %s within a list or dict; make it an argument of its own", kind)
		}
	}
	switch kind {
	case classBind, classVolume, classTemporary, classDefault:
		if kind == classBind || kind == classVolume { // it needs no name
			if _, err := d.bind(at, o); err != nil {
				return "", err
			}
			target, _ := textOf(o, "_container_path")
			return target, nil
		}
		_, target, err := d.volume(at, o, false)
		return target, err
	case classVolumePath:
		_, target, filename, err := d.volumePath(at, o, false)
		return strings.TrimSuffix(target, "/") + "/" + filename, err
	case classFileVolume, classItemVolume, classFolderVolume, classDirectFile:
		name, err := d.download(at, o, kind)
		return "{" + name + "}", err
	case classProgress:
		return d.progress(at, o, false)
	case classAPIURL:
		if _, err := d.girder(at, o); err != nil {
			return "", err
		}
		gc, _ := o.Get("gc")
		base, _ := textOf(gc.(*jsonpickle.Object), "urlBase")
		return base, nil
	case classToken:
		name, err := d.girder(at, o)
		return "{" + tokenName(name) + "}", err
	case classInputPipe, classOutputPipe:
		return "", taskProblem(at, "a %s must be connected to something with Connect", kind)
	case classFileStream, classChunked, classHostStdOut, classHostStdErr, classStdOut, classStdErr:
		return "", taskProblem(at, "a %s is one end of a Connect and no argument", kind)
	case classUploadItem, classUploadFolder, classUploadArtifact:
		return "", taskProblem(at, "a %s is a result hook and no argument", kind)
	case classPyFile, classPyItem, classPyDirect:
		return "", taskProblem(at, "%s gives a path outside the container; use %s", kind,
			map[string]string{classPyFile: classFileVolume, classPyItem: classItemVolume, classPyDirect: classDirectFile}[kind])
	case classPyDirectory:
		return "", taskProblem(at, "%s gives a path outside the container; use TemporaryVolume", kind)
	}
	return "", taskProblem(at, "a %s is no argument", o.Class)
}

// volumePath takes a VolumePath apart.
func (d *taskDecoder) volumePath(at string, o *jsonpickle.Object, hook bool) (volume, target, filename string, err error) {
	filename, ok := textOf(o, "filename")
	if !ok {
		return "", "", "", taskProblem(at+".filename", "it is no text")
	}
	clean := path.Clean(filename)
	if path.IsAbs(filename) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", "", "", taskProblem(at+".filename", "%.200q leads out of its volume; VolumePath paths must be relative to a volume", filename)
	}
	v, _ := o.Get("_volume")
	volume, target, err = d.volume(at+"._volume", v, hook)
	return volume, target, filename, err
}

// download adds what is fetched before the container starts, and gives its name.
func (d *taskDecoder) download(at string, o *jsonpickle.Object, kind string) (string, error) {
	if name := d.known[o]; name != "" {
		return name, nil
	}
	var f Fetch
	var ids, rename string
	switch kind {
	case classItemVolume:
		f.Kind, ids, rename = FetchItem, "_item_id", "_item_name"
	case classFolderVolume:
		f.Kind, ids, rename = FetchFolder, "_folder_id", "_folder_name"
	case classPyFile, classPyDirect:
		f.Kind, ids = FetchFile, "file_id"
	case classPyItem:
		f.Kind, ids = FetchItem, "item_id"
	default:
		f.Kind, ids, rename = FetchFile, "_file_id", "_filename"
	}
	var err error
	if f.ID, err = idOf(at, o, ids); err != nil {
		return "", err
	}
	if v, ok := o.Get(rename); ok && v != nil {
		if f.Rename, ok = v.(string); !ok {
			return "", taskProblem(at+"."+rename, "it is no text")
		}
		f.Rename = path.Clean(f.Rename)
	}
	if v, ok := o.Get("_direct_file_path"); ok && v != nil && kind == classDirectFile {
		if f.Direct, ok = v.(string); !ok {
			return "", taskProblem(at+"._direct_file_path", "it is no text")
		}
		f.Direct = path.Clean(f.Direct)
	}
	if f.Girder, err = d.girder(at, o); err != nil {
		return "", err
	}
	v, _ := o.Get("_volume")
	switch kind {
	case classPyFile, classPyItem, classPyDirect: // they know of no volumes
		v = &jsonpickle.Object{Class: "girder_worker.docker.transforms." + classDefault}
	}
	if f.Into, _, err = d.volume(at+"._volume", v, false); err != nil {
		return "", err
	}
	f.Name = d.name(string(f.Kind), string(f.Kind))
	d.known[o] = f.Name
	d.file.Downloads = append(d.file.Downloads, f)
	return f.Name, nil
}

// connectors is the argument stream_connectors.
func (d *taskDecoder) connectors(v jsonpickle.Value) error {
	items, err := listOf("stream_connectors", v)
	if err != nil {
		return err
	}
	if items == nil && v != nil {
		if _, ok := v.(*jsonpickle.List); !ok {
			return taskProblem("stream_connectors", "it is no list")
		}
	}
	for i, item := range items {
		at := fmt.Sprintf("stream_connectors[%d]", i)
		o, ok := item.(*jsonpickle.Object)
		if !ok {
			return callError("Expected 'FDReadStreamConnector' or 'FDWriterStreamConnector', received something else in %s", at)
		}
		switch kindOf(o) {
		case classConnect:
			_, err = d.connect(at, o, true)
		case classProgress:
			_, err = d.progress(at, o, true)
		default:
			return callError("Expected 'FDReadStreamConnector' or 'FDWriterStreamConnector', received '<class '%s'>'", o.Class)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// connect adds a stream and gives what stands for its pipe in an argument; nothing
// for a standard stream. Where no argument tells the container of the pipe, ownPlace,
// it is where Girder Worker would put it.
func (d *taskDecoder) connect(at string, o *jsonpickle.Object, ownPlace bool) (string, error) {
	if s, done := d.known[o]; done {
		return s, nil
	}
	side := func(attribute string) (*jsonpickle.Object, string) {
		v, _ := o.Get(attribute)
		s, _ := v.(*jsonpickle.Object)
		if s == nil {
			return &jsonpickle.Object{}, ""
		}
		return s, kindOf(s)
	}
	in, inKind := side("_input")
	out, outKind := side("_output")
	var p Pipe
	var err error
	switch {
	case inKind == classFileStream && outKind == classInputPipe:
		if p.FileID, err = idOf(at+"._input", in, "file_id"); err != nil {
			return "", err
		}
		if p.Girder, err = d.girder(at+"._input", in); err != nil {
			return "", err
		}
		if err := d.pipe(at+"._output", out, &p, ownPlace); err != nil {
			return "", err
		}
		d.file.Inputs = append(d.file.Inputs, p)
	case inKind == classOutputPipe || inKind == classStdOut || inKind == classStdErr:
		if err := sink(at+"._output", out, outKind, &p); err != nil {
			return "", err
		}
		if inKind != classOutputPipe {
			d.known[o] = ""
			return "", d.standard(at, inKind, p)
		}
		if err := d.pipe(at+"._input", in, &p, ownPlace); err != nil {
			return "", err
		}
		d.file.Outputs = append(d.file.Outputs, p)
	case outKind == classInputPipe:
		return "", taskProblem(at+"._input", "a NamedInputPipe can be connected to a GirderFileIdToStream, not to a %s", orNothing(inKind))
	default:
		return "", callError("A NamedInputPipe or NamedOutputPipe must be provided.")
	}
	d.known[o] = "{" + p.Name + "}"
	return d.known[o], nil
}

func orNothing(kind string) string {
	if kind == "" {
		return "value of another kind"
	}
	return kind
}

// sink is where an output goes.
func sink(at string, o *jsonpickle.Object, kind string, p *Pipe) error {
	switch kind {
	case classHostStdOut:
		p.Log = stdoutName
	case classHostStdErr:
		p.Log = stderrName
	case classChunked:
		var ok bool
		if p.URL, ok = textOf(o, "url"); !ok || p.URL == "" {
			return taskProblem(at+".url", "it is no address")
		}
		v, _ := o.Get("headers")
		headers, isDict := v.(*jsonpickle.Dict)
		if !isDict {
			if v != nil {
				return taskProblem(at+".headers", "they are no dict")
			}
			return nil
		}
		for _, m := range headers.Members {
			value, ok := m.Value.(string)
			if !ok {
				return taskProblem(at+".headers", "the value of %.100q is no text", m.Key)
			}
			if p.Headers == nil {
				p.Headers = make(map[string]string)
			}
			p.Headers[m.Key] = value
		}
	default:
		return taskProblem(at, "an output goes to HostStdOut, HostStdErr or a ChunkedTransferEncodingStream, not to a %s", orNothing(kind))
	}
	return nil
}

// standard connects the container's standard output or error.
func (d *taskDecoder) standard(at, kind string, p Pipe) error {
	to, own := &d.file.Stdout, stdoutName
	if kind == classStdErr {
		to, own = &d.file.Stderr, stderrName
	}
	if to.connected() {
		return taskProblem(at, "the %s is connected twice", kind)
	}
	if p.Log != own { // it goes there anyway
		*to = p
	}
	return nil
}

// pipe gives a named pipe its name and place.
func (d *taskDecoder) pipe(at string, o *jsonpickle.Object, p *Pipe, ownPlace bool) error {
	raw, ok := textOf(o, "name")
	if !ok || raw == "" {
		return taskProblem(at+".name", "a pipe without a name")
	}
	directory, fixed := textOf(o, "_container_path")
	if !fixed {
		v, _ := o.Get("_volume")
		var err error
		if directory, err = d.directory(at+"._volume", v); err != nil {
			return err
		}
	}
	p.Name = d.name(raw, "pipe")
	if ownPlace {
		p.Path = path.Join(directory, raw)
	}
	return nil
}

// directory is where a volume is in the container.
func (d *taskDecoder) directory(at string, v jsonpickle.Value) (string, error) {
	name, _, err := d.volume(at, v, false)
	return d.file.place(name), err
}

// progress turns on the pipe for progress, once.
func (d *taskDecoder) progress(at string, o *jsonpickle.Object, ownPlace bool) (string, error) {
	if !d.file.Progress && ownPlace {
		raw, ok := textOf(o, "name")
		if !ok || raw == "" {
			return "", taskProblem(at+".name", "a pipe without a name")
		}
		v, _ := o.Get("_volume")
		directory, err := d.directory(at+"._volume", v)
		if err != nil {
			return "", err
		}
		d.file.ProgressPath = path.Join(directory, raw)
	}
	d.file.Progress = true
	return "{" + progressName + "}", nil
}

// plain is a keyword of docker-py as plain values. A transform in it becomes the
// path or text that it stands for.
func (d *taskDecoder) plain(at string, v jsonpickle.Value) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, int64, *big.Int, float64:
		return v, nil
	case jsonpickle.Tuple:
		return d.plainItems(at, v)
	case jsonpickle.Set:
		return d.plainItems(at, v)
	case *jsonpickle.List:
		return d.plainItems(at, v.Items)
	case *jsonpickle.Dict:
		return d.plainMembers(at, v.Members)
	case *jsonpickle.Object:
		if kindOf(v) == classDockerType {
			return d.plainMembers(at, v.Attrs)
		}
		return d.object(at, v, false)
	case jsonpickle.ObjectID:
		return v.String(), nil
	case jsonpickle.UUID:
		return v.String(), nil
	}
	return nil, taskProblem(at, "a value of this kind is not understood")
}

func (d *taskDecoder) plainItems(at string, items []jsonpickle.Value) (any, error) {
	out := make([]any, len(items))
	for i, item := range items {
		var err error
		if out[i], err = d.plain(fmt.Sprintf("%s[%d]", at, i), item); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (d *taskDecoder) plainMembers(at string, members []jsonpickle.Member) (any, error) {
	out := make(map[string]any, len(members))
	for _, m := range members {
		var err error
		if out[m.Key], err = d.plain(fmt.Sprintf("%s.%.64s", at, m.Key), m.Value); err != nil {
			return nil, err
		}
	}
	return out, nil
}
