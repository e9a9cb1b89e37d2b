package celery

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"girderworker/transforms/jsonpickle"
)

// Follower publishes what comes after a task: its callbacks or errbacks, and the
// next link of its chain.
type Follower struct {
	Now    time.Time // for countdowns and expiry
	Origin string    // "gen<pid>@<host>", for display
	Queue  string    // where tasks go that name no queue; "" is "celery"
}

// Follow is a task to publish. Its message names no job of Girder: who publishes
// it makes one, where Job is not nil, and adds jobInfoSpec to the headers.
type Follow struct {
	Message Message
	ID      string
	Task    string
	Args    jsonpickle.Tuple
	Kwargs  *jsonpickle.Dict
	// Job holds the options girder_job_title, girder_job_type, girder_job_public,
	// girder_job_handler and girder_job_other_fields of the call, which are not sent.
	Job map[string]any
}

// maxFollows bounds what one task may publish, however its signatures are nested.
const maxFollows = 10_000

// AfterSuccess returns what a task that returned result publishes: its callbacks
// and the next link of its chain, and those as children of its result. What cannot
// be published is in err, an ErrChord or ErrSignature each; all else is in follows
// nevertheless.
//
// A task that is published twice has the same id both times: ids that nobody chose
// are made of the parent's.
func (f Follower) AfterSuccess(r *Request, l *Links, result jsonpickle.Value) (follows []Follow, children []Child, err error) {
	c := f.caller(r)
	value := jsonpickle.Tuple{result}
	if len(l.Callbacks) > 1 {
		var single []Signature
		for _, s := range l.Callbacks {
			if s.Subtask == subtaskGroup {
				c.child(c.apply(s, value, nil, 0))
			} else {
				single = append(single, s)
			}
		}
		c.child(c.group(single, value, call{}, 0))
	} else if len(l.Callbacks) == 1 {
		c.child(c.apply(l.Callbacks[0], value, nil, 0))
	}
	if n := len(l.Chain); n > 0 {
		c.child(c.apply(l.Chain[n-1], value, l.Chain[:n-1], 0))
	}
	if l.Chord != nil {
		c.errs = append(c.errs, fmt.Errorf("the chord of task %s will not be called: %w", r.ID, ErrChord))
	}
	return c.follows, c.children, errors.Join(c.errs...)
}

// AfterFailure returns what a task that ended in res, a Failure or Revoked,
// publishes: the same result for every link that was to follow it, so that whoever
// waits for the last one is not left waiting, and, of a failure, its errbacks,
// called with the task's id. err is as in AfterSuccess.
func (f Follower) AfterFailure(r *Request, l *Links, res Result) (results []Message, follows []Follow, err error) {
	c := f.caller(r)
	res.Children = nil
	for i := len(l.Chain) - 1; i >= 0; i-- {
		results = append(results, c.tell(l.Chain[i], res, 0)...)
	}
	if l.Chord != nil {
		c.errs = append(c.errs, fmt.Errorf("the chord of task %s will not be told: %w", r.ID, ErrChord))
	}
	if res.State == Failure {
		c.group(l.Errbacks, jsonpickle.Tuple{r.ID}, call{}, 0)
	}
	return results, c.follows, errors.Join(c.errs...)
}

// tell is res as the result of a signature that will not be called, and of those
// that it is made of.
func (c *caller) tell(s Signature, res Result, depth int) (results []Message) {
	o, err := s.options(c.Now)
	if err != nil || depth > maxTableDepth {
		return nil // it could never have been called, so nobody can name it
	}
	if o.taskID != "" && !o.ignoreResult {
		m, ok, err := reply(o.taskID, o.replyTo, "", res)
		if err != nil {
			c.errs = append(c.errs, err)
		} else if ok {
			results = append(results, m)
		}
	}
	for _, key := range []string{"tasks", "header", "body"} {
		v, _ := s.Kwargs.Get(key)
		if s.Subtask == "" || v == nil {
			continue
		}
		inner, err := signaturesOf(v)
		if err != nil {
			continue // the same
		}
		for _, s := range inner {
			results = append(results, c.tell(s, res, depth+1)...)
		}
	}
	return results[:min(len(results), maxFollows)]
}

// task publishes one task.
func (c *caller) task(s Signature, before jsonpickle.Tuple, rest []Signature, as call) (Child, bool) {
	if len(c.follows) >= maxFollows {
		return c.failed(fmt.Errorf("%w: more than %d tasks after one", ErrSignature, maxFollows))
	}
	o, err := s.options(c.Now)
	if err != nil {
		return c.failed(err)
	}
	args := s.Args
	if !s.Immutable {
		args = append(append(jsonpickle.Tuple(nil), before...), s.Args...)
	}
	id := first(o.taskID, as.taskID)
	if id == "" {
		id = c.newID()
	}
	groupID, groupIndex := first(o.groupID, as.groupID), o.groupIndex
	if groupIndex == nil {
		groupIndex = as.groupIndex
	}

	follow := Follow{ID: id, Task: s.Task, Args: args}
	own := map[string]any{}
	if err := follow.takeGirder(&s, own); err != nil {
		return c.failed(err)
	}
	body, err := taskBody(args, follow.Kwargs, o, rest)
	if err != nil {
		return c.failed(fmt.Errorf("cannot publish task %s: %w", quote(s.Task), err))
	}
	m := newMasker()
	headers := map[string]any{
		"lang": "py", "task": s.Task, "id": id, "shadow": orNil(o.shadow), "eta": orNil(o.eta), "expires": nil,
		"group": orNil(groupID), "group_index": nil, "retries": o.retries, "timelimit": o.timelimit,
		"root_id": first(o.rootID, c.parent.Root()), "parent_id": c.parent.ID,
		"argsrepr": cut(m.text(Repr(args)), maxRepr), "kwargsrepr": cut(m.text(Repr(follow.Kwargs)), maxRepr),
		"origin": c.Origin, "ignore_result": o.ignoreResult,
	}
	p := jsonProperties(persistent)
	p.CorrelationID, p.ReplyTo, p.Priority = id, first(o.replyTo, as.replyTo), uint8(o.priority)
	if groupIndex != nil {
		headers["group_index"] = *groupIndex
	}
	if !o.expires.IsZero() {
		headers["expires"] = isoformat(o.expires)
		p.Expiration = strconv.FormatInt(max(0, o.expires.Sub(c.Now).Milliseconds()), 10)
	}
	for _, more := range []map[string]any{o.headers, own} {
		for key, value := range more {
			if value, err = tableValue(value); err != nil {
				return c.failed(fmt.Errorf("%w: header %s: %w", ErrSignature, quote(key), err))
			}
			headers[key] = value
		}
	}
	follow.Message = Message{Properties: p, Headers: headers, Body: body}
	follow.Message.Exchange, follow.Message.RoutingKey = c.route(o)
	c.follows = append(c.follows, follow)
	return Child{ID: id}, true
}

// tableValue checks that a header can be one.
func tableValue(v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	return normal(v)
}

// route is where a task goes: by default straight to the queue, as Celery publishes
// to direct exchanges.
func (c *caller) route(o callOptions) (exchange, routingKey string) {
	queue := first(o.queue, c.Queue)
	if queue == "" {
		queue = "celery"
	}
	switch {
	case o.exchange == "" && o.routingKey == "":
		return "", queue
	case o.exchange == "":
		return queue, o.routingKey
	case o.routingKey == "":
		return o.exchange, queue
	}
	return o.exchange, o.routingKey
}

// takeGirder moves what Girder's tasks do not send as arguments: three names into
// the headers, those about the job into Job.
func (f *Follow) takeGirder(s *Signature, headers map[string]any) error {
	var failure error
	take := func(m jsonpickle.Member) bool {
		if isGirderJobOption(m.Key) {
			if f.Job == nil {
				f.Job = map[string]any{}
			}
			f.Job[m.Key] = plainOf(m.Value)
			return true
		}
		for _, name := range girderHeaders {
			if m.Key != name {
				continue
			}
			value, err := pickledTable(m.Value)
			if err != nil && failure == nil {
				failure = fmt.Errorf("%w: %s: %w", ErrSignature, m.Key, err)
			}
			if wrapped, ok := value.(map[string]any); ok && wrapped["py/tuple"] != nil {
				value = wrapped["py/tuple"] // hooks are an array of tables, whatever held them
			}
			headers[name] = value
			return true
		}
		return false
	}
	f.Kwargs = without(s.Kwargs, take)
	without(s.Options, take)
	return failure
}

// pickledTable is a value as jsonpickle writes it, as an AMQP table. Nothing in it
// is a reference: tables have no order, which the numbers of references depend on.
func pickledTable(v jsonpickle.Value) (any, error) {
	items := func(all []jsonpickle.Value) ([]any, error) {
		out := make([]any, 0, len(all))
		for _, item := range all {
			one, err := pickledTable(item)
			if err != nil {
				return nil, err
			}
			out = append(out, one)
		}
		return out, nil
	}
	members := func(class string, all []jsonpickle.Member) (any, error) {
		m := map[string]any{}
		if class != "" {
			m["py/object"] = class
		}
		for _, member := range all {
			one, err := pickledTable(member.Value)
			if err != nil {
				return nil, err
			}
			m[member.Key] = one
		}
		return m, nil
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v, nil
	case *jsonpickle.List:
		return items(v.Items)
	case jsonpickle.Tuple:
		all, err := items(v)
		return map[string]any{"py/tuple": all}, err
	case *jsonpickle.Dict:
		return members("", v.Members)
	case *jsonpickle.Object:
		return members(v.Class, v.Attrs)
	}
	text, err := jsonpickle.Encode(v)
	if err != nil {
		return nil, err
	}
	var raw any
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, err
	}
	return normal(raw)
}

// taskBody is the body of protocol 2: plain JSON where that says it all, else with
// jsonpickle's tags.
func taskBody(args jsonpickle.Tuple, kwargs *jsonpickle.Dict, o callOptions, chain []Signature) ([]byte, error) {
	var chord jsonpickle.Value
	if o.chord != nil {
		chord = o.chord.value()
	}
	embed := dict("callbacks", signatureValues(o.link), "errbacks", signatureValues(o.linkError),
		"chain", signatureValues(chain), "chord", chord)
	whole := jsonpickle.Tuple{args, kwargs, embed}
	plain := !hasTuple(kwargs) && !hasTuple(&jsonpickle.List{Items: args})
	for _, s := range slices.Concat(o.link, o.linkError, chain) {
		plain = plain && !hasTuple(s.Kwargs) && !hasTuple(&jsonpickle.List{Items: s.Args})
	}
	if plain {
		if body, err := jsonpickle.EncodePlain(whole); err == nil {
			return body, nil
		}
	}
	return jsonpickle.Encode(whole)
}

// hasTuple tells whether plain JSON would turn a tuple in v into a list.
func hasTuple(v jsonpickle.Value) bool {
	switch v := v.(type) {
	case jsonpickle.Tuple:
		return true
	case *jsonpickle.List:
		for _, item := range v.Items {
			if hasTuple(item) {
				return true
			}
		}
	case *jsonpickle.Dict:
		for _, m := range v.Members {
			if hasTuple(m.Value) {
				return true
			}
		}
	}
	return false
}

func first(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

func orNil(s string) any {
	if s == "" {
		return nil
	}
	return s
}
