package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
	"girderworker/transforms/girder"
)

// This is the transfer process's: talking to servers and the files of volumes,
// with the submitter's identity.

// server is a Girder server as the runner tells the transfer process of it.
type server struct {
	transforms.Girder
	Token   string            `json:"token,omitempty"`
	APIKey  string            `json:"api_key,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
	Proxies map[string]string `json:"proxies,omitempty"`
	// Outage is how long it may be out of reach.
	Outage time.Duration `json:"outage,omitempty"`
}

// String keeps what is secret out of any log.
func (s server) String() string { return "Girder server " + s.Name }

// addServer makes the client of a server, which may have its tokens from a
// keeper. It calls nobody.
func (m *mover) addServer(s *server, keeper *os.File) error {
	if len(s.Proxies) > 0 { // those with a password, beside the plan's
		kwargs, all := maps.Clone(s.Session), map[string]any{}
		if kwargs == nil {
			kwargs = map[string]any{}
		}
		if some, ok := kwargs["proxies"].(map[string]any); ok {
			maps.Copy(all, some)
		}
		for key, address := range s.Proxies {
			all[key] = address
		}
		kwargs["proxies"] = all
		s.Session = kwargs
	}
	session, err := girder.ParseSession(s.Session)
	if err != nil {
		return err
	}
	if len(s.Headers) > 0 {
		if session.Headers == nil {
			session.Headers = map[string]string{}
		}
		for k, v := range s.Headers {
			session.Headers[k] = v
		}
	}
	var tokens func(context.Context, string) (string, error)
	if keeper != nil {
		tokens = (&keeperWire{wire: newWire(keeper)}).token
	}
	session.Reach = m.reach.guard(s.Own || s.MachineKey)
	client, err := girder.New(girder.Config{
		API: s.URL, Token: s.Token, APIKey: s.APIKey, Tokens: tokens, Session: session,
		Retry: girder.Retry{}.For(s.Outage),
		Waiting: func(err error, pause time.Duration) {
			if pause >= time.Second { // shorter ones nobody sees
				m.doing("waiting for Girder, %s: %v", shortly(pause), err)
			}
		},
	})
	if err != nil {
		return err
	}
	if m.girders == nil {
		m.girders = map[string]*girder.Client{}
	}
	m.girders[s.Name] = client
	return nil
}

func shortly(d time.Duration) string { return "trying again in " + d.Round(time.Second).String() }

func (m *mover) client(name string) (*girder.Client, error) {
	c := m.girders[name]
	if c == nil {
		return nil, fmt.Errorf("there is no Girder server %q", name)
	}
	return c, nil
}

// doing tells a person what goes on.
func (m *mover) doing(format string, args ...any) {
	// A runner that is gone ends this process by itself.
	_ = m.say(message{Op: opDoing, Text: clean(fmt.Sprintf(format, args...))})
}

func (m *mover) note(format string, args ...any) {
	_ = m.say(message{Op: opNote, Text: clean(fmt.Sprintf(format, args...))})
}

// meter tells how far a transfer is, now and then.
type meter struct {
	m    *mover
	what string // "fetching ct.nii"
	size int64  // -1: not known

	mu   sync.Mutex
	done int64
	told time.Time
}

const meterEvery = 500 * time.Millisecond

func (m *mover) meter(size int64, format string, args ...any) *meter {
	return &meter{m: m, what: fmt.Sprintf(format, args...), size: size}
}

// Write counts bytes.
func (t *meter) Write(p []byte) (int, error) {
	t.mu.Lock()
	done := t.done + int64(len(p))
	t.mu.Unlock()
	t.reach(done)
	return len(p), nil
}

// reach says that so many bytes are done.
func (t *meter) reach(done int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.done = done
	if time.Since(t.told) < meterEvery {
		return
	}
	t.told = time.Now()
	if t.size > 0 {
		t.m.doing("%s %d %%", t.what, 100*min(t.done, t.size)/t.size)
	} else {
		t.m.doing("%s, %d MB so far", t.what, t.done/1e6)
	}
}

// tree is a directory below which files are made or read, and nowhere else: no
// link is followed and no other file system entered.
type tree struct {
	dir  *os.File
	name string // for a person
	// kept: what is there is the submitter's, and not ours to mistake for a clash.
	kept bool
	// readOnly: the job may read it. Before something is written here the policy
	// is asked whether the submitter's jobs may write to its source.
	readOnly bool
	source   string
}

const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// open opens what has a path in the tree.
func (t *tree) open(p string, flags int, mode uint32) (*os.File, error) {
	fd, err := unix.Openat2(int(t.dir.Fd()), p, &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY), Mode: uint64(mode), Resolve: beneath,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// mkdirs makes the directories that lead to p, and p.
func (t *tree) mkdirs(p string) error {
	if p == "." || p == "" {
		return nil
	}
	parent, name, err := t.parent(p, true)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	d, err := t.open(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return d.Close()
}

// parent opens the directory that p is in.
func (t *tree) parent(p string, make bool) (*os.File, string, error) {
	dir, name := path.Split(p)
	dir = path.Clean("./" + dir)
	if make {
		if err := t.mkdirs(dir); err != nil {
			return nil, "", err
		}
	}
	f, err := t.open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	return f, name, err
}

// create makes a new file. One that is there is another's, except where the
// tree is kept: then it is replaced.
func (t *tree) create(p string) (*os.File, error) {
	parent, name, err := t.parent(p, true)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	in := &tree{dir: parent}
	f, err := in.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	if t.kept && errors.Is(err, unix.EEXIST) {
		if err := unix.Unlinkat(int(parent.Fd()), name, 0); err != nil {
			return nil, &fs.PathError{Op: "replace", Path: p, Err: err}
		}
		f, err = in.open(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: p, Err: errors.Unwrap(err)}
	}
	return f, nil
}

// remove removes a file, or a directory with all that is in it. What is not
// there is no error.
func (t *tree) remove(p string) error {
	if p == "." {
		return t.empty()
	}
	parent, name, err := t.parent(p, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	err = unix.Unlinkat(int(parent.Fd()), name, 0)
	if errors.Is(err, unix.EISDIR) {
		var d *os.File
		if d, err = (&tree{dir: parent}).open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return err
		}
		err = (&tree{dir: d}).empty()
		d.Close()
		if err == nil {
			err = unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR)
		}
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: p, Err: err}
	}
	return nil
}

// maxDepth bounds how deep a tree of a server's or a container's is followed.
const maxDepth = 100

// empty removes all that is in the tree, however deep it is.
func (t *tree) empty() error { return attempt.RemoveAll(t.dir) }

// names lists the directory from its beginning, at most n names for n > 0.
func (t *tree) names(n int) ([]string, error) {
	again, err := t.open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer again.Close()
	names, err := again.Readdirnames(n)
	if n > 0 && len(names) == 0 {
		err = nil // io.EOF
	}
	return names, err
}

func (m *mover) place(name string) (*tree, error) {
	t := m.places[name]
	if t == nil {
		return nil, fmt.Errorf("there is no volume %q", name)
	}
	return t, nil
}

// writable returns a place that something may be written to.
func (m *mover) writable(name string) (*tree, error) {
	t, err := m.place(name)
	if err != nil || !t.readOnly {
		return t, err
	}
	f, err := m.opener.open(t.source, true)
	if err != nil {
		return nil, fmt.Errorf("cannot write to %s: %w", t.source, reason(err))
	}
	return t, f.Close()
}

func (m *mover) addPlace(name string, t *tree) {
	if m.places == nil {
		m.places = map[string]*tree{}
	}
	m.places[name] = t
}

// why puts an error as a person would.
func why(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		switch {
		case errors.Is(err, unix.ELOOP):
			return fmt.Errorf("%s: it is a link, or behind one", p.Path)
		case errors.Is(err, unix.EXDEV):
			return fmt.Errorf("%s: it leads out of the volume", p.Path)
		case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
			return fmt.Errorf("%s: the job's disk space is used up", p.Path)
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s: there is no such file or directory", p.Path)
		}
	}
	return err
}
