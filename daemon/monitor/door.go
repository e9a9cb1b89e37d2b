package monitor

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/peer"
	"girderworker/daemon/policy"
)

// arrival goes to the front with each connection.
type arrival struct {
	// Identity is who the jobs of this connection run as, sealed.
	Identity attempt.Identity `json:"identity"`
	// Refused says why this peer can have no jobs; it may look at others'.
	Refused string `json:"refused,omitempty"`
}

// sealKey makes the seals of identities. It outlives the daemon, because queued
// jobs do.
type sealKey []byte

const sealKeySize = 32

// loadSealKey reads the key, or makes it, in a directory of root's.
func loadSealKey(state string) (sealKey, error) {
	path := filepath.Join(state, "seal.key")
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return newSealKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the key of identities: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("cannot read the key of identities: %w", err)
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o7077 != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("cannot trust %s: others than root can get at it; remove it, and queued jobs must be submitted again", path)
	}
	key := make([]byte, sealKeySize+1)
	n, err := io.ReadFull(f, key)
	if !errors.Is(err, io.ErrUnexpectedEOF) || n != sealKeySize {
		return nil, fmt.Errorf("cannot use %s: it is damaged; remove it, and queued jobs must be submitted again", path)
	}
	return key[:n], nil
}

func newSealKey(path string) (sealKey, error) {
	key := make([]byte, sealKeySize)
	rand.Read(key) // does not fail
	tmp := path + ".new"
	err := writeSynced(tmp, key)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot keep the key of identities: %w", err)
	}
	return key, nil
}

// writeSynced makes or replaces a file of root's alone.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// seal is 128 bits over all of an identity but the seal itself.
func (k sealKey) seal(id *attempt.Identity) string {
	h := hmac.New(sha256.New, k)
	fmt.Fprintf(h, "identity 1\n%q %d %d %d %d %d", id.Source, id.Submitter, id.PID, id.UID, id.GID, id.Groups)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (k sealKey) check(id *attempt.Identity) bool {
	return hmac.Equal([]byte(k.seal(id)), []byte(id.Seal))
}

// identify is who the jobs of a peer run as: the peer itself, but root and its
// group, as which no job runs, become the unprivileged identity of the range.
func (m *Monitor) identify(c peer.Credentials) (attempt.Identity, error) {
	b := &m.bounds
	id := attempt.Identity{UID: c.UID, GID: c.GID, Source: policy.Socket, Submitter: c.UID, PID: c.PID}
	nobody := b.ids.unprivileged()
	switch {
	case c.UID == b.frontUID:
		return attempt.Identity{}, errors.New("the daemon's own user must not run jobs; submit as a person")
	case c.UID == 0:
		id.UID, id.GID, c.Groups = nobody, nobody, nil
	case b.ids.contains(c.UID):
		return attempt.Identity{}, fmt.Errorf("user %d belongs to the inside of containers", c.UID)
	case c.GID == 0:
		id.GID = nobody
	}
	for _, g := range c.Groups {
		if g != 0 && g != id.GID && !b.ids.contains(g) && !slices.Contains(id.Groups, g) && len(id.Groups) < maxGroups {
			id.Groups = append(id.Groups, g)
		}
	}
	id.Seal = m.seal.seal(&id)
	return id, nil
}

// keepDoor accepts every connection of the API's socket and passes it to the
// front, together with who it is. A front that accepted by itself could show us
// any socket whose other end is somebody's, such as one that it connected to
// a person's own server, and have it taken for a submission of that person's.
func (m *Monitor) keepDoor(ctx context.Context, listener *os.File, to *conn) {
	defer to.Close()
	defer listener.Close()
	stop := context.AfterFunc(ctx, func() { listener.Close(); to.Close() })
	defer stop()
	raw, err := listener.SyscallConn()
	for err == nil {
		var fd int
		var acceptErr error
		err = raw.Read(func(l uintptr) bool {
			fd, _, acceptErr = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			return acceptErr != unix.EAGAIN
		})
		switch {
		case err != nil:
		case acceptErr == nil:
			err = m.usher(fd, to)
			unix.Close(fd)
		case acceptErr == unix.ECONNABORTED || acceptErr == unix.EINTR:
		default:
			m.logger.Error("Cannot accept a connection; trying again", "error", acceptErr)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	if ctx.Err() == nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		m.logger.Error("Cannot accept connections", "error", err)
	}
}

// usher passes one connection on.
func (m *Monitor) usher(fd int, to *conn) error {
	var a arrival
	who, err := peer.Of(fd)
	if err == nil {
		a.Identity, err = m.identify(who)
	}
	if err != nil {
		a.Refused = err.Error()
	}
	return to.sendFD(a, fd)
}

// Listener is the front's side of the API's socket.
type Listener struct{ conn *conn }

// Listen takes over the descriptor that the monitor passed to the front.
func Listen(f *os.File) (*Listener, error) {
	c, err := newConn(f)
	if err != nil {
		return nil, err
	}
	return &Listener{c}, nil
}

// Accept returns the next connection, a [*PeerConn].
func (l *Listener) Accept() (net.Conn, error) {
	for {
		var a arrival
		f, err := l.conn.receive(&a)
		if err != nil {
			return nil, fmt.Errorf("cannot accept a connection: %w", err)
		}
		if f == nil {
			return nil, errors.New("cannot accept a connection: none came")
		}
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			continue // nobody is waiting for an answer that could be told
		}
		if u, ok := c.(*net.UnixConn); ok {
			return &PeerConn{u, a.Identity, a.Refused}, nil
		}
		c.Close()
	}
}

// Close ends Accept.
func (l *Listener) Close() error { return l.conn.Close() }

// Addr is of the socket between the halves; the API's own is the monitor's.
func (l *Listener) Addr() net.Addr { return l.conn.sock.LocalAddr() }

// PeerConn is a connection of which the monitor has told whose it is.
type PeerConn struct {
	*net.UnixConn
	// Identity is for the peer's jobs; Refused says why it can have none.
	Identity attempt.Identity
	Refused  string
}
