package monitor

import (
	"fmt"
	"math"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
)

// bounds are what no request of the front may exceed, whatever policy says.
type bounds struct {
	ids      IDRange
	frontUID int
	frontGID int
	cpus     float64
	memory   int64
	disk     int64 // of the file system with the state
}

func newBounds(o *Options) (bounds, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return bounds{}, fmt.Errorf("cannot tell the machine's memory: %w", err)
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(o.State, &disk); err != nil {
		return bounds{}, fmt.Errorf("cannot tell the size of the file system of %s: %w", o.State, err)
	}
	return bounds{
		ids:      o.IDs,
		frontUID: o.UID,
		frontGID: o.GID,
		cpus:     float64(runtime.NumCPU()),
		memory:   int64(info.Totalram) * int64(info.Unit),
		disk:     int64(disk.Blocks) * disk.Bsize,
	}, nil
}

// shareOfDisk: one job may have at most half of the file system with the state
// for what it writes, or for its log, as config.Hardware says at the submission.
// The queue and the jobs of others are there, too.
const shareOfDisk = 2

// What is finite. Anything above is a mistake or worse.
const (
	minMemory   = 1 << 20
	maxPIDs     = 4 << 20 // the kernel's largest pid_max
	maxDuration = 10 * 366 * 24 * time.Hour
	maxText     = 4096
	maxGPUs     = 64
)

// check holds a request against the bounds. What makes it well-formed is
// checked where it is written, see [attempt.Dir.WriteRequest].
func (b *bounds) check(r *attempt.Request) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
	}
	if r.Identity.Source != policy.AMQP { // whose identity is chosen here
		if err := b.identity(r.Identity); err != nil {
			return err
		}
	}
	res := r.Resources
	switch {
	case !(res.CPUs > 0) || res.CPUs > b.cpus: // the negation catches NaN
		return refuse("%g processors; the machine has %g", res.CPUs, b.cpus)
	case res.Memory < minMemory || res.Memory > b.memory:
		return refuse("%d bytes of memory; the machine has %d", res.Memory, b.memory)
	case res.PIDs < 1 || res.PIDs > maxPIDs:
		return refuse("%d processes; the limit is %d", res.PIDs, maxPIDs)
	case res.Shm < 0 || res.Shm > b.memory:
		return refuse("%d bytes of /dev/shm; the machine has %d of memory", res.Shm, b.memory)
	case res.Scratch < 1 || res.Scratch > b.disk/shareOfDisk:
		return refuse("%d bytes of scratch space; the file system has %d, for all jobs", res.Scratch, b.disk)
	case res.Log < 1 || res.Log > b.disk/shareOfDisk:
		return refuse("%d bytes of log; the file system has %d, for all jobs", res.Log, b.disk)
	}
	if n := len(res.GPUs); n > maxGPUs {
		return refuse("%d GPUs; the limit is %d", n, maxGPUs)
	}
	for _, d := range []time.Duration{r.Limits.Hard, r.Limits.Soft, r.Limits.Idle, r.Plan.StopGrace} {
		if d < 0 || d > maxDuration {
			return refuse("a time limit of %v", d)
		}
	}
	for _, text := range []string{r.Plan.Image, r.Plan.Cwd, r.Plan.User, r.Plan.Hostname} {
		if len(text) > maxText {
			return refuse("a name of %d bytes", len(text))
		}
	}
	return nil
}

// identity refuses everyone whom a job must not be: root, the daemon itself,
// and the insides of other attempts' containers.
func (b *bounds) identity(id attempt.Identity) error {
	refuse := func(what string, n int) error {
		return fmt.Errorf("%w: a job must not run as %s %d", ErrRefused, what, n)
	}
	bad := func(n int) bool {
		return n <= 0 || n >= math.MaxInt32 || b.ids.contains(n) && n != b.ids.unprivileged()
	}
	if bad(id.UID) || id.UID == b.frontUID {
		return refuse("user", id.UID)
	}
	if bad(id.GID) {
		return refuse("group", id.GID)
	}
	for _, g := range id.Groups {
		if bad(g) {
			return refuse("group", g)
		}
	}
	return nil
}
