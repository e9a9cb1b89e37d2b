package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/user"
	"strconv"

	"girderworker/daemon/api"
	"girderworker/daemon/attempt"
	"girderworker/daemon/config"
	"girderworker/daemon/monitor"
	"girderworker/daemon/systemd"
	"girderworker/queue"
)

// userNamed finds a user by name or number. A number needs no entry in
// /etc/passwd; its group is then the one of the same number.
func userNamed(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		n, numErr := strconv.Atoi(name)
		if numErr != nil || n < 0 {
			return 0, 0, fmt.Errorf("is %q, and there is no such user", name)
		}
		if u, err = user.LookupId(name); err != nil {
			return n, n, nil
		}
	}
	if uid, err = strconv.Atoi(u.Uid); err == nil {
		gid, err = strconv.Atoi(u.Gid)
	}
	return uid, gid, err
}

func groupNamed(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		n, numErr := strconv.Atoi(name)
		if numErr != nil || n < 0 {
			return 0, fmt.Errorf("is %q, and there is no such group", name)
		}
		return n, nil
	}
	return strconv.Atoi(g.Gid)
}

// visitors are the connections that the monitor passes on, with its word for
// who they are.
type visitors struct{ *monitor.Listener }

func (v visitors) Accept() (net.Conn, error) {
	c, err := v.Listener.Accept()
	if p, ok := c.(*monitor.PeerConn); ok {
		return visitor{p}, err
	}
	return c, err
}

type visitor struct{ *monitor.PeerConn }

// Vouch implements [api.Vouched].
func (v visitor) Vouch() (queue.Identity, error) {
	if v.Refused != "" {
		return queue.Identity{}, errors.New(v.Refused)
	}
	id := v.Identity
	return queue.Identity{UID: id.UID, GID: id.GID, Groups: id.Groups, Submitter: id.Submitter, PID: id.PID, Seal: id.Seal}, nil
}

// runAs is who a peer's jobs run as: whom the monitor says, which nobody else
// can make up.
func runAs(p api.Peer) (queue.Identity, error) {
	id := p.Identity
	id.User = p.User
	if p.UID == 0 {
		id.User = fmt.Sprintf("root (its jobs run as %d)", id.UID)
	}
	return id, p.Refused
}

// identityOf is what the monitor is told of a job's identity.
func identityOf(job *queue.Job) attempt.Identity {
	if job.Source != queue.SourceSocket {
		return attempt.Identity{Source: string(job.Source)} // the monitor chooses
	}
	return sealed(&job.Identity, job.Source)
}

// sealed is an identity as the monitor sealed it.
func sealed(id *queue.Identity, source queue.Source) attempt.Identity {
	return attempt.Identity{
		UID: id.UID, GID: id.GID, Groups: id.Groups,
		Source: string(source), Submitter: id.Submitter, PID: id.PID, Seal: id.Seal,
	}
}

func logHandler(w io.Writer, l config.Log, level slog.Leveler) slog.Handler {
	o := &slog.HandlerOptions{Level: level}
	if systemd.ToJournal() {
		o.ReplaceAttr = systemd.WithoutTime
	}
	if l.JSON {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}
