package attempt

import (
	"reflect"
	"slices"

	"girderworker/transforms"
)

// AheadPrefix begins the names of containers that are made before there is an attempt
// for them, and of their work directories. No job's name begins so.
const AheadPrefix = "_ahead-"

// Ahead is a request as it would be for every next call by the same caller of
// functions of the same module: with nothing that tells one attempt from another. ok is
// false where each attempt needs something of its own from the start.
func (r *Request) Ahead() (like Request, ok bool) {
	p := r.Plan
	progress := func(s transforms.Stream) bool { return s.Kind == transforms.StreamProgress }
	if p.Python == nil || len(p.Binds)+len(p.Volumes)+len(p.Fetches)+len(p.Inserts)+len(p.Hooks)+len(p.Girders)+len(r.Resources.GPUs) > 0 ||
		slices.ContainsFunc(p.Streams, func(s transforms.Stream) bool { return !progress(s) }) {
		return Request{}, false
	}
	python := *p.Python
	python.Previous = ""
	p.Python = &python
	like = *r
	like.Plan = p
	like.Job, like.Attempt = "", 0
	like.Identity.PID, like.Identity.Seal = 0, ""
	like.Limits = Limits{}
	like.Grant.WorkDir, like.Grant.Cgroup, like.Grant.Ahead = "", "", ""
	return like, true
}

// Same tells whether a container that was made for one request is what another asks
// for, where both were decoded.
func (r *Request) Same(other *Request) bool {
	a, ok := r.Ahead()
	b, ok2 := other.Ahead()
	if !ok || !ok2 {
		return false
	}
	return reflect.DeepEqual(a, b)
}
