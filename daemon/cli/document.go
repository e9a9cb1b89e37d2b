package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// jobFlags are the flags that `run` and `submit` share: a job document as a
// command line. Sizes and durations go to the daemon as they were written; it
// knows what they mean and says what is wrong with them.
type jobFlags struct {
	task       string
	id, name   string
	volumes    []string
	env        []string
	workdir    string
	user       string
	entrypoint string
	pull       string
	network    string
	cpus       float64
	memory     string
	gpus       string
	timeout    string
	priority   int
	after      []string
	afterAny   []string
	retries    int
	stdin      string
	inputs     []string
	outputs    []string
	progress   bool
}

func (f *jobFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.SetInterspersed(false) // what follows IMAGE is the job's
	fl.SortFlags = false
	fl.StringVar(&f.task, "task", "", "run the task `NAME` with the arguments KEY=VALUE, see girder-worker tasks")
	fl.StringArrayVarP(&f.volumes, "volume", "v", nil, "`HOST:CTR[:ro]` makes a file or directory visible in the container")
	fl.StringArrayVarP(&f.env, "env", "e", nil, "`K[=V]` sets a variable, or passes on one's own")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "working `directory` in the container")
	fl.StringVarP(&f.user, "user", "u", "", "`user` in the container: NAME, UID, NAME:GROUP or UID:GID")
	fl.StringVar(&f.entrypoint, "entrypoint", "", "`command` to run instead of the image's")
	fl.StringVar(&f.pull, "pull", "", "`when` to pull the image: always, missing or never, which is the default")
	fl.StringArrayVar(&f.inputs, "input", nil, "`NAME=FILE` feeds the file, or girder:ID, into the pipe {NAME}")
	fl.StringArrayVar(&f.outputs, "output", nil, "`NAME=FILE` writes what comes out of the pipe {NAME}")
	fl.StringVar(&f.stdin, "stdin", "", "`file` that the job reads as its standard input")
	fl.BoolVar(&f.progress, "progress", false, "give the job the pipe {progress} to tell its progress")
	fl.StringVar(&f.network, "network", "", "`network` of the job: none (the default), private or host")
	fl.Float64Var(&f.cpus, "cpus", 0, "take `N` processors, as in 1.5")
	fl.StringVar(&f.memory, "memory", "", "take `SIZE` memory, as in 2g")
	fl.StringVar(&f.gpus, "gpus", "", "take `N` GPUs, all, or device=NAME,... by index, UUID or CDI name")
	fl.StringVar(&f.timeout, "timeout", "", "end the job after this `time`, as in 90s, 1h30m, 2d")
	fl.IntVar(&f.priority, "priority", 0, "a priority `P` from 0 to 9; 9 starts first")
	fl.StringArrayVar(&f.after, "after", nil, "start when job `ID` has succeeded, fail if it does not")
	fl.StringArrayVar(&f.afterAny, "after-any", nil, "start when job `ID` has ended, whatever its end")
	fl.IntVar(&f.retries, "retries", 0, "try again up to `N` times after a failure")
	fl.StringVar(&f.name, "name", "", "a `name` for people")
	fl.StringVar(&f.id, "id", "", "the job's `ID`: submitted twice it is one job")
	for flag, candidates := range map[string]cobra.CompletionFunc{
		"pull":     cobra.FixedCompletions([]string{"always", "missing", "never"}, cobra.ShellCompDirectiveNoFileComp),
		"network":  cobra.FixedCompletions([]string{"none", "private", "host"}, cobra.ShellCompDirectiveNoFileComp),
		"priority": cobra.NoFileCompletions,
	} {
		if err := cmd.RegisterFlagCompletionFunc(flag, candidates); err != nil {
			panic(err) // the flag was made above
		}
	}
}

// pipe and bind are written by hand rather than taken from the daemon: the
// command line knows the wire, not the server.
type pipe struct {
	Name   string `json:"name"`
	File   string `json:"file,omitempty"`
	FileID string `json:"file_id,omitempty"`
}

type bind struct {
	Source   string `json:"source"`
	Target   string `json:"target"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

// setGPUs reads --gpus, in the words of docker's.
func (f *jobFlags) setGPUs(cmd *cobra.Command, resources map[string]any) error {
	devices, named := strings.CutPrefix(f.gpus, "device=")
	switch n, err := strconv.Atoi(f.gpus); {
	case named && devices != "":
		resources["gpu_devices"] = devices
	case f.gpus == "all":
		resources["gpus"] = -1
	case err == nil && n >= 0:
		resources["gpus"] = n
	default:
		return usageError(cmd, "--gpus %q: want a number, all, or device= and names such as 0 or nvidia.com/gpu=0, by commas", f.gpus)
	}
	return nil
}

// document is the job document of the flags, for an image and its arguments.
// A file that cannot be used is refused here, where the person still sits, but
// not when an earlier job may be about to make it.
func (f *jobFlags) document(cmd *cobra.Command, lookup func(string) (string, bool), image string, args []string) (map[string]any, error) {
	d := map[string]any{"image": image}
	set := func(key string, value any) {
		switch v := value.(type) {
		case string:
			if v == "" {
				return
			}
		case []string:
			if len(v) == 0 {
				return
			}
		}
		d[key] = value
	}
	changed := cmd.Flags().Changed
	set("id", f.id)
	set("name", f.name)
	set("args", args)
	set("workdir", f.workdir)
	set("user", f.user)
	set("entrypoint", f.entrypoint)
	set("pull", f.pull)
	set("network", f.network)
	set("after", f.after)
	set("after_any", f.afterAny)
	set("timeout", f.timeout)
	resources := map[string]any{}
	if changed("cpus") {
		resources["cpus"] = f.cpus
	}
	if changed("memory") {
		resources["memory"] = f.memory
	}
	if changed("gpus") {
		if err := f.setGPUs(cmd, resources); err != nil {
			return nil, err
		}
	}
	if len(resources) > 0 {
		d["resources"] = resources
	}
	if changed("priority") {
		d["priority"] = f.priority
	}
	if changed("retries") {
		d["retries"] = map[string]int{"max": f.retries}
	}
	if f.progress {
		d["progress"] = true
	}
	if err := f.setEnv(d, lookup); err != nil {
		return nil, err
	}
	if err := f.setFiles(d); err != nil {
		return nil, err
	}
	if f.usesGirder() {
		own, err := ownGirder(lookup)
		if err != nil {
			return nil, err
		}
		if own != nil {
			d["girder"] = own
		}
	}
	return d, nil
}

// usesGirder tells whether anything comes from or goes to a server.
func (f *jobFlags) usesGirder() bool {
	for _, pair := range append(append([]string(nil), f.inputs...), f.outputs...) {
		name, where, _ := strings.Cut(pair, "=")
		if _, _, ok := inGirder(name, where); ok {
			return true
		}
	}
	return false
}

func (f *jobFlags) setEnv(d map[string]any, lookup func(string) (string, bool)) error {
	if len(f.env) == 0 {
		return nil
	}
	env := make(map[string]string, len(f.env))
	for _, e := range f.env {
		key, value, given := strings.Cut(e, "=")
		if key == "" {
			return fmt.Errorf("--env %q: a variable needs a name, as in K=V", e)
		}
		if !given {
			if value, given = lookup(key); !given {
				return fmt.Errorf("--env %s: it is not set here, so there is no value to pass on", key)
			}
		}
		env[key] = value // the last one counts, as in a shell
	}
	d["env"] = env
	return nil
}

func (f *jobFlags) setFiles(d map[string]any) error {
	var binds []bind
	for _, v := range f.volumes {
		b, err := parseVolume(v)
		if err == nil && !f.dependent() {
			err = checkExists(b.Source)
		}
		if err != nil {
			return fmt.Errorf("--volume %s: %w", v, err)
		}
		binds = append(binds, b)
	}
	if binds != nil {
		d["binds"] = binds
	}
	for _, list := range []struct {
		flag, key, moves string
		pairs            []string
		check            func(string) error
	}{
		{"--input", "inputs", "downloads", f.inputs, checkInput},
		{"--output", "outputs", "uploads", f.outputs, checkOutput},
	} {
		var pipes []pipe
		var moves []moved
		for _, pair := range list.pairs {
			name, file, ok := strings.Cut(pair, "=")
			if !ok || name == "" || file == "" {
				return fmt.Errorf("%s %q: write NAME=FILE", list.flag, pair)
			}
			if m, stream, ok := inGirder(name, file); ok {
				switch {
				case list.flag == "--input" && stream:
					pipes = append(pipes, pipe{Name: name, FileID: m.FileID})
				case list.flag == "--output" && m.FileID != "":
					return fmt.Errorf("--output %s: write girder-item:ID or girder-folder:ID, where Girder can put a new file", pair)
				default:
					moves = append(moves, m)
				}
				continue
			}
			path, err := f.usable(file, list.check)
			if err != nil {
				return fmt.Errorf("%s %s: %w", list.flag, pair, err)
			}
			pipes = append(pipes, pipe{Name: name, File: path})
		}
		if moves != nil {
			d[list.moves] = moves
		}
		if pipes != nil {
			d[list.key] = pipes
		}
	}
	if f.stdin == "" {
		return nil
	}
	if f.stdin == "-" {
		return errors.New("--stdin -: the job may start long after this terminal is gone; write its input to a file and name that")
	}
	path, err := f.usable(f.stdin, checkInput)
	if err != nil {
		return fmt.Errorf("--stdin %s: %w", f.stdin, err)
	}
	d["stdin"] = path
	return nil
}

// dependent tells whether files may come into being before the job starts.
func (f *jobFlags) dependent() bool { return len(f.after)+len(f.afterAny) > 0 }

func (f *jobFlags) usable(file string, check func(string) error) (string, error) {
	path, err := filepath.Abs(file)
	if err == nil && !f.dependent() {
		err = check(path)
	}
	return path, err
}

// parseVolume reads HOST:CTR[:ro]. A relative HOST is made absolute.
func parseVolume(v string) (bind, error) {
	parts := strings.Split(v, ":")
	if len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw") {
		parts, v = parts[:2], parts[2]
	}
	if len(parts) != 2 || parts[0] == "" || parts[1] == "" {
		return bind{}, errors.New("write HOST:CTR or HOST:CTR:ro")
	}
	source, err := filepath.Abs(parts[0])
	if err != nil {
		return bind{}, err
	}
	return bind{Source: source, Target: filepath.Clean(parts[1]), ReadOnly: v == "ro"}, nil
}

func checkExists(path string) error {
	_, err := os.Stat(path)
	return plain(err)
}

// checkInput opens the file as the attempt will: a FIFO must not block us, nor
// be taken for a file.
func checkInput(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return plain(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return plain(err)
	}
	return checkRegular(info)
}

// checkOutput looks at what is there; the file itself is made by the attempt.
func checkOutput(path string) error {
	info, err := os.Stat(path)
	if err == nil {
		return checkRegular(info)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return plain(err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	switch {
	case err != nil:
		return fmt.Errorf("its directory cannot be used: %w", plain(err))
	case !dir.IsDir():
		return fmt.Errorf("%s is not a directory", filepath.Dir(path))
	}
	return nil
}

func checkRegular(info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode.IsDir():
		return errors.New("it is a directory, and a file is needed")
	case mode&fs.ModeNamedPipe != 0:
		return errors.New("it is a named pipe, and a regular file is needed")
	case !mode.IsRegular():
		return errors.New("it is not a regular file")
	}
	return nil
}

// plain drops the system call and the path, which the message already names.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
