package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"girderworker/daemon/apitype"
	"girderworker/queue"
	"girderworker/transforms"
)

// submit accepts one document, or a batch in one commit. It answers 201, or 200
// when every job of the request had been accepted before.
func (s *Server) submit(w http.ResponseWriter, r *http.Request, c *call) error {
	body, err := s.readBody(w, r, maxBody)
	if err != nil {
		return err
	}
	files, batch, err := transforms.ParseJobFiles(body.Bytes())
	s.release(body)
	if err != nil {
		return err
	}
	identity, err := s.runAs(*c.peer)
	if err != nil {
		return failure(apitype.KindForbidden, "%v", err)
	}
	if s.expect != nil {
		s.expect()
	}
	settings := s.settings.Load()
	release := s.images.Hold() // what the jobs name stays until the queue has them
	defer release()
	named := map[string]bool{}
	for _, f := range files {
		named[f.ID] = true
	}
	subs := make([]queue.Submission, len(files))
	for i, f := range files {
		if subs[i], err = s.submission(f, c, identity, settings, named); err != nil {
			if batch {
				err = inJob(i, err)
			}
			return err
		}
	}
	accepted, err := s.queue.Submit(r.Context(), subs...)
	if errors.Is(err, queue.ErrConflict) || errors.Is(err, queue.ErrDependency) {
		told := explain(err)
		for i := range subs {
			if subs[i].ID != "" {
				told.Message = strings.ReplaceAll(told.Message, subs[i].ID, files[i].ID)
			}
		}
		return &refusal{told}
	}
	if err != nil {
		return err
	}
	code := http.StatusOK
	jobs := make([]apitype.Job, len(accepted))
	for i := range accepted {
		jobs[i] = c.view(&accepted[i].Job)
		if !accepted[i].Existing {
			code = http.StatusCreated
		}
	}
	if batch {
		s.answer(w, code, apitype.Jobs{Jobs: jobs})
	} else {
		w.Header().Set("Location", "/v1/jobs/"+jobs[0].ID)
		s.answer(w, code, &jobs[0])
	}
	return nil
}

// inJob names the job of a batch that is to blame.
func inJob(i int, err error) error {
	told := explain(err)
	at := "jobs[" + strconv.Itoa(i) + "]"
	told.Message = at + ": " + told.Message
	if told.Field != "" {
		at += "." + told.Field
	}
	told.Field = at
	return &refusal{told}
}

// submission holds a document against this machine and turns it into what the
// queue keeps: the document completed with the defaults, so that a later change
// of the configuration does not change what was accepted.
func (s *Server) submission(f *transforms.JobFile, c *call, identity queue.Identity, settings *Settings, named map[string]bool) (queue.Submission, error) {
	for field, own := range map[string]bool{"python": f.Python != nil, "command": f.Command != nil} {
		if own {
			return queue.Submission{}, &refusal{apitype.Error{Kind: apitype.KindBadRequest, Field: field, Message: field + ": no document says this; name the task"}}
		}
	}
	name := f.Task
	f, call, err := s.called(f)
	if err != nil {
		return queue.Submission{}, err
	}
	return s.accepted(name, f, call, c, identity, settings, named)
}

// accepted is what becomes of a document of the task of that name. asked tells two
// calls apart; nil: the document does.
func (s *Server) accepted(name string, f *transforms.JobFile, asked []byte, c *call, identity queue.Identity, settings *Settings, named map[string]bool) (queue.Submission, error) {
	owner := c.peer.Owner()
	secrets, err := f.TakeSecrets()
	if err != nil {
		return queue.Submission{}, err
	}
	// Of a call it is what was asked that counts, not what its task is today.
	if asked == nil {
		asked = f.AppendJSON(make([]byte, 0, 512))
	}
	hash := sha256.Sum256(asked)
	sub := queue.Submission{
		ID:        f.ID,
		Source:    queue.SourceSocket,
		Owner:     owner,
		Identity:  identity,
		Name:      f.Name,
		Task:      name,
		Image:     f.Image,
		Priority:  f.Priority,
		NotBefore: f.NotBefore,
		Expires:   f.Expires,
		Hold:      f.Hold,
		BodyHash:  hex.EncodeToString(hash[:]),
	}
	if !secrets.Empty() {
		if sub.Secrets, err = json.Marshal(secrets); err != nil {
			return sub, fmt.Errorf("cannot encode the job's secrets: %w", err)
		}
	}
	repeated, err := s.isRepeated(&sub, c)
	if err != nil {
		return sub, err
	}
	if sub.After, err = s.waitsFor("after", f.After, c, named, repeated); err != nil {
		return sub, err
	}
	if sub.AfterAny, err = s.waitsFor("after_any", f.AfterAny, c, named, repeated); err != nil {
		return sub, err
	}
	judged := ""
	switch {
	case f.Calls():
		sub.Fail = fmt.Sprintf("unknown task %q; this worker knows %s", name, s.known())
	case !repeated:
		if judged, err = s.checkMachine(f, c, settings); err != nil {
			return sub, err
		}
	}
	defaults := settings.Defaults
	if s.policy != nil {
		defaults = s.policy.Defaults(c.peer, defaults)
	}
	scratch := f.Resources.Scratch // that it asked for; the default one is a bound
	f.Complete(defaults)
	for i := range f.Girders {
		if f.Girders[i].URL == "" {
			return sub, &refusal{apitype.Error{Kind: apitype.KindForbidden, Field: "girder.machine_key",
				Message: "girder.machine_key: this machine has no API key of Girder, or none for you; its admin can give it one with girder_url and girder_key_file in worker.cfg, and you the use of it with girder_key in policy.toml"}}
		}
	}
	if judged != "" && s.policy != nil {
		if err := s.policy.Judge(c.peer, f, judged); err != nil {
			return sub, err
		}
	}
	if f.NeedsGirder() && len(f.Girders) == 0 {
		return sub, &refusal{apitype.Error{Kind: apitype.KindBadRequest, Field: "girder",
			Message: "girder: missing; say which server has the job's files, as in https://girder.example.org/api/v1, or keep it with your API key in ~/.config/girder-worker/girder.json"}}
	}
	sub.Needs = queue.Needs{CPUs: f.Resources.CPUs, Memory: f.Resources.Memory, GPUs: max(f.Resources.GPUs, 0), Scratch: scratch, Swap: f.Resources.Swap}
	sub.Limits = queue.Limits{Hard: f.Timeout, Soft: f.SoftTimeout, Idle: f.IdleTimeout}
	sub.Retry = queue.Retry{Max: f.Retries.Max, Delay: f.Retries.Delay, FailInterrupted: f.Retries.FailInterrupted}
	sub.Body = f.AppendJSON(make([]byte, 0, 640))
	return sub, nil
}

// isRepeated gives a submission that names its job the queue's id, and tells
// whether the owner already has that job. Such a
// submission is not held against the machine of today: the queue answers it
// with the job that was accepted, or a conflict.
func (s *Server) isRepeated(sub *queue.Submission, c *call) (bool, error) {
	if sub.ID == "" {
		return false, nil
	}
	job, err := s.find(c, sub.ID)
	mine := err == nil && job.Owner == sub.Owner && job.Source == sub.Source
	if sub.ID = c.scoped(sub.ID); mine {
		sub.ID = job.ID // one from before ids were each person's own is as it is
	}
	if isNotFound(err) {
		err = nil
	}
	return mine, err
}

// checkMachine refuses what this machine can never run. It returns the id of
// the job's image.
func (s *Server) checkMachine(f *transforms.JobFile, c *call, settings *Settings) (string, error) {
	want, have := f.Resources, settings.Machine
	if have.CPUs > 0 && want.CPUs > have.CPUs {
		return "", tooMuch("cpus", strconv.FormatFloat(want.CPUs, 'f', -1, 64), strconv.FormatFloat(have.CPUs, 'f', -1, 64))
	}
	if want.GPUs > have.GPUs {
		return "", tooMuch("gpus", strconv.Itoa(want.GPUs), strconv.Itoa(have.GPUs))
	}
	if want.GPUs != 0 && s.policy != nil {
		n, err := s.policy.GPUs(c.peer, want)
		if err != nil {
			field := "resources.gpus"
			if want.Devices != "" {
				field = "resources.gpu_devices"
			}
			return "", &refusal{apitype.Error{Kind: apitype.KindBadRequest, Field: field, Message: field + ": " + err.Error()}}
		}
		f.Resources.GPUs = n
	}
	for _, res := range []struct {
		name       string
		want, have int64
	}{
		{"memory", want.Memory, have.Memory},
		{"shm", want.Shm, have.Shm},
		{"scratch", want.Scratch, have.Scratch},
		{"log", want.Log, have.Log},
	} {
		if res.have > 0 && res.want > res.have {
			return "", tooMuch(res.name, transforms.FormatBytes(res.want), transforms.FormatBytes(res.have))
		}
	}
	if want.Swap > have.Swap {
		return "", tooMuch("swap", transforms.FormatBytes(want.Swap), transforms.FormatBytes(have.Swap))
	}
	if have.PIDs > 0 && want.PIDs > have.PIDs {
		return "", tooMuch("pids", strconv.FormatInt(want.PIDs, 10), strconv.FormatInt(have.PIDs, 10))
	}
	if f.HostNetwork() && s.policy == nil && !settings.HostNetwork {
		return "", &refusal{apitype.Error{Kind: apitype.KindForbidden, Field: "network",
			Message: "network: host is not allowed on this machine; use private or none"}}
	}
	if f.OnHost() {
		return "no image", nil // which is judged, too
	}
	image, err := s.images.Resolve(f.Image, c.peer.UID)
	if err != nil {
		told := explain(err)
		if told.Kind == apitype.KindNoImage && (f.Pull == transforms.PullAlways || f.Pull == transforms.PullMissing) {
			return "", nil // the attempt pulls it
		}
		if told.Kind == apitype.KindNoImage {
			told.Field = "image"
			told.Message = fmt.Sprintf("no image %q here; `girder-worker images ls` lists them, `girder-worker images import` adds one", f.Image)
		}
		return "", &refusal{told}
	}
	if image.WantsGPU && f.Resources.GPUs == 0 && !f.DeclinesGPU() {
		if have.GPUs == 0 {
			return "", &refusal{apitype.Error{Kind: apitype.KindBadRequest, Field: "resources.gpus",
				Message: fmt.Sprintf("gpus: the image asks for one by its label %s, and this machine has none; NVIDIA_VISIBLE_DEVICES=void in env runs it without", transforms.GPULabel)}}
		}
		f.Resources.GPUs = 1
	}
	return image.ID, nil
}

func tooMuch(resource, want, have string) error {
	field := "resources." + resource
	return &refusal{apitype.Error{Kind: apitype.KindBadRequest, Field: field,
		Message: fmt.Sprintf("%s: the job asks for %s and a job can have at most %s on this machine", field, want, have)}}
}

// waitsFor are the queue's ids of the jobs that one is to wait for. Somebody else's,
// whose end it would tell, is not there. Of a repeated submission nothing is asked.
func (s *Server) waitsFor(field string, ids []string, c *call, named map[string]bool, repeated bool) (out []string, err error) {
	for _, id := range ids {
		job, err := s.find(c, id)
		switch {
		case err == nil:
			out = append(out, job.ID)
		case !isNotFound(err):
			return nil, err
		case named[id]:
			out = append(out, c.scoped(id))
		case repeated:
		default:
			return nil, &refusal{apitype.Error{Kind: apitype.KindBadRequest, Field: field,
				Message: fmt.Sprintf("%s: there is no job %s to wait for", field, id)}}
		}
	}
	return out, nil
}
