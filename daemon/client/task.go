package client

import (
	"context"
	"fmt"
	"net/http"

	"girderworker/daemon/apitype"
)

// Tasks returns the tasks that the worker discovered, by name, and what it left out.
func (c *Client) Tasks(ctx context.Context) (apitype.Tasks, error) {
	var tasks apitype.Tasks
	err := c.call(ctx, http.MethodGet, "/v1/tasks", nil, nil, &tasks)
	return tasks, err
}

// Task returns one task.
func (c *Client) Task(ctx context.Context, name string) (apitype.Task, error) {
	var task apitype.Task
	if checkID(name) != nil { // it may be anything that a person typed
		return task, &Error{Status: http.StatusNotFound, Kind: apitype.KindNotFound, Text: fmt.Sprintf("no task %q: it cannot be a name", name)}
	}
	err := c.call(ctx, http.MethodGet, "/v1/tasks/"+name, nil, nil, &task)
	return task, err
}
