package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var trueJob = []byte(`{"image":"bench:latest","args":["/bin/true"]}`)

func fdatasync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// latencySection compares submit to exit of /bin/true with a bare `runc run` of
// an equal container.
func latencySection(ctx context.Context, b *bench) error {
	d, err := newDaemon(ctx, b, "latency")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	r, err := newRunc(ctx, b)
	if err != nil {
		return err
	}
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	busybox := "/bin/busybox"
	var warm, next, cold, runc, bare []time.Duration
	for range b.n(40, 3) {
		t, err := timed(func() error { return exec.CommandContext(ctx, busybox, "true").Run() })
		if err != nil {
			return err
		}
		bare = append(bare, t)
		if t, err = timed(func() error { return r.run(ctx) }); err != nil {
			return err
		}
		runc = append(runc, t)
		// The time of runc's run is enough for the daemon to have its next
		// runner ready.
		if t, err = timed(func() error { return c.runJob(ctx, trueJob) }); err != nil {
			return err
		}
		warm = append(warm, t)
		if t, err = timed(func() error { return c.runJob(ctx, trueJob) }); err != nil {
			return err
		}
		next = append(next, t)
		// Without the runner that waits, a job has to start its own.
		if err := d.killWarmRunner(ctx); err != nil {
			return err
		}
		if t, err = timed(func() error { return c.runJob(ctx, trueJob) }); err != nil {
			return err
		}
		cold = append(cold, t)
	}
	base := median(runc)
	b.table.atMost(0.6, "submit to exit of /bin/true, warm runner, against runc run", ms(median(warm)), ms(base), median(warm).Seconds()/base.Seconds())
	b.table.note("submit to exit of /bin/true, right behind another, against runc run", ms(median(next)), ms(base), median(next).Seconds()/base.Seconds())
	b.table.note("submit to exit of /bin/true, cold runner, against runc run", ms(median(cold)), ms(base), median(cold).Seconds()/base.Seconds())
	b.table.note("runc run of the same container, against fork and exec", ms(base), ms(median(bare)), base.Seconds()/median(bare).Seconds())
	return nil
}

// commandSection compares whole commands as a person types them.
func commandSection(ctx context.Context, b *bench) error {
	d, err := newDaemon(ctx, b, "command")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	docker, err := newDocker(ctx, b)
	if err != nil {
		return err
	}
	if docker == nil {
		fmt.Println("  docker is not installed: not compared (BENCH_DOCKER=1 make bench installs it)")
		return nil
	}
	defer docker.stop()
	var ours, theirs []time.Duration
	for range b.n(20, 2) {
		t, err := timed(func() error { return docker.run(ctx) })
		if err != nil {
			return err
		}
		theirs = append(theirs, t)
		if t, err = timed(func() error { return d.command(ctx, "run", "bench:latest", "/bin/true") }); err != nil {
			return err
		}
		ours = append(ours, t)
	}
	b.table.atMost(0.15, "girder-worker run, against docker run --rm --network none", ms(median(ours)), ms(median(theirs)), median(ours).Seconds()/median(theirs).Seconds())
	return nil
}

// throughputSection compares short jobs a second, four at a time.
func throughputSection(ctx context.Context, b *bench) error {
	const parallel = 4
	d, err := newDaemon(ctx, b, "throughput", fmt.Sprintf("GIRDER_WORKER_SLOTS=%d", parallel), "GIRDER_WORKER_LIMITS_CPUS=0.5")
	if err != nil {
		return err
	}
	defer d.stop()
	if err := d.importBusybox(ctx, b); err != nil {
		return err
	}
	r, err := newRunc(ctx, b)
	if err != nil {
		return err
	}
	n := b.n(200, 8)
	var ours, theirs []float64
	for range b.n(3, 1) {
		t, err := timed(func() error { return loops(parallel, n, func() error { return r.run(ctx) }) })
		if err != nil {
			return err
		}
		theirs = append(theirs, float64(n)/t.Seconds())
		t, err = timed(func() error { return runMany(ctx, d, trueJob, n) })
		if err != nil {
			return err
		}
		ours = append(ours, float64(n)/t.Seconds())
	}
	b.table.atLeast(1.5, "short jobs at concurrency 4, against four loops of runc run", perSecond(median(ours)), perSecond(median(theirs)), median(ours)/median(theirs))
	return nil
}

// costSection compares the processor time of a job with that of runc, which a
// busy machine changes much less than it changes times. It is that of all
// processes that are waited for, from the daemon down; what kernel threads do for either is not in it.
func costSection(ctx context.Context, b *bench) error {
	r, err := newRunc(ctx, b)
	if err != nil {
		return err
	}
	var ours, theirs []time.Duration
	n := b.n(50, 20)
	for i := range b.n(3, 1) {
		var total [2]time.Duration
		for busy := range total {
			d, err := newDaemon(ctx, b, fmt.Sprintf("cost-%d-%d", i, busy))
			if err != nil {
				return err
			}
			err = d.importBusybox(ctx, b)
			if err == nil {
				err = runMany(ctx, d, trueJob, 1+busy*n) // one fills the caches
			}
			d.stop()
			if err != nil {
				return err
			}
			total[busy] = d.cmd.ProcessState.UserTime() + d.cmd.ProcessState.SystemTime()
		}
		ours = append(ours, (total[1]-total[0])/time.Duration(n))
		var cost time.Duration
		for range n {
			t, err := r.cost(ctx)
			if err != nil {
				return err
			}
			cost += t
		}
		theirs = append(theirs, cost/time.Duration(n))
	}
	b.table.note("processor time of a job that runs /bin/true, against runc run", ms(median(ours)), ms(median(theirs)), median(ours).Seconds()/median(theirs).Seconds())
	return nil
}

// runMany queues n jobs in one request and waits for the last of them.
func runMany(ctx context.Context, d *daemon, document []byte, n int) error {
	c, err := d.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	body := `{"jobs":[` + strings.TrimSuffix(strings.Repeat(string(document)+",", n), ",") + `]}`
	_, answer, err := c.do(ctx, "POST", "/v1/jobs", []byte(body))
	if err != nil {
		return err
	}
	var accepted struct {
		Jobs []struct {
			ID string `json:"id"`
		} `json:"jobs"`
	}
	if err := json.Unmarshal(answer, &accepted); err != nil {
		return err
	}
	ids := make([]string, len(accepted.Jobs))
	for i, job := range accepted.Jobs {
		ids[i] = job.ID
	}
	return waitAll(ctx, c, ids)
}

// waitAll waits until all jobs have succeeded.
func waitAll(ctx context.Context, c *conn, ids []string) error {
	for _, id := range ids {
		for {
			_, answer, err := c.do(ctx, "GET", "/v1/jobs/"+id+"/wait?timeout=30", nil)
			if err != nil {
				return err
			}
			var state struct{ State, Error string }
			if err := json.Unmarshal(answer, &state); err != nil {
				return err
			}
			if state.State == "failed" || state.State == "canceled" {
				return fmt.Errorf("job %s ended %s: %s", id, state.State, state.Error)
			}
			if state.State == "succeeded" {
				break
			}
		}
	}
	return nil
}

// loops calls f n times from so many goroutines.
func loops(parallel, n int, f func() error) error {
	var next atomic.Int64
	errs := make([]error, parallel)
	var wg sync.WaitGroup
	for i := range parallel {
		wg.Go(func() {
			for next.Add(1) <= int64(n) && errs[i] == nil {
				errs[i] = f()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func timed(f func() error) (time.Duration, error) {
	begin := time.Now()
	err := f()
	return time.Since(begin), err
}

// A runc runs one bundle: Docker's defaults with the default seccomp profile
// for all three architectures, as a job's container has them.
type runc struct {
	bundle string
	next   atomic.Int64
}

func newRunc(ctx context.Context, b *bench) (*runc, error) {
	r := &runc{bundle: filepath.Join(b.dir, "bundle")}
	if _, err := os.Stat(r.bundle); err == nil {
		return r, nil
	}
	bin := filepath.Join(r.bundle, "rootfs", "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, err
	}
	for _, dir := range []string{"proc", "dev", "sys", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(r.bundle, "rootfs", dir), 0o755); err != nil {
			return nil, err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"busybox", "true"} {
		if err := os.WriteFile(filepath.Join(bin, name), busybox, 0o755); err != nil {
			return nil, err
		}
	}
	make := exec.CommandContext(ctx, "runc", "spec")
	make.Dir = r.bundle
	if out, err := make.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot make a bundle: %w: %s", err, out)
	}
	path := filepath.Join(r.bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(text, &spec); err != nil {
		return nil, err
	}
	spec.Process.Terminal = false
	spec.Process.Args = []string{"/bin/true"}
	pids, memory, quota, period := int64(4096), int64(4<<30), int64(100_000), uint64(100_000)
	spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1 << 28, Size: 1 << 16}}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = ids, ids
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	if spec.Linux.Seccomp, err = seccomp.GetDefaultProfile(&spec); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(&spec); err != nil {
		return nil, err
	}
	return r, os.WriteFile(path, text, 0o644)
}

func (r *runc) run(ctx context.Context) error {
	_, err := r.cost(ctx)
	return err
}

// cost runs it and returns the processor time of that.
func (r *runc) cost(ctx context.Context) (time.Duration, error) {
	id := fmt.Sprintf("girder-worker-bench-%d-%d", os.Getpid(), r.next.Add(1))
	cmd := exec.CommandContext(ctx, "runc", "--root", filepath.Join(r.bundle, "state"), "run", "--bundle", r.bundle, id)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("cannot run runc: %w: %s", err, out)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
