package worker

import (
	"encoding/json"
	"errors"
	"fmt"

	"girderworker/daemon/celery"
	"girderworker/transforms"
)

// ContainerTasks are the tasks that [Document] knows: those that run a container.
func ContainerTasks() []string {
	return []string{transforms.TaskDockerRun, transforms.TaskSlicerRun}
}

// Document is the job document of a task that runs a container. The options are
// the machine's.
func Document(t *celery.Task, options transforms.RunOptions) (*transforms.JobFile, transforms.Secrets, error) {
	task, err := callOf(t)
	if err != nil {
		return nil, transforms.Secrets{}, err
	}
	task.RunOptions = options
	return transforms.FromTask(task)
}

// DocumentBy is that of any other task, which make knows; make leaves the secrets in.
func DocumentBy(t *celery.Task, make func(transforms.Task) (*transforms.JobFile, error)) (*transforms.JobFile, transforms.Secrets, error) {
	task, err := callOf(t)
	if err != nil {
		return nil, transforms.Secrets{}, err
	}
	f, err := make(task)
	if err != nil {
		return nil, transforms.Secrets{}, err
	}
	if f.NeedsGirder() && len(f.Girders) == 0 {
		return nil, transforms.Secrets{}, errNoGirder
	}
	if f.Python != nil {
		if err := f.TellFunction(t.APIURL, t.ClientToken, functionRequest(t)); err != nil {
			return nil, transforms.Secrets{}, err
		}
	}
	secrets, err := f.TakeSecrets()
	return f, secrets, err
}

// functionRequest is what a function finds of its message as its request.
func functionRequest(t *celery.Task) map[string]any {
	request := map[string]any{
		"delivery_info": map[string]any{"exchange": t.Exchange, "routing_key": t.RoutingKey, "priority": t.Priority, "redelivered": t.Redelivered},
	}
	if t.Retries > 0 {
		request["retries"] = t.Retries
	}
	for name, text := range map[string]string{
		"root_id": t.RootID, "parent_id": t.ParentID, "group": t.Group, "reply_to": t.ReplyTo, "correlation_id": t.CorrelationID, "origin": t.Origin,
	} {
		if text != "" {
			request[name] = text
		}
	}
	return request
}

var errNoGirder = errors.New("an argument is an id in Girder, and nothing says which server and with whose token; pass it as GirderFileIdToVolume(ID) or another transform of Girder")

// callOf is what a message calls.
func callOf(t *celery.Task) (transforms.Task, error) {
	task := transforms.Task{
		Name: t.Name, Args: t.Positional, Kwargs: t.Keyword, Hooks: t.HookTables, APIURL: t.APIURL,
	}
	if t.Job != nil {
		task.JobID = t.Job.Reference
	}
	if t.Session != nil {
		if err := json.Unmarshal(t.Session, &task.Session); err != nil {
			return task, fmt.Errorf("cannot use girder_client_session_kwargs: %w", err)
		}
	}
	return task, nil
}
