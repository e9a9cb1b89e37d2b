package girdertest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

type job struct {
	id       string
	user     string
	title    string
	kind     string
	handler  string
	public   bool
	parent   string // a job's id
	args     any    // as it was given
	kwargs   map[string]any
	other    map[string]any // fields at the document's top
	token    string         // of its jobInfoSpec, as stored
	status   int
	log      []string
	progress *progress
	stamps   []Timestamp
	created  time.Time
	updated  time.Time
	notice   string
}

type progress struct {
	total, current *float64
	message        *string
}

// Timestamp is when a job came to a status.
type Timestamp struct {
	Status int
	Time   time.Time
}

// Job is what an administrator sees of a job.
type Job struct {
	ID, Title, Type, Handler string
	Public                   bool
	// Parent is the job of the task that published this one's; empty: none.
	Parent string
	// Other are the fields that it was made with beside Girder's own.
	Other      map[string]any
	Status     int
	Log        []string
	Timestamps []Timestamp
	// Progress is nil until some was told.
	Progress *Progress
}

// Progress is the last that was told of each of its parts.
type Progress struct {
	Total, Current float64
	Message        string
}

// AddJob makes a job of a user, and a token like the one that a job's message
// carries, for that job and nothing else. handler is "celery_handler" for the jobs
// of Girder Worker's tasks, "worker_handler" for legacy ones.
func (s *Server) AddJob(userID, handler string) (id, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.addJob(userID, handler)
	return j.id, s.newToken("", []string{"jobs.job_" + j.id})
}

func (s *Server) addJob(userID, handler string) *job {
	j := &job{id: s.newID(), user: userID, title: "<unnamed job>", kind: "celery", handler: handler, created: s.stored(), updated: s.stored()}
	j.token = s.newToken("", []string{"jobs.job_" + j.id})
	s.jobs[j.id] = j
	return j
}

// Job returns a job as it is now.
func (s *Server) Job(id string) Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobs[id]
	if j == nil {
		s.tb.Fatalf("no job %q", id)
	}
	return j.seen()
}

// JobOf returns the job of a Celery task, as its field celeryTaskId tells.
func (s *Server) JobOf(task string) (Job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := s.jobOf(task)
	if j == nil {
		return Job{}, false
	}
	return j.seen(), true
}

func (s *Server) jobOf(task string) *job {
	for _, j := range s.jobs {
		if j.other["celeryTaskId"] == task {
			return j
		}
	}
	return nil
}

func (j *job) seen() Job {
	out := Job{
		ID: j.id, Title: j.title, Type: j.kind, Handler: j.handler, Public: j.public, Parent: j.parent, Other: maps.Clone(j.other),
		Status: j.status, Log: slices.Clone(j.log), Timestamps: slices.Clone(j.stamps),
	}
	if p := j.progress; p != nil {
		out.Progress = &Progress{}
		if p.total != nil {
			out.Progress.Total = *p.total
		}
		if p.current != nil {
			out.Progress.Current = *p.current
		}
		if p.message != nil {
			out.Progress.Message = *p.message
		}
	}
	return out
}

// transitions says what a job may come to from each status, by its handler; the
// handler "" is any other. A status that it already has is always accepted.
var transitions = map[string]map[int][]int{
	"celery_handler": {
		0: {1, 2, 5, 824}, 1: {2, 4, 5, 824}, 2: {3, 4, 5, 820, 821, 822, 823, 824}, 824: {4, 5},
		820: {2, 4, 821}, 821: {4}, 822: {4, 823}, 823: {3, 4},
	},
	"worker_handler": {
		0: {1, 824}, 1: {2, 4, 5, 824}, 2: {3, 4, 5, 820, 821, 822, 823, 824}, 824: {4, 5},
		820: {2, 4, 821}, 821: {4}, 822: {4, 823}, 823: {3, 4},
	},
	"": {0: {1, 2, 5}, 1: {2, 4, 5}, 2: {3, 4, 5}},
}

// move brings a job to a status, in Girder's words if not; the caller holds the lock.
func (s *Server) move(j *job, to int) error {
	if j.status == to {
		return nil
	}
	handler := j.handler
	if transitions[handler] == nil {
		handler = ""
	}
	if !slices.Contains(transitions[handler][j.status], to) {
		if to == 0 || handler == "" && to > 5 { // nothing leads there
			return validation("status", "No valid state transition to '%d'. Current state is '%d'.", to, j.status)
		}
		return validation("status", "Invalid state transition to '%d', Current state is '%d'.", to, j.status)
	}
	j.status = to
	j.stamps = append(j.stamps, Timestamp{to, s.config.Now().UTC()})
	return nil
}

func (s *Server) jobDocument(j *job, r *request) map[string]any {
	level := accessNone
	if r.user != nil {
		level = accessRead
		if r.user.admin || r.user.id == j.user {
			level = accessAdmin
		}
	}
	stamps := []map[string]any{}
	for _, t := range j.stamps {
		stamps = append(stamps, map[string]any{"status": t.Status, "time": stamp(t.Time)})
	}
	doc := map[string]any{
		"_accessLevel": level, "_id": j.id, "_modelType": "job", "asynchronous": false, "created": stamp(j.created),
		"handler": j.handler, "interval": 0, "meta": map[string]any{}, "parentId": nil, "progress": nil, "public": j.public,
		"status": j.status, "timestamps": stamps, "title": j.title, "type": j.kind, "updated": stamp(j.updated), "when": stamp(j.created),
		"jobInfoSpec": map[string]any{
			"headers": map[string]any{"Girder-Token": j.token}, "logPrint": true, "method": "PUT", "reference": j.id, "url": s.API() + "/job/" + j.id,
		},
	}
	if j.parent != "" {
		doc["parentId"] = j.parent
	}
	for key, value := range j.other {
		doc[key] = value
	}
	if p := j.progress; p != nil {
		doc["progress"] = map[string]any{"total": p.total, "current": p.current, "message": p.message, "notificationId": j.notice}
	}
	return doc
}

// jobFor finds a job for a call that its own token allows, and its user's.
func (s *Server) jobFor(r *request, id string) (*job, error) {
	j, err := find(s.jobs, "job", "id", id)
	if err != nil {
		return nil, err
	}
	switch {
	case r.token.may("jobs.job_" + j.id):
		if r.user != nil && !r.user.admin && r.user.id != j.user {
			return nil, denied(http.StatusForbidden, "Write access denied for job %s (user %s).", j.id, r.user.id)
		}
		return j, nil
	case r.token == nil && r.Method != http.MethodGet:
		return nil, errLogIn
	}
	return nil, denied(http.StatusUnauthorized, "Invalid token scope.\nRequired: jobs.job_%s.\nAllowed: %s", j.id, r.token.allowed())
}

func (s *Server) postJob(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, err := r.mustBe(ScopeCreateJob)
	if err != nil {
		// What a login may do is not enough here: Girder answers an admin 403.
		if r.user != nil && !r.token.may(ScopeCreateJob) {
			err = denied(http.StatusForbidden, "Invalid token scope.\nRequired: %s.\nAllowed: %s", ScopeCreateJob, r.token.allowed())
		}
		return nil, err
	}
	fields := map[string]any{}
	for _, name := range []string{"args", "kwargs", "otherFields"} {
		if text := r.param(name); text != "" {
			var value any
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				return nil, rest("Parameter %s must be valid JSON.", name)
			}
			fields[name] = value
		}
	}
	j := s.addJob(user.id, r.param("handler"))
	j.title, j.kind = r.param("title"), r.param("type")
	j.public, _ = strconv.ParseBool(r.param("public"))
	j.args, j.kwargs, j.other = fields["args"], objectOf(fields["kwargs"]), objectOf(fields["otherFields"])
	// As the worker plugin does when a job is saved.
	if parent, ok := j.other["celeryParentTaskId"].(string); ok {
		if p := s.jobOf(parent); p != nil {
			j.parent = p.id
		}
	}
	doc := s.jobDocument(j, r)
	doc["args"], doc["kwargs"], doc["log"] = j.args, j.kwargs, []string{}
	return doc, nil
}

// objectOf is never nil.
func objectOf(value any) map[string]any {
	if m, ok := value.(map[string]any); ok && m != nil {
		return m
	}
	return map[string]any{}
}

func (s *Server) getJob(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.jobFor(r, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	doc := s.jobDocument(j, r)
	doc["log"] = append([]string{}, j.log...)
	return doc, nil
}

var statuses = []int{0, 1, 2, 3, 4, 5, 820, 821, 822, 823, 824}

func (s *Server) putJob(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	j, err := s.jobFor(r, r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	numbers := map[string]*float64{}
	for _, name := range []string{"progressTotal", "progressCurrent"} {
		if !r.Form.Has(name) {
			continue
		}
		n, err := strconv.ParseFloat(r.param(name), 64)
		if err != nil {
			return nil, rest("Invalid value for numeric parameter %s: %s.", name, r.param(name))
		}
		numbers[name] = &n
	}
	if text := r.param("status"); text != "" {
		to, err := strconv.Atoi(text)
		if err != nil || !slices.Contains(statuses, to) {
			return nil, validation("status", "Invalid job status %s.", text)
		}
		if err := s.move(j, to); err != nil {
			return nil, err
		}
	}
	if log := r.param("log"); log != "" {
		if overwrite, _ := strconv.ParseBool(r.param("overwrite")); overwrite {
			j.log = nil
		}
		j.log = append(j.log, log)
		if s.config.LogLimit > 0 {
			j.log = j.log[len(j.log)-min(len(j.log), s.config.LogLimit/len(log)):]
		}
	}
	if len(numbers) > 0 || r.Form.Has("progressMessage") {
		if j.progress == nil {
			j.progress, j.notice = &progress{}, s.newID()
		}
		if n := numbers["progressTotal"]; n != nil {
			j.progress.total = n
		}
		if n := numbers["progressCurrent"]; n != nil {
			j.progress.current = n
		}
		if r.Form.Has("progressMessage") {
			m := r.param("progressMessage")
			j.progress.message = &m
		}
	}
	j.updated = s.config.Now()
	return s.jobDocument(j, r), nil
}

// CancelJob is what a user's cancel does to a job.
func (s *Server) CancelJob(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cancel(s.jobs[id])
}

// SetJobStatus is what Girder itself, or a plugin, does to a job.
func (s *Server) SetJobStatus(id string, status int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.move(s.jobs[id], status)
}

func (s *Server) cancel(j *job) error {
	switch {
	case j.status == 824 || j.status == 3 || j.status == 4 || j.status == 5:
		return nil
	case j.handler != "celery_handler" && j.handler != "worker_handler", j.status == 0 && j.handler == "celery_handler":
		return s.move(j, 5)
	}
	return s.move(j, 824)
}

func (s *Server) putJobCancel(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, err := r.mustBe(ScopeWrite)
	if err != nil {
		return nil, err
	}
	j, err := find(s.jobs, "job", "id", r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if !user.admin && user.id != j.user {
		return nil, denied(http.StatusForbidden, "Write access denied for job %s (user %s).", j.id, user.id)
	}
	if err := s.cancel(j); err != nil {
		return nil, err
	}
	return s.jobDocument(j, r), nil
}
