package daemon

import (
	"fmt"
	"io"
	"log/slog"
	"os/user"
	"slices"
	"strconv"

	"girderworker/daemon/api"
	"girderworker/daemon/config"
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

// runAs chooses the host identity of a peer's jobs: its own, but root and its
// group, as which no job runs, become the unprivileged identity of the id range.
func runAs(ids config.IDRange, frontUID int) func(api.Peer) (queue.Identity, error) {
	return func(p api.Peer) (queue.Identity, error) {
		if p.UID == frontUID {
			return queue.Identity{}, fmt.Errorf("the daemon's own user must not run jobs; submit as a person")
		}
		nobody := ids.Unprivileged()
		if p.UID == 0 {
			return queue.Identity{UID: nobody, GID: nobody, User: fmt.Sprintf("root (its jobs run as %d)", nobody)}, nil
		}
		if ids.Contains(p.UID) {
			return queue.Identity{}, fmt.Errorf("user %d belongs to the inside of containers", p.UID)
		}
		id := queue.Identity{UID: p.UID, GID: p.GID, User: p.User}
		if id.GID == 0 {
			id.GID = nobody
		}
		for _, g := range p.Groups {
			if g != 0 && g != id.GID && !ids.Contains(g) && !slices.Contains(id.Groups, g) {
				id.Groups = append(id.Groups, g)
			}
		}
		return id, nil
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
