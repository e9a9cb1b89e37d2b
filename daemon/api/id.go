package api

import (
	"fmt"
	"strconv"
	"strings"

	"girderworker/queue"
)

// A person names jobs within their own source and uid: to the queue, whose ids are
// the machine's, the job "scan" of user 1000 is "scan.1000", and to that user it is
// "scan". So two people may choose one id, and neither finds out that the other
// has. Ids that the queue makes, and those of Celery, have no such end.

// scoped is the queue's id of a job that the caller named.
func (c *call) scoped(id string) string { return id + "." + strconv.Itoa(c.peer.UID) }

// shown is the id by which the caller knows a job.
func (c *call) shown(id string) string {
	own, named := strings.CutSuffix(id, "."+strconv.Itoa(c.peer.UID))
	if !named || own == "" {
		return id
	}
	return own
}

// shownAll is shown of each.
func (c *call) shownAll(ids []string) []string {
	if ids == nil {
		return nil
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = c.shown(id)
	}
	return out
}

// shownText has the ids of jobs in a text as the caller knows them.
func (c *call) shownText(text string, j *queue.Job) string {
	for _, ids := range [][]string{{j.ID}, j.After, j.AfterAny} {
		for _, id := range ids {
			text = strings.ReplaceAll(text, id, c.shown(id))
		}
	}
	return text
}

// find is the job that the caller means by an id: one that they named, or else one
// of that id which they may see. To everyone else it does not exist.
func (s *Server) find(c *call, id string) (queue.Job, error) {
	job, err := s.queue.Job(c.scoped(id))
	if isNotFound(err) || err == nil && job.Owner != c.peer.Owner() {
		job, err = s.queue.Job(id)
	}
	if err == nil && !c.admin && job.Owner != c.peer.Owner() {
		err = queue.ErrNotFound
	}
	if isNotFound(err) && c.admin && !strings.Contains(id, ".") {
		err = fmt.Errorf("%w; one that somebody else named is %s.UID to an admin: `girder-worker jobs` shows it", err, id)
	}
	return job, err
}
