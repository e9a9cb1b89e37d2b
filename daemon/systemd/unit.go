package systemd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// ErrUnitExists: a unit of that name is running, or was not cleaned up yet.
var ErrUnitExists = errors.New("a unit of that name exists")

// privateSocket is PID 1's own, which needs no D-Bus daemon, only uid 0.
const privateSocket = "/run/systemd/private"

// Running tells whether PID 1 is systemd and its private socket can be used.
func Running() bool {
	info, err := os.Lstat("/run/systemd/system")
	if err != nil || !info.IsDir() {
		return false
	}
	_, err = os.Lstat(privateSocket)
	return err == nil
}

// Units starts and finds transient services. It is safe for concurrent use.
type Units struct {
	conn *dbus.Conn
}

// Dial connects to PID 1.
func Dial(ctx context.Context) (*Units, error) {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot talk to systemd: %w", err)
	}
	return &Units{conn}, nil
}

// Close ends the connection; services run on.
func (u *Units) Close() { u.conn.Close() }

// Service is a transient service.
type Service struct {
	Name        string // with its .service
	Description string
	Slice       string // with its .slice
	Args        []string
	// Stdin is the main process's standard input, where it is not nil; systemd keeps
	// a copy for as long as it knows the service. The rest is the journal's.
	Stdin *os.File
	// StopTimeout is how long the main process has after SIGTERM.
	StopTimeout time.Duration
	// Before are units that are stopped before this one when the machine goes down.
	Before []string
	// RequiresMountsFor orders the unit's stop before those file systems go.
	RequiresMountsFor []string
}

// Start starts a service and returns its main process once that was executed.
// The service has a delegated cgroup, which systemd empties when the main
// process is gone, however it went.
func (u *Units) Start(ctx context.Context, s Service) (pid int, err error) {
	properties := []dbus.Property{
		prop("Description", s.Description),
		prop("Slice", s.Slice),
		dbus.PropExecStart(s.Args, false),
		// The unit counts as started when execve(2) worked, so that a missing
		// binary is an error here.
		prop("Type", "exec"),
		prop("Delegate", true),
		// SIGTERM for the runner alone, which ends the container in order; SIGKILL for all.
		prop("KillMode", "mixed"),
		prop("TimeoutStopUSec", uint64(s.StopTimeout.Microseconds())),
		// A failed unit goes too, or its name could not be used again.
		prop("CollectMode", "inactive-or-failed"),
		// The container's own out-of-memory kill is the runner's to tell.
		prop("OOMPolicy", "continue"),
		// The attempt has its own limits; the manager's defaults are for daemons.
		prop("TasksMax", uint64(math.MaxUint64)),
		prop("LimitNOFILE", uint64(1<<20)),
		prop("Before", s.Before),
		prop("RequiresMountsFor", s.RequiresMountsFor),
	}
	if s.Stdin != nil {
		properties = append(properties, prop("StandardInputFileDescriptor", godbus.UnixFD(s.Stdin.Fd())))
	}
	done := make(chan string, 1)
	_, err = u.conn.StartTransientUnitContext(ctx, s.Name, "fail", properties, done)
	runtime.KeepAlive(s.Stdin)
	if err != nil {
		var bus godbus.Error
		if errors.As(err, &bus) && bus.Name == "org.freedesktop.systemd1.UnitExists" {
			err = ErrUnitExists
		}
		return 0, fmt.Errorf("cannot start %s: %w", s.Name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return 0, fmt.Errorf("cannot start %s: systemd says %q", s.Name, result)
		}
	case <-ctx.Done():
		return 0, fmt.Errorf("cannot start %s: %w", s.Name, ctx.Err())
	}
	return u.MainPID(ctx, s.Name)
}

func prop(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
}

// Describe changes a unit's description for as long as it is there.
func (u *Units) Describe(ctx context.Context, name, description string) error {
	if err := u.conn.SetUnitPropertiesContext(ctx, name, true, prop("Description", description)); err != nil {
		return fmt.Errorf("cannot describe %s: %w", name, err)
	}
	return nil
}

// MainPID is the main process of a service; 0 when there is none.
func (u *Units) MainPID(ctx context.Context, name string) (int, error) {
	p, err := u.conn.GetServicePropertyContext(ctx, name, "MainPID")
	if err != nil {
		var bus godbus.Error
		if errors.As(err, &bus) && strings.HasSuffix(bus.Name, ".NoSuchUnit") {
			return 0, nil
		}
		return 0, fmt.Errorf("cannot find %s: %w", name, err)
	}
	pid, ok := p.Value.Value().(uint32)
	if !ok {
		return 0, fmt.Errorf("cannot find %s: MainPID is %s", name, p.Value)
	}
	return int(pid), nil
}

// ServiceOf is the service that a process belongs to; empty where it belongs to
// none, as one that somebody started in a session.
func (u *Units) ServiceOf(ctx context.Context, pid int) (string, error) {
	name, err := u.conn.GetUnitNameByPID(ctx, uint32(pid))
	if err != nil {
		var bus godbus.Error
		if errors.As(err, &bus) && strings.HasSuffix(bus.Name, ".NoUnitForPID") {
			return "", nil
		}
		return "", fmt.Errorf("cannot find the unit of process %d: %w", pid, err)
	}
	if !strings.HasSuffix(name, ".service") {
		return "", nil
	}
	return name, nil
}

// Kill ends every process of a service at once and returns when the unit is
// gone or dead. A unit that does not exist is dead.
func (u *Units) Kill(ctx context.Context, name string) error {
	if err := u.conn.KillUnitWithTarget(ctx, name, dbus.All, 9); err != nil {
		var bus godbus.Error
		if errors.As(err, &bus) && strings.HasSuffix(bus.Name, ".NoSuchUnit") {
			return nil
		}
		return fmt.Errorf("cannot kill %s: %w", name, err)
	}
	done := make(chan string, 1)
	if _, err := u.conn.StopUnitContext(ctx, name, "replace", done); err != nil {
		var bus godbus.Error
		if errors.As(err, &bus) && strings.HasSuffix(bus.Name, ".NoSuchUnit") {
			return nil
		}
		return fmt.Errorf("cannot stop %s: %w", name, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot stop %s: %w", name, ctx.Err())
	}
}

// SliceCgroup is where a slice's cgroup is, below the hierarchy's root: every
// dash of its name is a level.
func SliceCgroup(slice string) string {
	parts := strings.Split(strings.TrimSuffix(slice, ".slice"), "-")
	path := ""
	for i := range parts {
		path += "/" + strings.Join(parts[:i+1], "-") + ".slice"
	}
	return path
}
