package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"girderworker/daemon/peer"
	"girderworker/queue"
)

// A Peer is the process at the other end of a connection, as the kernel told
// it when the connection was made.
type Peer struct {
	UID, GID int
	// Groups are all groups of the process, GID among them or not.
	Groups []int
	// PID is for logs only: the process may be gone and its number reused.
	PID int
	// User is the login name where /etc/passwd has one, for display only.
	User string
	// Identity and Refused are what a [Vouched] connection says.
	Identity queue.Identity
	Refused  error
}

// A Vouched connection comes with the word of somebody more trusted than this
// process for who its peer's jobs run as, or why there can be none.
type Vouched interface {
	Vouch() (queue.Identity, error)
}

// Owner is the owner of the jobs that the peer submits.
func (p *Peer) Owner() string { return "uid:" + strconv.Itoa(p.UID) }

// In tells whether the peer has one of the groups.
func (p *Peer) In(groups []int) bool {
	for _, g := range groups {
		if g == p.GID || slices.Contains(p.Groups, g) {
			return true
		}
	}
	return false
}

var errTooManyConnections = errors.New("too many connections of one user")

type peerKey struct{}

// peerOrError is what a connection's context holds. A failure to identify the
// peer is kept for the handler to answer: the listener lives on.
type peerOrError struct {
	peer Peer
	err  error
}

func peerOf(ctx context.Context) (*Peer, error) {
	p, ok := ctx.Value(peerKey{}).(*peerOrError)
	if !ok {
		return nil, errors.New("the connection has no peer")
	}
	return &p.peer, p.err
}

// connections counts what each user has open.
type connections struct {
	perUser int // 0: no limit
	logins  peer.Logins

	mu    sync.Mutex
	conns map[net.Conn]use
	users map[int]int
}

// use is whose a connection is, and whether no request is under way on it.
type use struct {
	uid  int
	idle bool
}

// connContext identifies the peer of a new connection.
func (c *connections) connContext(ctx context.Context, conn net.Conn) context.Context {
	p := new(peerOrError)
	p.peer, p.err = c.identify(conn)
	if p.err == nil && !c.add(conn, p.peer.UID) {
		p.err = errTooManyConnections
	}
	return context.WithValue(ctx, peerKey{}, p)
}

func (c *connections) add(conn net.Conn, uid int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns[conn] = use{uid: uid}
	c.users[uid]++
	if uid == 0 || c.perUser == 0 || c.users[uid] <= c.perUser {
		return true
	}
	// Clients keep connections for what they may ask next; another one counts for more.
	for kept, u := range c.conns {
		if u.uid == uid && u.idle {
			c.remove(kept)
			_ = kept.Close()
			return true
		}
	}
	return false
}

// changed follows what becomes of a connection.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateClosed, http.StateHijacked:
		c.remove(conn)
	case http.StateIdle, http.StateActive:
		if u, ok := c.conns[conn]; ok {
			u.idle = state == http.StateIdle
			c.conns[conn] = u
		}
	}
}

// remove forgets a connection, with c.mu held.
func (c *connections) remove(conn net.Conn) {
	u, ok := c.conns[conn]
	if !ok {
		return
	}
	delete(c.conns, conn)
	if c.users[u.uid]--; c.users[u.uid] == 0 {
		delete(c.users, u.uid)
	}
}

// identify asks the kernel who connected (unix(7), SO_PEERCRED and SO_PEERGROUPS).
func (c *connections) identify(conn net.Conn) (Peer, error) {
	uc, ok := conn.(syscall.Conn)
	if !ok || conn.LocalAddr().Network() != "unix" {
		return Peer{}, fmt.Errorf("cannot identify the peer: %T is not a Unix socket", conn)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Peer{}, fmt.Errorf("cannot identify the peer: %w", err)
	}
	var (
		who     peer.Credentials
		sockErr error
	)
	err = raw.Control(func(fd uintptr) { who, sockErr = peer.Of(int(fd)) })
	if err = errors.Join(err, sockErr); err != nil {
		return Peer{}, fmt.Errorf("cannot identify the peer: %w", err)
	}
	p := Peer{UID: who.UID, GID: who.GID, Groups: who.Groups, PID: who.PID, User: c.logins.Of(who.UID)}
	if vouched, ok := conn.(Vouched); ok {
		p.Identity, p.Refused = vouched.Vouch()
	}
	return p, nil
}
