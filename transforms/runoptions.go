package transforms

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"girderworker/transforms/jsonpickle"
)

// RunOptions are keywords of docker-py's containers.run that the machine gives to
// every task that runs a container: GIRDER_WORKER_DOCKER_RUN_OPTIONS of the Python
// worker, merged in as _add_environment_kargs in girder_worker/docker/tasks does.
// A task's own keywords win, each as a whole; volumes are joined.
type RunOptions struct {
	members []jsonpickle.Member
}

// ParseRunOptions reads a JSON object of keywords. Empty text is none. The error
// names the keyword that no task could be run with.
func ParseRunOptions(text string) (RunOptions, error) {
	if strings.TrimSpace(text) == "" {
		return RunOptions{}, nil
	}
	v, err := jsonpickle.Decode([]byte(text), jsonpickle.Options{Limits: jsonpickle.Limits{Bytes: 64 << 10, Depth: 10, Nodes: 5000}})
	if err != nil {
		return RunOptions{}, fmt.Errorf("it is no JSON: %w", err)
	}
	dict, ok := v.(*jsonpickle.Dict)
	if !ok {
		return RunOptions{}, errors.New(`it is no JSON object of keywords, such as {"shm_size": "1g"}`)
	}
	o := RunOptions{dict.Members}
	for _, m := range o.members {
		switch m.Key {
		case "image", "pull_image", "container_args", "remove_container", "stream_connectors":
			return RunOptions{}, fmt.Errorf("%s is each task's own", m.Key)
		}
	}
	// A task that says nothing gets all of it.
	_, _, err = FromTask(Task{Name: TaskDockerRun, Args: []jsonpickle.Value{"image"}, RunOptions: o})
	return o, err
}

// join adds to a call what it does not say itself. An entrypoint of None is the
// image's, which these options come before.
func (o RunOptions) join(call []jsonpickle.Member) []jsonpickle.Member {
	for _, m := range o.members {
		i := slices.IndexFunc(call, func(own jsonpickle.Member) bool { return own.Key == m.Key })
		switch {
		case m.Key == "volumes":
			// joinVolumes has them.
		case i < 0:
			call = append(call, m)
		case m.Key == "entrypoint" && call[i].Value == nil:
			call[i].Value = m.Value
		}
	}
	return call
}

// joinVolumes adds the options' volumes to those of the task. They win: of a
// directory that both mount at one place, the mode is the options'. In a list the
// mode is ro where none is written.
func (d *taskDecoder) joinVolumes() error {
	v, _ := get(d.task.RunOptions.members, "volumes")
	more := &taskDecoder{}
	if list, ok := v.(*jsonpickle.List); ok {
		for i, item := range list.Items {
			s, isText := item.(string)
			if !isText {
				return taskProblem(fmt.Sprintf("volumes[%d]", i), "it is not HOST:CONTAINER or HOST:CONTAINER:MODE")
			}
			if strings.Count(s, ":") == 1 {
				s += ":ro"
			}
			if err := more.volumeList([]jsonpickle.Value{s}); err != nil {
				return err
			}
		}
	} else if err := more.volumes(v); err != nil {
		return err
	}
	for _, b := range more.file.Binds {
		same := func(own Bind) bool { return own.Source == b.Source && own.Target == path.Clean(b.Target) }
		if i := slices.IndexFunc(d.file.Binds, same); i >= 0 {
			d.file.Binds[i].ReadOnly = b.ReadOnly
		} else {
			d.file.Binds = append(d.file.Binds, b)
		}
	}
	return nil
}

func get(members []jsonpickle.Member, key string) (jsonpickle.Value, bool) {
	return (&jsonpickle.Dict{Members: members}).Get(key)
}
