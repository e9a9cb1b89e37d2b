package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// launch makes the attempt's directory, which is its fence, and its runner.
func (m *Monitor) launch(ctx context.Context, l *live, r *attempt.Request, rights *policy.Rights, secrets transforms.Secrets) error {
	work := filepath.Join(m.files.work(), l.dir.ID())
	m.grant(r, l.slice, work, rights)
	key := m.ahead.keyOf(r)
	waiting := m.ahead.take(ctx, key)
	if waiting != nil {
		m.mu.Lock()
		own := l.slice
		l.slice = waiting.slice
		m.mu.Unlock()
		m.ranges.release(own)
		m.grant(r, l.slice, work, rights)
	}
	if secrets.MachineKey != "" {
		// Which no process of the container has: it is root's there, and root is the submitter.
		r.Grant.KeeperID = m.options.IDs.slice(l.slice)
	}
	m.ahead.yield()
	err := m.begin(ctx, l, r, secrets, waiting)
	if err == nil {
		m.ahead.prepare(key, r, rights)
	}
	return err
}

// grant adds to a request what only the monitor decides, but for the cgroup, which
// depends on the runner.
func (m *Monitor) grant(r *attempt.Request, slice int, work string, rights *policy.Rights) {
	base := m.options.IDs.slice(slice)
	if r.Identity.Source == policy.AMQP {
		r.Identity.UID, r.Identity.GID = base, base
	}
	r.Grant = attempt.Grant{
		UIDMappings: keepID(0, r.Identity.UID, base, nil),
		GIDMappings: keepID(0, r.Identity.GID, base, r.Identity.Groups),
		Roots:       rights.Roots(),
		Closed:      m.closed(),
		Transfers:   rights.Transfers(),
		WorkDir:     work,
		ImageDir:    m.files.image(),
		CacheDir:    m.files.cache(),
		BootID:      m.bootID,
		GroupID:     m.options.GID,

		ResultInExit: true,
	}
	// A root of the host's shows the machine's files as binds do.
	if !rights.SwitchUser() && (len(r.Plan.Binds) > 0 || r.Plan.OnHost()) {
		r.Grant.Withheld = []string{"CAP_SETUID", "CAP_SETGID"}
	}
	if r.Plan.Network == sandbox.NetworkPrivate {
		network := rights.Network()
		// A function is its own transfer process: it reaches what that would.
		if p := r.Plan.Python; p != nil && (r.Identity.Source == policy.AMQP || slices.Contains(rights.Transfers(), sandbox.LocalServices)) {
			network.Host = append(network.Host, p.Girders...)
		}
		r.Grant.Network = &network
	}
	if len(r.Resources.GPUs) > 0 {
		r.Grant.GPUs = &m.options.GPUs
	}
}

// newDirectories makes the directory of an attempt and its work directory, and returns the
// lock.
func (m *Monitor) newDirectories(d attempt.Dir, work string) (*attempt.Lock, error) {
	if err := d.Create(m.options.GID); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("%w: it was started before", ErrRefused)
		}
		return nil, err
	}
	lock, err := d.Lock()
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(work, 0o700); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// begin makes the directory and hands it to a runner: to the one that waits for such an
// attempt, if there is one.
func (m *Monitor) begin(ctx context.Context, l *live, r *attempt.Request, secrets transforms.Secrets, waiting *ahead) (err error) {
	defer func() {
		if waiting != nil {
			m.ahead.end(waiting)
		}
	}()
	d := l.dir
	secret := !secrets.Empty() || secrets.MachineKey != ""
	defer m.spares.prepare(secret)
	lock, err := m.spares.take(d, r.Grant.WorkDir, secret)
	if lock == nil && err == nil {
		lock, err = m.newDirectories(d, r.Grant.WorkDir)
	}
	if err != nil {
		return err
	}
	if err = d.WriteSecrets(secrets); err != nil {
		lock.Close()
		return err
	}
	place := func(group string) error {
		m.mu.Lock()
		l.cgroup = group
		m.mu.Unlock()
		r.Grant.Cgroup = group
		return d.WriteRequest(r)
	}
	if waiting != nil {
		r.Grant.Ahead = m.ahead.work(waiting.name)
		if err = place(waiting.cgroup); err == nil {
			err = waiting.recordIn(lock)
		}
		if err != nil {
			lock.Close()
			return err
		}
		err := m.runners.hand(waiting.warmRunner, d, lock)
		if err == nil {
			lock.Close()
			m.mu.Lock()
			l.proc, waiting = waiting.process, nil
			m.mu.Unlock()
			return nil
		}
		m.logger.Warn("A container that was kept ready failed; making another", "attempt", d.ID(), "error", err)
		m.ahead.end(waiting)
		waiting, r.Grant.Ahead = nil, ""
	}
	proc, err := m.runners.start(ctx, d, lock, r.Resources.Scratch, func(parent string) error {
		return place(path.Join(parent, d.ID()))
	})
	m.mu.Lock()
	l.proc = proc
	m.mu.Unlock()
	return err
}
