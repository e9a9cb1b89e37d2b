package girder

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// JobStatus is the status of a Girder job (girder_jobs/constants.py and
// girder_worker_utils).
type JobStatus int

// The statuses a worker meets.
const (
	JobInactive         JobStatus = 0
	JobQueued           JobStatus = 1
	JobRunning          JobStatus = 2
	JobSuccess          JobStatus = 3
	JobError            JobStatus = 4
	JobCanceled         JobStatus = 5
	JobFetchingInput    JobStatus = 820
	JobConvertingInput  JobStatus = 821
	JobConvertingOutput JobStatus = 822
	JobPushingOutput    JobStatus = 823
	JobCanceling        JobStatus = 824
)

// Final reports whether a job of this status stays as it is.
func (s JobStatus) Final() bool { return s == JobSuccess || s == JobError || s == JobCanceled }

// Job is what a worker needs of Girder's document of a job.
type Job struct {
	ID      string    `json:"_id"`
	Title   string    `json:"title"`
	Type    string    `json:"type"`
	Handler string    `json:"handler"`
	Status  JobStatus `json:"status"`
	// Log holds one text per report; nil in the answer to a report.
	Log []string `json:"log"`
}

// JobReport is what one call tells about a job. Fields that are nil or empty are
// left out.
type JobReport struct {
	Status *JobStatus
	// Log is appended. Girder trims a job's log by whole reports: 64 KiB at a
	// time at most is wise.
	Log string
	// Girder keeps the three of a progress separately.
	ProgressTotal, ProgressCurrent *float64
	ProgressMessage                *string
}

// Job reads a job with its log.
func (c *Client) Job(ctx context.Context, id string) (Job, error) {
	var doc Job
	if err := checkID("job", id); err != nil {
		return doc, err
	}
	err := c.do(ctx, call{method: http.MethodGet, path: "job/" + id, repeatable: true}, &doc)
	if err == nil && doc.ID != id {
		err = fmt.Errorf("cannot use the job that Girder answers for %s: %w: its id is %.100q", id, ErrAnswer, doc.ID)
	}
	return doc, err
}

// UpdateJob reports on a job. A status that Girder refuses is [ErrTransition]. A
// report with a log is not repeated when the server may have appended it: that is
// [ErrUncertain], and the job's log tells. Text that is not UTF-8 is mended, since
// Girder refuses the report otherwise.
func (c *Client) UpdateJob(ctx context.Context, id string, r JobReport) (Job, error) {
	var doc Job
	if err := checkID("job", id); err != nil {
		return doc, err
	}
	form := url.Values{}
	if r.Status != nil {
		form.Set("status", strconv.Itoa(int(*r.Status)))
	}
	if r.Log != "" {
		form.Set("log", strings.ToValidUTF8(r.Log, "\ufffd"))
	}
	for name, v := range map[string]*float64{"progressTotal": r.ProgressTotal, "progressCurrent": r.ProgressCurrent} {
		if v != nil {
			form.Set(name, strconv.FormatFloat(*v, 'f', -1, 64))
		}
	}
	if r.ProgressMessage != nil {
		form.Set("progressMessage", strings.ToValidUTF8(*r.ProgressMessage, "\ufffd"))
	}
	err := c.do(ctx, call{method: http.MethodPut, path: "job/" + id, form: form, repeatable: r.Log == ""}, &doc)
	return doc, err
}

// NewJob is a job to make for a task that another task starts.
type NewJob struct {
	Title, Type, Handler string
	Public               bool
	// Args, Kwargs and Other are JSON: a list and two objects. Other may name any
	// field of the job's document.
	Args, Kwargs, Other []byte
}

// CreateJob makes a job and returns the jobInfoSpec for its task's message; nil
// where the server's job has none. It needs a token of the scope
// jobs.rest.create_job, which is what girder_client_token is. It is not repeated:
// the server might make two.
func (c *Client) CreateJob(ctx context.Context, j NewJob) (spec map[string]any, err error) {
	query := url.Values{
		"title": {j.Title}, "type": {j.Type}, "handler": {j.Handler}, "public": {strconv.FormatBool(j.Public)},
		"args": {string(j.Args)}, "kwargs": {string(j.Kwargs)}, "otherFields": {string(j.Other)},
	}
	var doc struct {
		Spec map[string]any `json:"jobInfoSpec"`
	}
	err = c.do(ctx, call{method: http.MethodPost, path: "job", form: query}, &doc)
	return doc.Spec, err
}

// Temporary tells whether the call that err is of may go well later.
func Temporary(err error) bool {
	temporary, _ := judge(err)
	return temporary
}

// AddArtifact attaches a file to a job, a route of a plugin of Girder. An empty
// mimeType is unknown. A broken call is [ErrUncertain]; [Client.Uploaded] may tell
// whether the artifact has arrived.
func (c *Client) AddArtifact(ctx context.Context, jobID, name, mimeType string, content io.ReaderAt, size int64) (File, error) {
	var doc File
	if err := checkID("job", jobID); err != nil {
		return doc, err
	}
	query := url.Values{"name": {name}, "size": {strconv.FormatInt(size, 10)}}
	if mimeType != "" {
		query.Set("mimeType", mimeType)
	}
	err := c.do(ctx, call{
		method: http.MethodPost, path: "job/" + jobID + "/artifact", query: query,
		content: section(content, 0, size), length: size,
	}, &doc)
	return doc, err
}
