package api

import (
	"net/http"

	"girderworker/daemon/apitype"
	"girderworker/queue"
)

// A call is what a handler knows about who asks for what.
type call struct {
	peer  *Peer
	admin bool
	// job is the one that the path names, where the route's access is byOwner.
	job queue.Job
}

// An access rule refuses a call, or lets it pass and completes it.
type access func(s *Server, r *http.Request, c *call) error

// anyone passes whoever could open the socket, identified or not.
func anyone(*Server, *http.Request, *call) error { return nil }

// bySubmitter passes every identified peer. The socket's mode and group say who
// may connect, and so who may submit.
func bySubmitter(s *Server, r *http.Request, c *call) error {
	peer, err := peerOf(r.Context())
	if err == errTooManyConnections {
		return failure(apitype.KindUnavailable, "too many connections are open for this user; close some and try again")
	}
	if err != nil {
		return failure(apitype.KindUnauthorized, "%v", err)
	}
	c.peer = peer
	c.admin = peer.UID == 0 || peer.In(s.settings.Load().AdminGroups)
	return nil
}

// byOwner passes the owner of the job in the path, and an admin. To everyone
// else the job does not exist.
func byOwner(s *Server, r *http.Request, c *call) error {
	if err := bySubmitter(s, r, c); err != nil {
		return err
	}
	id := r.PathValue("id")
	job, err := s.find(c, id)
	if err != nil {
		return err
	}
	c.job = job
	return nil
}

// byAdmin passes root and the members of the admin groups.
func byAdmin(s *Server, r *http.Request, c *call) error {
	if err := bySubmitter(s, r, c); err != nil {
		return err
	}
	if !c.admin {
		return failure(apitype.KindForbidden, "only root and the admin group may do this; ask the machine's admin")
	}
	return nil
}
