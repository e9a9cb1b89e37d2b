package transforms

import (
	"net/url"
	"path"
	"strings"
	"unicode"
)

// A Pipe connects a named pipe in the container, or one of its standard streams,
// with something on the host: exactly one of File, FileID, URL and Log.
type Pipe struct {
	// Name is also what stands in braces in an argument. A standard stream has none.
	Name string
	// Path is where the container finds the pipe; empty: in [PipeDirectory].
	Path string

	File string // a file of the submitter

	FileID string // a file in Girder that is read
	Girder string // name of its server; empty: the first one

	URL     string            // takes an output as the body of a POST
	Headers map[string]string // of that request; secrets

	Log string // "stdout" or "stderr" of the job's log
}

// connected tells whether a standard stream is in the document.
func (p *Pipe) connected() bool {
	return p.File != "" || p.FileID != "" || p.URL != "" || p.Log != ""
}

// direction is whether the container reads or writes.
type direction bool

const (
	reads  direction = false
	writes direction = true
)

func (r *reader) pipes(d direction) (pipes []Pipe, err error) {
	err = r.array(MaxStreams, func() error {
		var p Pipe
		err := r.object(func(key string) error { return r.pipeField(&p, d, key) })
		if err == nil && p.Name == "" {
			err = inField("name", problem("missing"))
		}
		if err == nil {
			err = p.check(d)
		}
		pipes = append(pipes, p)
		return err
	})
	return pipes, err
}

// standard is a path of a file, or an object.
func (r *reader) standard(d direction) (p Pipe, err error) {
	if r.kind() == '"' {
		p.File, err = r.hostPath()
		return p, err
	}
	err = r.object(func(key string) error {
		if key == "name" || key == "path" {
			return problem("a standard stream has none")
		}
		return r.pipeField(&p, d, key)
	})
	if err == nil {
		err = p.check(d)
	}
	return p, err
}

func (r *reader) pipeField(p *Pipe, d direction, key string) (err error) {
	switch {
	case key == "name":
		p.Name, err = r.identifier()
	case key == "path":
		p.Path, err = r.containerPath()
	case key == "file":
		p.File, err = r.hostPath()
	case key == "file_id" && d == reads:
		p.FileID, err = r.girderID()
	case key == "girder" && d == reads:
		p.Girder, err = r.identifier()
	case key == "url" && d == writes:
		p.URL, err = r.webAddress()
	case key == "headers" && d == writes:
		p.Headers, err = r.headers()
	case key == "log" && d == writes:
		if p.Log, err = r.text(); err == nil && p.Log != "stdout" && p.Log != "stderr" {
			err = problem("%.40q is neither stdout nor stderr", p.Log)
		}
	default:
		err = problem("unknown field")
	}
	return err
}

func (p *Pipe) check(d direction) error {
	ends := 0
	for _, s := range []string{p.File, p.FileID, p.URL, p.Log} {
		if s != "" {
			ends++
		}
	}
	want := "file or file_id"
	if d == writes {
		want = "file, url or log"
	}
	switch {
	case ends == 0 && d == reads:
		return inField("file", problem("missing; name a file, or one in Girder with file_id"))
	case ends == 0:
		return inField("file", problem("missing; name a file, a url, or the log"))
	case ends > 1:
		return problem("connected to %d things; give one of %s", ends, want)
	case p.Girder != "" && p.FileID == "":
		return inField("girder", problem("only file_id is in a Girder"))
	case p.Headers != nil && p.URL == "":
		return inField("headers", problem("only a url has headers"))
	}
	return nil
}

// webAddress is an http or https URL without a password in it.
func (r *reader) webAddress() (string, error) {
	s, err := r.token(MaxPath)
	if err == nil {
		err = checkWebAddress(s)
	}
	return s, err
}

func checkWebAddress(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return problem("%.200q is no address; write http:// or https:// and a host", s)
	case u.User != nil:
		return problem("an address with a user or password in it; they do not belong there")
	}
	return nil
}

// headers are names and values of an HTTP request.
func (r *reader) headers() (map[string]string, error) {
	headers := make(map[string]string)
	return headers, r.object(func(key string) error {
		value, err := r.text()
		switch {
		case err != nil:
		case key == "" || strings.Trim(key, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~") != "":
			err = problem("not the name of a header")
		case len(value) > 1<<13 || strings.ContainsFunc(value, unicode.IsControl):
			err = problem("a value that is too long, or with control characters")
		case len(headers) == 64:
			err = problem("more than 64 headers")
		}
		headers[key] = value
		return err
	})
}

func (w *writer) streams(f *JobFile) {
	list(w, "inputs", f.Inputs, w.pipe)
	list(w, "outputs", f.Outputs, w.pipe)
	for _, s := range f.standardStreams() {
		if s.pipe.connected() {
			w.open(s.name, '{')
			w.pipe(s.pipe)
			w.close('}')
		}
	}
	if f.ProgressPath != "" {
		w.text("progress", f.ProgressPath)
	} else {
		w.flag("progress", f.Progress)
	}
	w.flag("slicer_progress", f.SlicerProgress)
}

func (w *writer) pipe(p *Pipe) {
	w.text("name", p.Name)
	w.text("path", p.Path)
	w.text("file", p.File)
	w.text("file_id", p.FileID)
	w.text("girder", p.Girder)
	w.text("url", p.URL)
	w.object("headers", p.Headers)
	w.text("log", p.Log)
}

// The names of the streams that the document turns on without naming them.
const (
	stdinName    = "stdin"
	stdoutName   = "stdout"
	stderrName   = "stderr"
	progressName = "progress"
)

type standardStream struct {
	name string
	kind StreamKind
	pipe *Pipe
}

func (f *JobFile) standardStreams() [3]standardStream {
	return [...]standardStream{
		{stdinName, StreamStdin, &f.Stdin}, {stdoutName, StreamStdout, &f.Stdout}, {stderrName, StreamStderr, &f.Stderr},
	}
}

// eachPipe calls visit with every stream of the document that has an end on the
// host, with its name and the field that it stands in.
func (f *JobFile) eachPipe(visit func(field, name string, p *Pipe) error) error {
	for _, l := range []struct {
		field string
		pipes []Pipe
	}{{"inputs", f.Inputs}, {"outputs", f.Outputs}} {
		for i := range l.pipes {
			if err := visit(l.field, l.pipes[i].Name, &l.pipes[i]); err != nil {
				return err
			}
		}
	}
	for _, s := range f.standardStreams() {
		if s.pipe.connected() {
			if err := visit(s.name, s.name, s.pipe); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *JobFile) checkStreams() error {
	paths, n := map[string]bool{}, 0
	at := func(field, p string) error {
		switch {
		case p == "":
			return nil
		case within(p, PipeDirectory):
			return inField(field, problem("the path %s is within %s, where pipes get their names' paths", p, PipeDirectory))
		case paths[p], f.isTarget(p), p == "/":
			return inField(field, problem("the path %s is already something else's", p))
		}
		paths[p] = true
		return nil
	}
	err := f.eachPipe(func(field, _ string, p *Pipe) error {
		if n++; n > MaxStreams {
			return inField(field, problem("more than %d streams together", MaxStreams))
		}
		return at(field, p.Path)
	})
	if err == nil {
		err = at("progress", f.ProgressPath)
	}
	if err == nil && f.SlicerProgress && f.Stdout.connected() {
		err = inField("slicer_progress", problem("it is read from stdout, which goes elsewhere"))
	}
	return err
}

func (f *JobFile) isTarget(p string) bool {
	for i := range f.Binds {
		if f.Binds[i].Target == p {
			return true
		}
	}
	for i := range f.Volumes {
		if f.Volumes[i].Target == p {
			return true
		}
	}
	return false
}

// pipesNeeded tells whether the container gets [PipeDirectory].
func (f *JobFile) pipesNeeded() bool {
	return f.Progress || len(f.Inputs)+len(f.Outputs) > 0
}

func (f *JobFile) streams() []Stream {
	var streams []Stream
	add := func(kind StreamKind, name string, p *Pipe) {
		s := Stream{Name: name, Kind: kind, File: p.File, Log: p.Log}
		if p.FileID != "" {
			s.Girder = &GirderFile{Girder: f.girderName(p.Girder), ID: p.FileID}
		}
		if p.URL != "" {
			s.HTTP = &HTTPTarget{URL: p.URL}
		}
		if kind == StreamInput || kind == StreamOutput {
			s.Path = pipePath(p)
		}
		streams = append(streams, s)
	}
	if f.Stdin.connected() {
		add(StreamStdin, stdinName, &f.Stdin)
	}
	for i := range f.Inputs {
		add(StreamInput, f.Inputs[i].Name, &f.Inputs[i])
	}
	for i := range f.Outputs {
		add(StreamOutput, f.Outputs[i].Name, &f.Outputs[i])
	}
	if f.Stdout.connected() {
		add(StreamStdout, stdoutName, &f.Stdout)
	}
	if f.Stderr.connected() {
		add(StreamStderr, stderrName, &f.Stderr)
	}
	if f.Progress {
		streams = append(streams, Stream{Name: progressName, Kind: StreamProgress, Path: f.progressPath()})
	}
	return streams
}

// pipePath is where the container finds a named pipe.
func pipePath(p *Pipe) string {
	if p.Path != "" {
		return p.Path
	}
	return path.Join(PipeDirectory, p.Name)
}

func (f *JobFile) progressPath() string {
	if f.ProgressPath != "" {
		return f.ProgressPath
	}
	return path.Join(PipeDirectory, progressName)
}
