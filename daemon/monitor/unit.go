package monitor

import (
	"context"
	"errors"
	"path"
	"time"

	"girderworker/daemon/attempt"
	"girderworker/daemon/systemd"
	"girderworker/sandbox/cgroup"
)

// unitSlice is the slice of all attempts' services.
const unitSlice = "girder-worker.slice"

// unitStop is how long a runner has after SIGTERM when the machine goes down:
// its container's grace and its own record must fit.
const unitStop = 90 * time.Second

// units starts each runner as a transient service that PID 1 runs. A runner
// that dies takes its container along without our help, a second unit of one
// name is refused, and an orderly reboot reaches the runner.
type units struct {
	self   []string // the command that is this program, absolute
	state  string
	prefix string // of unit names; another daemon on the machine has another
	// daemon is the service that this process is. When the machine goes down it is
	// stopped before the attempts, or it would start again what was interrupted.
	daemon []string
	bus    *systemd.Units
}

func (u *units) name(d attempt.Dir) string { return u.prefix + d.ID() + ".service" }

func (u *units) start(ctx context.Context, d attempt.Dir, lock *attempt.Lock, _ int64) (*process, error) {
	// The unit's name is the fence from here on: the runner takes the lock itself.
	lock.Close()
	name := u.name(d)
	pid, err := u.bus.Start(ctx, systemd.Service{
		Name:              name,
		Description:       "girder-worker job " + d.Job(),
		Slice:             unitSlice,
		Args:              append(u.self[:len(u.self):len(u.self)], "runner", "--directory", d.Path()),
		StopTimeout:       unitStop,
		Before:            u.daemon,
		RequiresMountsFor: []string{u.state},
	})
	if err != nil {
		if !errors.Is(err, systemd.ErrUnitExists) {
			// It may have been started all the same.
			err = errors.Join(err, u.bus.Kill(context.WithoutCancel(ctx), name))
		}
		return nil, err
	}
	p, err := findProcess(pid, 0)
	if err == nil && p == nil {
		// Over already, as a short attempt may be: its directory tells how it ended.
		return nil, nil
	}
	if err == nil {
		err = writeRecord(d, record{PID: p.pid, Start: p.start, Unit: name})
	}
	if err != nil {
		return nil, errors.Join(err, u.bus.Kill(context.WithoutCancel(ctx), name))
	}
	return p, nil
}

func (u *units) find(ctx context.Context, d attempt.Dir) (*process, error) {
	pid, err := u.bus.MainPID(ctx, u.name(d))
	if err != nil || pid == 0 {
		return nil, err
	}
	return findProcess(pid, 0)
}

func (u *units) reap(ctx context.Context, d attempt.Dir, _ record) error {
	if err := u.bus.Kill(ctx, u.name(d)); err != nil || cgroup.Unified() {
		return err
	}
	// systemd removes a unit's group from the hierarchies of cgroup v1 that it uses
	// itself. The container's group made it in all others.
	return endCgroup(ctx, path.Dir(u.cgroup(d)))
}

// cgroup is below the unit's own, which is delegated to the runner.
func (u *units) cgroup(d attempt.Dir) string {
	return systemd.SliceCgroup(unitSlice) + "/" + u.name(d) + "/" + d.ID()
}

func (u *units) close() { u.bus.Close() }
