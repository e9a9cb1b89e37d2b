package transforms

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"girderworker/transforms/jsonpickle"
)

// TaskSlicerRun is slicer_cli_web's way to run a container: docker_run, all of
// whose arguments are keywords, with progress on the standard output.
const TaskSlicerRun = "slicer_cli_web.girder_worker_plugin.direct_docker_run.run"

// A Task is a Celery task that runs a container, as its message has it.
type Task struct {
	Name   string // TaskDockerRun or TaskSlicerRun
	Args   []jsonpickle.Value
	Kwargs *jsonpickle.Dict // may be nil
	// Hooks are girder_result_hooks: each a []byte of JSON, or the value of an
	// AMQP table (see [jsonpickle.DecodeTable]).
	Hooks []any
	// APIURL is where Girder says that it is; Session, what
	// girder_client_session_kwargs says, is for that server and no other.
	APIURL  string
	Session map[string]any
	// JobID is the job's id in Girder; empty when there is none.
	JobID string
	// RunOptions are the machine's, for what the task does not say.
	RunOptions RunOptions
}

// A CallError is a call that Python would refuse with a TypeError, in its words.
type CallError struct{ Message string }

func (e *CallError) Error() string { return "TypeError: " + e.Message }

func callError(format string, args ...any) error {
	return &CallError{fmt.Sprintf(format, args...)}
}

// FromTask makes the job document that a person could have written instead of
// the task, without its secrets, and these apart. It executes nothing and knows
// no class but those of Girder Worker and slicer_cli_web. The error is a
// [*CallError], a [*DocumentError] or a [*jsonpickle.Error].
func FromTask(t Task) (*JobFile, Secrets, error) {
	f, err := FromContainerTask(t)
	if err != nil {
		return nil, Secrets{}, err
	}
	secrets, err := f.TakeSecrets()
	return f, secrets, err
}

// FromContainerTask is [FromTask] with the secrets left in the document.
func FromContainerTask(t Task) (*JobFile, error) {
	d := &taskDecoder{task: t, file: JobFile{Task: TaskDockerRun, Pull: PullAlways}, names: map[string]bool{}, known: map[*jsonpickle.Object]string{}}
	if err := d.run(); err != nil {
		return nil, err
	}
	// Everything that is refused of a person is refused of a task.
	return ParseJobFile(d.file.AppendJSON(nil))
}

// taskDecoder makes one document.
type taskDecoder struct {
	task     Task
	file     JobFile
	names    map[string]bool // that are taken
	literals strings.Builder // all text of the arguments, which no name may be hit by
	known    map[*jsonpickle.Object]string
	temp     []temporary // volumes of the body
	defaults string      // name of the default volume
}

func (d *taskDecoder) run() error {
	call, err := d.call()
	if err != nil {
		return err
	}
	call = d.task.RunOptions.join(call)
	for _, a := range call {
		if err := checkClasses(a.Key, a.Value); err != nil {
			return err
		}
		d.collect(a.Value)
	}
	options := map[string]any{}
	for _, a := range call {
		var err error
		switch a.Key {
		case "image":
			var ok bool
			if d.file.Image, ok = a.Value.(string); !ok {
				err = taskProblem("image", "it is no text")
			}
		case "pull_image":
			err = d.pull(a.Value)
		case "entrypoint":
			err = d.entrypoint(a.Value)
		case "container_args":
			err = d.arguments(a.Value)
		case "volumes":
			err = d.volumes(a.Value)
		case "stream_connectors":
			err = d.connectors(a.Value)
		case "remove_container":
			// There is no container left to keep once a job has ended.
		case "tty", "detach":
			// docker_run sets these itself, whatever its caller says.
		default:
			options[a.Key], err = d.plain(a.Key, a.Value)
		}
		if err != nil {
			return err
		}
	}
	if err := d.joinVolumes(); err != nil {
		return err
	}
	if err := d.file.applyDockerOptions(options); err != nil {
		return err
	}
	for i, h := range d.task.Hooks {
		if err := d.hook(fmt.Sprintf("girder_result_hooks[%d]", i), h); err != nil {
			return err
		}
	}
	d.file.SlicerProgress = d.task.Name == TaskSlicerRun && !d.file.Stdout.connected()
	return nil
}

// signature is docker_run's, without the task itself.
var signature = []string{"image", "pull_image", "entrypoint", "container_args", "volumes", "remove_container"}

// call binds arguments to names as Python does. The order is that in which Girder
// Worker transforms them.
func (d *taskDecoder) call() ([]jsonpickle.Member, error) {
	var keywords []jsonpickle.Member
	if d.task.Kwargs != nil {
		keywords = d.task.Kwargs.Members
	}
	name, missing, positional := "docker_run", "docker_run", signature
	switch d.task.Name {
	case TaskDockerRun:
	case TaskSlicerRun:
		name, missing, positional = "run", "_docker_run", nil
	default:
		return nil, taskProblem("task", "%.200q is not a task that runs a container", d.task.Name)
	}
	if given := len(d.task.Args); given > len(positional) {
		if positional == nil {
			return nil, callError("%s() takes 1 positional argument but %d were given", name, given+1)
		}
		return nil, callError("%s() takes from 2 to %d positional arguments but %d were given", name, len(positional)+1, given+1)
	}
	var call []jsonpickle.Member
	bound := map[string]bool{"task": true}
	for i, v := range d.task.Args {
		call = append(call, jsonpickle.Member{Key: positional[i], Value: v})
		bound[positional[i]] = true
	}
	for _, k := range keywords {
		if bound[k.Key] {
			return nil, callError("%s() got multiple values for argument '%.100s'", name, k.Key)
		}
		bound[k.Key] = true
		call = append(call, k)
	}
	if !bound["image"] {
		return nil, callError("%s() missing 1 required positional argument: 'image'", missing)
	}
	return call, nil
}

// collect gathers all text of a value.
func (d *taskDecoder) collect(v jsonpickle.Value) {
	add := func(s string) { d.literals.WriteString(s + "\x00") }
	switch v := v.(type) {
	case string:
		add(v)
	case jsonpickle.Tuple:
		for _, e := range v {
			d.collect(e)
		}
	case jsonpickle.Set:
		for _, e := range v {
			d.collect(e)
		}
	case *jsonpickle.List:
		for _, e := range v.Items {
			d.collect(e)
		}
	case *jsonpickle.Dict:
		for _, m := range v.Members {
			add(m.Key)
			d.collect(m.Value)
		}
	case *jsonpickle.Object:
		if kindOf(v) == classClient {
			return
		}
		for _, m := range v.Attrs {
			d.collect(m.Value)
		}
	}
}

// name makes a name for the document that is like want and means nothing else, not
// even in an argument that happens to hold it in braces.
func (d *taskDecoder) name(want, otherwise string) string {
	clean := []byte(want)
	for i, c := range clean {
		if !validName("x" + string(c)) {
			clean[i] = '_'
		}
	}
	base := strings.TrimLeft(string(clean), "._-")
	if len(base) > MaxIdentifier-8 {
		base = base[:MaxIdentifier-8]
	}
	switch base {
	case "", "None", "True", "False", "nan", "inf": // as Python writes sets: {None}
		base = otherwise
	}
	if base[0] >= '0' && base[0] <= '9' { // and {1}
		base = otherwise + "-" + base
	}
	if len(base) > MaxIdentifier-8 {
		base = base[:MaxIdentifier-8]
	}
	literals := d.literals.String()
	free := func(name string) bool {
		switch name {
		case stdinName, stdoutName, stderrName, progressName:
			return false
		}
		return !d.names[name] && !d.names[tokenName(name)] && !strings.Contains(literals, "{"+name+"}") && !strings.Contains(literals, "{"+name+".")
	}
	name := base
	for i := 2; !free(name); i++ {
		name = fmt.Sprintf("%s-%d", base, i)
	}
	d.names[name] = true
	return name
}

// girder gives the server of a GirderClient its name. Equal ones are one.
func (d *taskDecoder) girder(at string, o *jsonpickle.Object) (string, error) {
	v, _ := o.Get("gc")
	gc, ok := v.(*jsonpickle.Object)
	if !ok || kindOf(gc) != classClient {
		return "", taskProblem(at, "the %s has no Girder client, so nothing is known of its server", kindOf(o))
	}
	base, _ := textOf(gc, "urlBase")
	token, _ := textOf(gc, "token")
	if base == "" {
		return "", taskProblem(at+".gc.urlBase", "the Girder client has no address")
	}
	base = strings.TrimRight(base, "/")
	for i := range d.file.Girders {
		if g := &d.file.Girders[i]; g.URL == base && g.Token == token {
			return g.Name, nil
		}
	}
	g := GirderAccess{Name: d.name(firstGirder, firstGirder), URL: base, Token: token}
	if SameServer(base, d.task.APIURL) {
		var err error
		if g.Session, err = normalSession(d.task.Session); err != nil {
			return "", err
		}
	}
	d.file.Girders = append(d.file.Girders, g)
	return g.Name, nil
}

// SameServer tells whether two URLs have one scheme, host and port.
func SameServer(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	return err == nil && err2 == nil && u.Scheme == v.Scheme && strings.EqualFold(u.Host, v.Host)
}

// normalSession is girder_client_session_kwargs as a document has it.
func normalSession(kwargs map[string]any) (map[string]any, error) {
	var session map[string]any
	for _, key := range slices.Sorted(maps.Keys(kwargs)) {
		value := kwargs[key]
		wrong := taskProblem("girder_client_session_kwargs", "%.100q: want verify (true, false or a path), cert (a path, or two), headers or proxies (names and texts)", key)
		ok := false
		switch key {
		case "verify":
			switch value.(type) {
			case nil, bool, string:
				ok = true
			}
		case "cert":
			switch v := value.(type) {
			case nil, string:
				ok = true
			case []any:
				ok = len(v) == 2
				for _, e := range v {
					_, isText := e.(string)
					ok = ok && isText
				}
			}
		case "headers", "proxies":
			texts, isMap := value.(map[string]any)
			ok = isMap || value == nil
			for _, v := range texts {
				_, isText := v.(string)
				ok = ok && isText
			}
		}
		if !ok {
			return nil, wrong
		}
		if value == nil || value == "" {
			continue
		}
		if session == nil {
			session = make(map[string]any)
		}
		session[key] = value
	}
	return session, nil
}

// textOf is an attribute that is a str.
func textOf(o *jsonpickle.Object, attribute string) (string, bool) {
	v, _ := o.Get(attribute)
	s, ok := v.(string)
	return s, ok
}

// idOf is an attribute that is the id of something in Girder.
func idOf(at string, o *jsonpickle.Object, attribute string) (string, error) {
	v, _ := o.Get(attribute)
	s, ok := v.(string)
	if oid, isID := v.(jsonpickle.ObjectID); isID {
		s, ok = oid.String(), true
	}
	if !ok || !ValidID(s) {
		return "", taskProblem(at+"."+attribute, "%.40q is no id of Girder", fmt.Sprint(v))
	}
	return s, nil
}

// temporary is a TemporaryVolume of the job and what it was made with.
type temporary struct {
	name, hostDir string
	mode          int64
}

// volume names a volume or bind, which the job gets when it does not have it yet.
// target is where it is, as the document says it.
func (d *taskDecoder) volume(at string, v jsonpickle.Value, hook bool) (name, target string, err error) {
	o, ok := v.(*jsonpickle.Object)
	if !ok {
		return "", "", taskProblem(at, "it is no volume")
	}
	switch kindOf(o) {
	case classDefault:
		if d.defaults == "" {
			d.defaults = d.name(DefaultVolume, DefaultVolume)
			d.file.Volumes = append(d.file.Volumes, Volume{Name: d.defaults, Target: path.Join(volumeDirectory, d.defaults)})
		}
		return d.defaults, "{" + d.defaults + "}", nil
	case classTemporary:
		name, err := d.temporary(at, o, hook)
		return name, "{" + name + "}", err
	case classBind, classVolume:
		b, err := d.bind(at, o)
		if err != nil {
			return "", "", err
		}
		if b.Name == "" {
			b.Name = d.name(path.Base(b.Target), "bind")
		}
		target, _ := textOf(o, "_container_path")
		return b.Name, target, nil
	}
	return "", "", taskProblem(at, "a %s is no volume", o.Class)
}

func (d *taskDecoder) temporary(at string, o *jsonpickle.Object, hook bool) (string, error) {
	if name := d.known[o]; name != "" {
		return name, nil
	}
	hostDir, _ := textOf(o, "host_dir")
	t := temporary{mode: 0o777}
	if hostDir != "" {
		t.hostDir = path.Clean(hostDir)
	}
	if v, ok := o.Get("_mode"); ok {
		mode, isInt := v.(int64)
		if !isInt || mode < 0 || mode > 0o7777 {
			return "", taskProblem(at+"._mode", "it is no mode")
		}
		t.mode = mode
	}
	if hook { // a copy: it means the job's own with the same arguments
		var of []string
		for _, own := range d.temp {
			if own.hostDir == t.hostDir && own.mode == t.mode {
				of = append(of, own.name)
			}
		}
		if len(of) == 1 {
			return of[0], nil
		}
		if len(of) > 1 {
			return "", taskProblem(at, "the job has %d TemporaryVolumes with these arguments, and a result hook cannot say which; "+
				"give one of them another host_dir, or use TemporaryVolume.default", len(of))
		}
	}
	t.name = d.name("volume", "volume")
	d.known[o] = t.name
	d.temp = append(d.temp, t)
	volume := Volume{Name: t.name, Target: path.Join(volumeDirectory, t.name), HostDir: t.hostDir}
	if t.hostDir != "" && t.mode != 0o777 && t.mode != 0 {
		volume.Mode = modeOf(t.mode)
	}
	d.file.Volumes = append(d.file.Volumes, volume)
	return t.name, nil
}

// bind is the job's bind of these paths.
func (d *taskDecoder) bind(at string, o *jsonpickle.Object) (*Bind, error) {
	host, ok1 := textOf(o, "_host_path")
	target, ok2 := textOf(o, "_container_path")
	if !ok1 || !ok2 {
		return nil, taskProblem(at, "a %s without its paths", kindOf(o))
	}
	mode := "rw"
	if v, ok := o.Get("mode"); ok && v != nil {
		if mode, ok = v.(string); !ok {
			return nil, taskProblem(at+".mode", "it is no text")
		}
	}
	return d.addBind(at, host, target, mode)
}

func (d *taskDecoder) addBind(at, host, target, mode string) (*Bind, error) {
	readOnly, err := bindMode(at, mode)
	if err != nil {
		return nil, err
	}
	if !path.IsAbs(host) {
		return nil, taskProblem(at, "%.200q is no absolute path; volumes of Docker that have a name are not there, use TemporaryVolume or a path", host)
	}
	b := Bind{Source: path.Clean(host), Target: path.Clean(target), ReadOnly: readOnly}
	for i := range d.file.Binds {
		if own := &d.file.Binds[i]; own.Source == b.Source && own.Target == b.Target {
			return own, nil
		}
	}
	d.file.Binds = append(d.file.Binds, b)
	return &d.file.Binds[len(d.file.Binds)-1], nil
}

// bindMode reads Docker's mode of a volume: ro or rw, with options after commas.
func bindMode(at, mode string) (readOnly bool, err error) {
	for option := range strings.SplitSeq(mode, ",") {
		switch option {
		case "ro":
			readOnly = true
		case "rw", "", "z", "Z": // labels of SELinux are not changed on anybody's files
		default:
			return false, taskProblem(at+".mode", "%.40q is not supported; use ro or rw", option)
		}
	}
	return readOnly, nil
}

// volumes is the argument of that name: docker-py's dict, or a list of transforms.
func (d *taskDecoder) volumes(v jsonpickle.Value) error {
	switch v := v.(type) {
	case nil:
		return nil
	case *jsonpickle.Dict:
		for _, m := range v.Members {
			at := "volumes." + m.Key
			if err := d.dockerVolume(at, m.Key, m.Value); err != nil {
				return err
			}
		}
		return nil
	case *jsonpickle.List:
		return d.volumeList(v.Items)
	case jsonpickle.Tuple:
		return d.volumeList(v)
	}
	return taskProblem("volumes", "it is neither a dict nor a list")
}

func (d *taskDecoder) volumeList(items []jsonpickle.Value) error {
	for i, item := range items {
		at := fmt.Sprintf("volumes[%d]", i)
		if s, ok := item.(string); ok { // docker-py's HOST:CONTAINER[:MODE]
			host, rest, ok := strings.Cut(s, ":")
			target, mode, _ := strings.Cut(rest, ":")
			if !ok {
				return taskProblem(at, "%.200q is not HOST:CONTAINER or HOST:CONTAINER:MODE", s)
			}
			if _, err := d.addBind(at, host, target, mode); err != nil {
				return err
			}
			continue
		}
		o, ok := item.(*jsonpickle.Object)
		if ok && (kindOf(o) == classBind || kindOf(o) == classVolume) {
			if _, err := d.bind(at, o); err != nil {
				return err
			}
			continue
		}
		if _, _, err := d.volume(at, item, false); err != nil {
			return err
		}
	}
	return nil
}

// dockerVolume is one entry of docker-py's dict: {"bind": TARGET, "mode": MODE},
// or ro instead of the mode, or the target alone.
func (d *taskDecoder) dockerVolume(at, host string, v jsonpickle.Value) error {
	target, mode := "", "rw"
	switch v := v.(type) {
	case string:
		target = v
	case *jsonpickle.Dict:
		_, hasMode := v.Get("mode")
		for _, m := range v.Members {
			s, isText := m.Value.(string)
			ro, isFlag := m.Value.(bool)
			switch {
			case m.Key == "bind" && isText:
				target = s
			case m.Key == "mode" && isText:
				mode = s
			case m.Key == "ro" && isFlag && !hasMode:
				if ro {
					mode = "ro"
				}
			default:
				return taskProblem(at, "%.40q is not supported there; want bind and mode, or bind and ro", m.Key)
			}
		}
	default:
		return taskProblem(at, "it is neither a dict nor a path")
	}
	_, err := d.addBind(at, host, target, mode)
	return err
}
