package worker

import (
	"encoding/json"
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
	task := transforms.Task{
		Name: t.Name, Args: t.Positional, Kwargs: t.Keyword, Hooks: t.HookTables, APIURL: t.APIURL, RunOptions: options,
	}
	if t.Job != nil {
		task.JobID = t.Job.Reference
	}
	if t.Session != nil {
		if err := json.Unmarshal(t.Session, &task.Session); err != nil {
			return nil, transforms.Secrets{}, fmt.Errorf("cannot use girder_client_session_kwargs: %w", err)
		}
	}
	return transforms.FromTask(task)
}
