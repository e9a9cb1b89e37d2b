package celery

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"girderworker/transforms/jsonpickle"
)

// Options tell a decoding what its caller knows.
type Options struct {
	// MaxBody bounds the body in bytes, before and after inflating. Default 16 MiB.
	MaxBody int
	// Pickle is for the values in the body. Its limits have defaults; Fits decides
	// between the numberings of references.
	Pickle jsonpickle.Options
}

// Decode reads a task message. Every error is an [*Error]; with one whose End is
// Fail the task has all that could be read.
func Decode(d Delivery, o Options) (Task, error) {
	if o.MaxBody <= 0 {
		o.MaxBody = MaxBody
	}
	if o.Pickle.Limits.Bytes <= 0 {
		o.Pickle.Limits.Bytes = o.MaxBody
	}
	if name, err := normal(d.Headers["task"]); err == nil && name == nil {
		return decodeV1(d, o)
	}
	return decodeV2(d, o)
}

// decodeV2 reads protocol 2: the task in the headers, its arguments in the body.
func decodeV2(d Delivery, o Options) (Task, error) {
	var t Task
	f := headerFields(d.Headers)
	if err := t.identify(f); err != nil {
		return Task{}, err
	}
	t.Protocol = 2
	headerErr := t.context(f, d)
	if err := t.readBody(d, o); headerErr == nil && err != nil {
		return t, err
	}
	if headerErr != nil {
		return t, headerErr
	}
	return t, nil
}

// decodeV1 reads protocol 1: everything in the body. Until that is read, nobody
// knows what the message is about, so that every error is a Reject.
func decodeV1(d Delivery, o Options) (Task, error) {
	reject := func(err *Error) (Task, error) {
		err.End = Reject
		return Task{}, err
	}
	body, err := content(d, o.MaxBody)
	if err != nil {
		return reject(err)
	}
	root, err := unpickle(body, o)
	if err != nil {
		return reject(err)
	}
	dict, ok := root.(*jsonpickle.Dict)
	if !ok {
		return reject(failed(ReasonUnknown, "neither a header nor the body names a task"))
	}
	if name, _ := dict.Get("task"); name == nil {
		return reject(failed(ReasonUnknown, "neither a header nor the body names a task"))
	}
	var t Task
	f := &fields{what: "field", get: func(name string) (any, error) {
		v, _ := dict.Get(name)
		return plainOf(v), nil
	}}
	if err := t.identify(f); err != nil {
		return Task{}, err
	}
	t.Protocol = 1
	fieldErr := t.context(f, d)
	if t.Group == "" {
		t.Group = f.text("taskset", maxID)
	}
	if err := t.parts(body, dict, true); err != nil && fieldErr == nil {
		return t, err
	}
	if fieldErr != nil {
		return t, fieldErr
	}
	return t, nil
}

// identify reads what a task cannot be without.
func (t *Task) identify(f *fields) error {
	t.ID, t.Name = f.text("id", maxID), f.text("task", maxName)
	if err := f.err(); err != nil {
		return &Error{Reject, ReasonID, err}
	}
	if t.ID == "" || t.Name == "" {
		return &Error{Reject, ReasonID, errors.New("the id or the name of the task is empty")}
	}
	return nil
}

// context reads what f says of the task besides its arguments, and Girder's headers.
func (t *Task) context(f *fields, d Delivery) error {
	t.Shadow = f.text("shadow", maxName)
	t.RootID, t.ParentID = f.text("root_id", maxID), f.text("parent_id", maxID)
	t.Group = f.text("group", maxID)
	if n, ok := f.integer("group_index", 0, 1<<31-1); ok {
		index := int(n)
		t.GroupIndex = &index
	}
	t.ETA, t.Expires = f.when("eta"), f.when("expires")
	retries, _ := f.integer("retries", 0, 1<<31-1)
	t.Retries = int(retries)
	t.Hard, t.Soft = f.timelimit("timelimit")
	t.IgnoreResult = f.boolean("ignore_result", false)
	t.Origin, t.ArgsRepr, t.KwargsRepr = f.shown("origin"), f.shown("argsrepr"), f.shown("kwargsrepr")

	t.Priority = min(int(d.Properties.Priority), 9)
	t.ReplyTo, t.CorrelationID = d.Properties.ReplyTo, d.Properties.CorrelationID
	t.Exchange, t.RoutingKey, t.Queue, t.Redelivered = d.Exchange, d.RoutingKey, d.Queue, d.Redelivered

	h := headerFields(d.Headers)
	t.APIURL = h.text("girder_api_url", maxURL)
	if legacy := h.text("apiUrl", maxURL); t.APIURL == "" {
		t.APIURL = legacy
	}
	if t.APIURL != "" {
		if err := checkURL(t.APIURL); err != nil {
			h.wrong("girder_api_url", "%w", err)
			t.APIURL = ""
		}
	}
	t.ClientToken = h.text("girder_client_token", maxToken)
	if session := h.table("girder_client_session_kwargs"); session != nil {
		var err error
		if t.Session, err = tableJSON(session); err != nil {
			h.wrong("girder_client_session_kwargs", "%w", err)
		}
	}
	for i, hook := range h.list("girder_result_hooks") {
		text, err := tableJSON(hook)
		if _, ok := hook.(map[string]any); !ok {
			err = fmt.Errorf("%s, not a table", kindOf(hook))
		}
		if err != nil {
			h.wrong("girder_result_hooks", "[%d]: %w", i, err)
			continue
		}
		t.Hooks, t.HookTables = append(t.Hooks, text), append(t.HookTables, hook)
	}
	spec, jobErr := h.table("jobInfoSpec"), error(nil)
	if spec != nil {
		t.Job, jobErr = jobInfo(mapFields("header jobInfoSpec,", spec))
	}
	if err := errors.Join(f.err(), h.err()); err != nil {
		return &Error{Fail, ReasonHeader, err}
	}
	if jobErr != nil {
		return &Error{Fail, ReasonJobInfo, jobErr}
	}
	return nil
}

const (
	maxToken      = 4096
	maxJobHeaders = 32
)

// jobInfo reads a jobInfoSpec.
func jobInfo(f *fields) (*JobInfo, error) {
	j := &JobInfo{
		Method:    strings.ToUpper(f.text("method", 16)),
		URL:       f.text("url", maxURL),
		Reference: f.text("reference", maxID),
		LogPrint:  f.boolean("logPrint", true),
	}
	switch j.Method {
	case "":
		j.Method = "PUT"
	case "PUT":
	default:
		f.wrong("method", "%s is not how a job is told of, which is PUT", quote(j.Method))
	}
	if j.URL == "" {
		f.wrong("url", "there is none")
	} else if err := checkURL(j.URL); err != nil {
		f.wrong("url", "%w", err)
	}
	headers := f.table("headers")
	if len(headers) > maxJobHeaders {
		f.wrong("headers", "%d, at most %d are allowed", len(headers), maxJobHeaders)
		headers = nil
	}
	h := mapFields(f.what+" headers", headers)
	for name := range headers {
		if j.Headers == nil {
			j.Headers = map[string]string{}
		}
		if !isHeaderName(name) {
			h.wrong(quote(name), "not the name of a header")
			continue
		}
		j.Headers[name] = h.text(name, maxToken)
	}
	if err := errors.Join(f.err(), h.err()); err != nil {
		return nil, err
	}
	return j, nil
}

func isHeaderName(s string) bool {
	for _, c := range s {
		if !(c == '-' || c == '_' || '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z') {
			return false
		}
	}
	return s != ""
}

// checkURL wants an absolute http or https URL without credentials in it.
func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return fmt.Errorf("%s is no URL", quote(s))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%s is no http or https URL", quote(s))
	case u.User != nil:
		return errors.New("a URL with a user or password in it")
	}
	return nil
}

// unpickle decodes a body.
func unpickle(body []byte, o Options) (jsonpickle.Value, *Error) {
	root, err := jsonpickle.Decode(body, o.Pickle)
	switch {
	case err == nil:
		return root, nil
	case errors.Is(err, jsonpickle.ErrTooLarge):
		return nil, &Error{Fail, ReasonTooLarge, err}
	case errors.Is(err, jsonpickle.ErrRefused):
		return nil, &Error{Fail, ReasonRefused, err}
	}
	return nil, &Error{Fail, ReasonBody, err}
}

// readBody reads the body of protocol 2, or of the hybrid that has its arguments
// in an object, as protocol 1 has.
func (t *Task) readBody(d Delivery, o Options) error {
	body, err := content(d, o.MaxBody)
	if err != nil {
		return err
	}
	root, err := unpickle(body, o)
	if err != nil {
		return err
	}
	if dict, ok := root.(*jsonpickle.Dict); ok {
		if _, ok := dict.Get("args"); !ok {
			return failed(ReasonBody, "the body is an object without args, not args, kwargs and embed")
		}
		if err := t.parts(body, dict, true); err != nil {
			return err
		}
		return nil
	}
	items, ok := sequence(root)
	if !ok || len(items) != 3 {
		return failed(ReasonBody, "the body is not the three parts args, kwargs and embed")
	}
	embed, ok := items[2].(*jsonpickle.Dict)
	if !ok && items[2] != nil {
		return failed(ReasonBody, "the third part of the body is %s, not a table", kindOf(plainOf(items[2])))
	}
	whole := &jsonpickle.Dict{Members: []jsonpickle.Member{{Key: "args", Value: items[0]}, {Key: "kwargs", Value: items[1]}}}
	if embed != nil {
		whole.Members = append(whole.Members, embed.Members...)
	}
	if err := t.parts(body, whole, false); err != nil {
		return err
	}
	return nil
}

func sequence(v jsonpickle.Value) ([]jsonpickle.Value, bool) {
	switch v := v.(type) {
	case jsonpickle.Tuple:
		return v, true
	case *jsonpickle.List:
		return v.Items, true
	}
	return nil, false
}

// parts takes args, kwargs and the links out of whole. flat says that the body is
// an object with them, not a list of three.
func (t *Task) parts(body []byte, whole *jsonpickle.Dict, flat bool) error {
	t.Body = body
	t.Keyword = &jsonpickle.Dict{}
	if v, ok := whole.Get("args"); ok && v != nil {
		items, ok := sequence(v)
		if !ok {
			return failed(ReasonBody, "args is %s, not a list", kindOf(plainOf(v)))
		}
		t.Positional = items
	}
	if v, ok := whole.Get("kwargs"); ok && v != nil {
		dict, ok := v.(*jsonpickle.Dict)
		if !ok {
			return failed(ReasonBody, "kwargs is %s, not a table", kindOf(plainOf(v)))
		}
		t.Keyword = dict
	}
	all, err := spans(body)
	if err != nil {
		return &Error{Fail, ReasonBody, err}
	}
	t.Args, t.Kwargs = part(all, 0, "args"), part(all, 1, "kwargs")
	if !flat {
		t.Embed = part(all, 2, "")
	}
	if err := t.takeJobInfo(); err != nil {
		return err
	}
	l, failure := links(whole)
	if failure != nil {
		return failure
	}
	t.Links = l
	t.display()
	return nil
}

// takeJobInfo moves the keyword jobInfo of old senders to where its successor is.
func (t *Task) takeJobInfo() error {
	v, ok := t.Keyword.Get("jobInfo")
	if !ok {
		return nil
	}
	t.Keyword = without(t.Keyword, func(m jsonpickle.Member) bool { return m.Key == "jobInfo" })
	if t.Job != nil || v == nil {
		return nil
	}
	spec, ok := plainOf(v).(map[string]any)
	if !ok {
		return failed(ReasonJobInfo, "keyword argument jobInfo: %s, not a table", kindOf(plainOf(v)))
	}
	job, err := jobInfo(mapFields("keyword argument jobInfo,", spec))
	if err != nil {
		return &Error{Fail, ReasonJobInfo, err}
	}
	t.Job = job
	return nil
}

// display makes what people are shown of the arguments.
func (t *Task) display() {
	m := newMasker(t.Secrets()...)
	t.PlainArgs = plainJSON(t.Positional, m)
	t.PlainKwargs = plainJSON(t.Keyword, m)
	if t.ArgsRepr == "" {
		t.ArgsRepr = cut(Repr(t.Positional), maxRepr)
	}
	if t.KwargsRepr == "" {
		t.KwargsRepr = cut(Repr(t.Keyword), maxRepr)
	}
	t.ArgsRepr, t.KwargsRepr = m.text(t.ArgsRepr), m.text(t.KwargsRepr)
}
