package celery

import (
	"crypto/sha256"
	"fmt"
	"strconv"

	"girderworker/transforms/jsonpickle"
)

func (f Follower) caller(r *Request) *caller { return &caller{Follower: f, parent: r} }

// caller is the publishing after one task.
type caller struct {
	Follower
	parent   *Request
	made     int // ids made so far
	follows  []Follow
	children []Child
	errs     []error
}

// call is what the caller's place in a work-flow adds to a signature's own options.
type call struct {
	groupID    string
	groupIndex *int64
	taskID     string // where the signature has none
	replyTo    string // the same
}

func (c *caller) child(child Child, ok bool) {
	if ok {
		c.children = append(c.children, child)
	}
}

func (c *caller) failed(err error) (Child, bool) {
	c.errs = append(c.errs, err)
	return Child{}, false
}

// newID makes an id of the parent's and of how many were made before, as a UUID.
func (c *caller) newID() string {
	sum := sha256.Sum256([]byte("girder-worker follow\x00" + c.parent.ID + "\x00" + strconv.Itoa(c.made)))
	c.made++
	u := jsonpickle.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80 // version 8: the maker's own way
	return u.String()
}

// apply publishes a signature with more arguments before its own, and the rest of
// a chain that it is the next link of, last link first.
func (c *caller) apply(s Signature, before jsonpickle.Tuple, rest []Signature, depth int) (Child, bool) {
	return c.applyAs(s, before, rest, call{}, depth)
}

func (c *caller) applyAs(s Signature, before jsonpickle.Tuple, rest []Signature, as call, depth int) (Child, bool) {
	if depth > maxTableDepth {
		return c.failed(fmt.Errorf("%w: nested deeper than %d", ErrSignature, maxTableDepth))
	}
	switch s.Subtask {
	case subtaskChord:
		return c.failed(fmt.Errorf("the chord %s is not called: %w", quote(s.Task), ErrChord))
	case subtaskGroup:
		if len(rest) > 0 {
			return c.failed(fmt.Errorf("what follows the group after task %s is not called: %w", c.parent.ID, ErrChord))
		}
		tasks, err := inner(s)
		if err != nil {
			return c.failed(err)
		}
		if s.Immutable {
			before = nil
		}
		o, err := s.options(c.Now)
		if err != nil {
			return c.failed(err)
		}
		as.groupID = o.taskID
		return c.group(tasks, before, as, depth+1)
	case subtaskChain:
		return c.chain(s, before, rest, as, depth+1)
	}
	return c.task(s, before, rest, as)
}

// inner are the tasks that a group or chain is made of.
func inner(s Signature) ([]Signature, error) {
	v, _ := s.Kwargs.Get("tasks")
	tasks, err := signaturesOf(v)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", s.Subtask, quote(s.Task), err)
	}
	if len(tasks) == 0 {
		return nil, fmt.Errorf("%w: the %s %s has no tasks", ErrSignature, s.Subtask, quote(s.Task))
	}
	return tasks, nil
}

// group publishes all tasks at once. None is no group.
func (c *caller) group(tasks []Signature, before jsonpickle.Tuple, as call, depth int) (Child, bool) {
	if len(tasks) == 0 {
		return Child{}, false
	}
	if as.groupID == "" {
		as.groupID = c.newID()
	}
	group := Child{ID: as.groupID, Group: []Child{}}
	for i, s := range tasks {
		index := int64(i)
		member := call{groupID: as.groupID, groupIndex: &index, replyTo: as.replyTo}
		if child, ok := c.applyAs(s, before, nil, member, depth); ok {
			group.Group = append(group.Group, child)
		}
	}
	return group, true
}

// chain publishes the first of its tasks, with the others to follow and rest after them.
func (c *caller) chain(s Signature, before jsonpickle.Tuple, rest []Signature, as call, depth int) (Child, bool) {
	tasks, err := inner(s)
	if err != nil {
		return c.failed(err)
	}
	o, err := s.options(c.Now)
	if err != nil {
		return c.failed(err)
	}
	if as.replyTo == "" {
		as.replyTo = o.replyTo
	}
	if s.Immutable {
		before = nil
	}
	if o.taskID != "" {
		// The chain's id is that of its last link.
		last := &tasks[len(tasks)-1]
		last.Options = withDefault(last.Options, "task_id", o.taskID)
	}
	for i := range tasks {
		if as.replyTo != "" {
			tasks[i].Options = withDefault(tasks[i].Options, "reply_to", as.replyTo)
		}
		for key, more := range map[string][]Signature{"link_error": o.linkError, "link": o.link} {
			if key == "link_error" || i == len(tasks)-1 {
				tasks[i].Options = withMore(tasks[i].Options, key, more)
			}
		}
	}
	follow := append([]Signature(nil), rest...)
	for i := len(tasks) - 1; i > 0; i-- {
		follow = append(follow, tasks[i])
	}
	return c.applyAs(tasks[0], before, follow, as, depth)
}

func withDefault(d *jsonpickle.Dict, key string, value jsonpickle.Value) *jsonpickle.Dict {
	if v, _ := d.Get(key); v != nil {
		return d
	}
	rest := without(d, func(m jsonpickle.Member) bool { return m.Key == key })
	rest.Members = append(rest.Members, jsonpickle.Member{Key: key, Value: value})
	return rest
}

// withMore adds signatures to a list of them among options.
func withMore(d *jsonpickle.Dict, key string, more []Signature) *jsonpickle.Dict {
	if len(more) == 0 {
		return d
	}
	var list jsonpickle.List
	rest := without(d, func(m jsonpickle.Member) bool {
		if m.Key != key {
			return false
		}
		if items, ok := sequence(m.Value); ok {
			list.Items = append(list.Items, items...)
		} else if m.Value != nil {
			list.Items = append(list.Items, m.Value)
		}
		return true
	})
	for _, s := range more {
		list.Items = append(list.Items, s.value())
	}
	rest.Members = append(rest.Members, jsonpickle.Member{Key: key, Value: &list})
	return rest
}
