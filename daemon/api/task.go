package api

import (
	"net/http"
	"strings"

	"girderworker/daemon/apitype"
	"girderworker/transforms"
)

// listTasks tells what was discovered, and what was not.
func (s *Server) listTasks(w http.ResponseWriter, _ *http.Request, _ *call) error {
	tasks, problems := s.tasks.Tasks()
	answer := apitype.Tasks{Tasks: make([]apitype.Task, len(tasks)), Problems: make([]string, len(problems))}
	for i, t := range tasks {
		answer.Tasks[i] = t.Task
	}
	for i, err := range problems {
		answer.Problems[i] = err.Error()
	}
	s.answer(w, http.StatusOK, answer)
	return nil
}

func (s *Server) getTask(w http.ResponseWriter, r *http.Request, _ *call) error {
	t, ok := s.tasks.Lookup(r.PathValue("name"))
	if !ok {
		return failure(apitype.KindNotFound, "no task %q here; `girder-worker tasks` lists them", r.PathValue("name"))
	}
	s.answer(w, http.StatusOK, t.Task)
	return nil
}

// called turns a document that names a discovered task into the one that it comes
// to. asked is what a document asks that names any task but docker_run, to tell two
// submissions apart; nil for others.
func (s *Server) called(f *transforms.JobFile) (out *transforms.JobFile, asked []byte, err error) {
	if !f.Calls() {
		return f, nil, nil
	}
	masked, err := transforms.ParseJobFile(f.AppendJSON(nil))
	if err == nil {
		_, err = masked.TakeSecrets()
	}
	if err != nil {
		return nil, nil, err
	}
	asked = f.AppendCall(masked.AppendJSON(nil))
	t, ok := s.tasks.Lookup(f.Task)
	if !ok {
		return f, asked, nil
	}
	call := transforms.Task{Name: f.Task, Args: f.Call.Args, Kwargs: f.Call.Kwargs}
	if t.Check != nil {
		if err := t.Check(call); err != nil {
			return nil, nil, err
		}
	}
	task, err := t.Document(call)
	if err == nil {
		f, err = f.Called(task)
	}
	if err != nil {
		return nil, nil, err
	}
	return f, asked, nil
}

// known are the names that a document may have.
func (s *Server) known() string {
	return strings.Join(append([]string{transforms.TaskDockerRun}, s.tasks.Names()...), ", ")
}
