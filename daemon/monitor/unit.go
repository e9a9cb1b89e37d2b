package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
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
// that dies takes its container along without our help, and an orderly reboot
// reaches the runner. One that waits ends with its socket, whatever the daemon dies of.
type units struct {
	self   []string // the command that is this program, absolute
	state  string
	prefix string // of unit names; another daemon on the machine has another
	// daemon is the service that this process is. When the machine goes down it is
	// stopped before the attempts, or it would start again what was interrupted.
	daemon []string
	bus    *systemd.Units
}

func (u *units) named(name string) record {
	return record{Unit: u.prefix + "runner-" + name + ".service"}
}

func (u *units) older(d attempt.Dir) string { return u.prefix + "job-" + d.ID() + ".service" }

func (u *units) spawn(ctx context.Context, rec record, args []string, socket *os.File) (*process, error) {
	command := append(u.self[:len(u.self):len(u.self)], "runner", "--warm-fd", "0", "--cgroup", u.parent(rec))
	pid, err := u.bus.Start(ctx, systemd.Service{
		Name:              rec.Unit,
		Description:       "girder-worker, ready for a job",
		Slice:             unitSlice,
		Args:              append(command, args...),
		Stdin:             socket,
		StopTimeout:       unitStop,
		Before:            u.daemon,
		RequiresMountsFor: []string{u.state},
	})
	if err == nil {
		var p *process
		if p, err = findProcess(pid, 0); p != nil {
			return p, nil
		}
		if err == nil {
			err = fmt.Errorf("cannot start %s: it has ended at once", rec.Unit)
		}
	}
	// It may have been started all the same.
	kill, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancel()
	return nil, errors.Join(err, u.end(kill, rec))
}

func (u *units) describe(ctx context.Context, rec record, description string) error {
	return u.bus.Describe(ctx, rec.Unit, description)
}

func (u *units) find(ctx context.Context, rec record) (*process, error) {
	pid, err := u.bus.MainPID(ctx, rec.Unit)
	if err != nil || pid == 0 {
		return nil, err
	}
	return findProcess(pid, 0)
}

func (u *units) end(ctx context.Context, rec record) error {
	if err := u.bus.Kill(ctx, rec.Unit); err != nil || cgroup.Unified() {
		return err
	}
	// systemd removes a unit's group from the hierarchies of cgroup v1 that it uses
	// itself. The container's group made it in all others.
	return endCgroup(ctx, u.parent(rec))
}

// parent is the unit's own, which is delegated to the runner.
func (u *units) parent(rec record) string {
	return systemd.SliceCgroup(unitSlice) + "/" + rec.Unit
}

func (u *units) close() { u.bus.Close() }
