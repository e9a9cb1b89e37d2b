package apitype

import "encoding/json"

// Task is a task that the worker discovered: what it runs under a name.
type Task struct {
	Name        string `json:"name"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	// Source is where the task comes from: the path of its file, or the package.
	Source string `json:"source"`
	Image  string `json:"image,omitempty"`
	// Command is the program of the machine, with its first arguments, that a task
	// runs instead of an image.
	Command []string `json:"command,omitempty"`
	// Parameters are in the order of arguments that are given without a name.
	Parameters []Parameter `json:"parameters"`
	GirderJob  GirderJob   `json:"girder_job,omitzero"`
}

// Parameter is one of a task's.
type Parameter struct {
	Name        string `json:"name"`
	Title       string `json:"title,omitempty"`
	Description string `json:"description,omitempty"`
	// Type is one of those in girder-worker-tasks(5); empty: any value.
	Type     string `json:"type,omitempty"`
	Required bool   `json:"required,omitempty"`
	// Default is what an argument that is not given has; null: it has no value.
	Default json.RawMessage   `json:"default,omitempty"`
	Choices []json.RawMessage `json:"choices,omitempty"`
	// Min, Max and Step bound a number and each number of a vector.
	Min  *float64 `json:"min,omitempty"`
	Max  *float64 `json:"max,omitempty"`
	Step *float64 `json:"step,omitempty"`
	// Accepts says what a good value is, for a person.
	Accepts string `json:"accepts,omitempty"`
	// Length is how many values a vector has; 0: any number.
	Length int `json:"length,omitempty"`
}

// GirderJob is how Girder shows a job of the task that this worker makes there:
// the arguments of Girder Worker's decorator girder_job.
type GirderJob struct {
	Title       string          `json:"title,omitempty"`
	Type        string          `json:"type,omitempty"`
	Public      bool            `json:"public,omitempty"`
	OtherFields json.RawMessage `json:"other_fields,omitempty"`
}

// Tasks is the answer to GET /v1/tasks.
type Tasks struct {
	Tasks []Task `json:"tasks"`
	// Problems are what was left out and why, a line each.
	Problems []string `json:"problems"`
}
