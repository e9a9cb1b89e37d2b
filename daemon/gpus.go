package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/config"
	"girderworker/daemon/monitor"
	"girderworker/daemon/policy"
	"girderworker/queue"
	"girderworker/sandbox/gpu"
	"girderworker/transforms"
)

// gpus are the machine's devices and who has them. Which ones an attempt has is
// written in its request, so that the next front knows it too.
type gpus struct {
	dirs, kinds []string

	mu      sync.Mutex
	inv     *gpu.Inventory
	share   int
	held    map[monitor.Attempt][]string
	awaited map[monitor.Attempt][]string // by name, by those who wait
	changed chan struct{}                // closed, and replaced, when somebody may look again
}

func newGPUs(c config.GPUs) *gpus {
	g := &gpus{dirs: c.Dirs, kinds: c.Kinds, share: c.Share, held: map[monitor.Attempt][]string{}, awaited: map[monitor.Attempt][]string{}, changed: make(chan struct{})}
	g.inv = gpu.Read(g.dirs, g.kinds)
	return g
}

// read reads the files again, and tells whether there is anything new.
func (g *gpus) read() bool {
	inv := gpu.Read(g.dirs, g.kinds)
	g.mu.Lock()
	defer g.mu.Unlock()
	same := slices.Equal(inv.Devices, g.inv.Devices) && fmt.Sprint(inv.Problems) == fmt.Sprint(g.inv.Problems)
	g.inv = inv
	if !same {
		g.wakeLocked()
	}
	return !same
}

func (g *gpus) setShare(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.share = n
	g.wakeLocked()
}

// wake has those look again who wait.
func (g *gpus) wake() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wakeLocked()
}

func (g *gpus) wakeLocked() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// count is how many a single job can have.
func (g *gpus) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.inv.Devices)
}

// capacity is how many all jobs can have. A device that is gone and still held
// counts, because the queue counts who holds it.
func (g *gpus) capacity() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := len(g.inv.Devices) * g.share
	for name, jobs := range g.holders() {
		if !slices.Contains(g.inv.Devices, name) {
			n += len(jobs)
		}
	}
	return n
}

// holders are the jobs that have each device.
func (g *gpus) holders() map[string][]string {
	jobs := map[string][]string{}
	for a, names := range g.held {
		for _, name := range names {
			jobs[name] = append(jobs[name], a.Job)
		}
	}
	return jobs
}

// wanted is what an attempt needs.
type wanted struct {
	n       int
	devices []string               // that it has to be, where it named them
	granted func(name string) bool // by policy
}

// errNotGranted: the policy refuses devices that are there.
var errNotGranted = errors.New("not allowed")

// find is which devices a job means, or how many it gets, of those that it may
// have.
func (g *gpus) find(res transforms.Resources, rights *policy.Rights) (devices []string, n int, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range transforms.GPUDevices(res.Devices) {
		device, err := g.inv.Find(name)
		switch {
		case err != nil:
			return nil, 0, err
		case !rights.GrantsGPU(device):
			return nil, 0, fmt.Errorf("%s is %w by gpu_kinds of the policy", device, errNotGranted)
		case slices.Contains(devices, device):
			return nil, 0, fmt.Errorf("%.80q is a second name of %s", name, device)
		}
		devices = append(devices, device)
	}
	granted := len(slices.DeleteFunc(slices.Clone(g.inv.Devices), func(name string) bool { return !rights.GrantsGPU(name) }))
	switch n = res.GPUs; {
	case n > rights.GPUs():
		return nil, 0, fmt.Errorf("%d are %w: gpus of the policy allows %d", n, errNotGranted, rights.GPUs())
	case n > granted:
		return nil, 0, fmt.Errorf("the job asks for %d and a job can have at most %d on this machine", n, granted)
	case n == transforms.AllGPUs:
		if n = min(granted, rights.GPUs()); n == 0 {
			return nil, 0, errors.New("the job asks for all, and there is none for it on this machine")
		}
	}
	return devices, n, nil
}

// take gives an attempt its devices: those that it named, or those first that
// fewest others have and nobody waits for. Without enough it gives none, and a
// channel that is closed when that may have changed.
func (g *gpus) take(a monitor.Attempt, w wanted) ([]string, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	jobs := g.holders()
	free := slices.DeleteFunc(slices.Clone(g.inv.Devices), func(name string) bool {
		return len(jobs[name]) >= g.share || !w.granted(name) || w.devices != nil && !slices.Contains(w.devices, name)
	})
	if len(free) < w.n {
		g.awaited[a] = w.devices
		return nil, g.changed
	}
	delete(g.awaited, a)
	awaited := map[string]int{}
	for _, names := range g.awaited {
		for _, name := range names {
			awaited[name]++
		}
	}
	slices.SortStableFunc(free, func(x, y string) int { return cmp.Or(awaited[x]-awaited[y], len(jobs[x])-len(jobs[y])) })
	names := free[:w.n]
	g.held[a] = names
	return names, nil
}

func (g *gpus) hold(a monitor.Attempt, names []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[a] = names
}

func (g *gpus) free(a monitor.Attempt) (had bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.awaited, a)
	if _, had = g.held[a]; had {
		delete(g.held, a)
		g.wakeLocked()
	}
	return had
}

// view is what status shows.
func (g *gpus) view() (all []apitype.GPU) {
	g.mu.Lock()
	defer g.mu.Unlock()
	jobs := g.holders()
	for _, name := range g.inv.Devices {
		holders := slices.Sorted(slices.Values(jobs[name]))
		if holders == nil {
			holders = []string{}
		}
		all = append(all, apitype.GPU{Name: name, Jobs: holders})
		delete(jobs, name)
	}
	for name, holders := range jobs {
		all = append(all, apitype.GPU{Name: name, Jobs: slices.Sorted(slices.Values(holders)), Missing: true})
	}
	slices.SortStableFunc(all[len(g.inv.Devices):], func(a, b apitype.GPU) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// problems are what was left out, for the admin.
func (g *gpus) problems() (texts []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, err := range g.inv.Problems {
		texts = append(texts, err.Error())
	}
	return texts
}

// errCanceled is for a job that was canceled before it had begun.
var errCanceled = errors.New("canceled")

// stageFinishing is the runner's word for a container that has ended.
const stageFinishing = "finishing"

// awaitGPUs takes the devices of a claimed job. The queue has counted them, so
// they are there but for a device that disappeared just now, one whose holder is
// about to let it go, one that only the image asks for, or a share of one device where two devices are needed.
func (f *front) awaitGPUs(ctx context.Context, job *queue.Job, r *running, res transforms.Resources) ([]string, error) {
	if res.GPUs == 0 {
		return nil, nil
	}
	f.readGPUs()
	if job.Needs.GPUs == 0 && f.gpus.count() == 0 {
		return nil, fmt.Errorf("the image asks for a GPU by its label %s, and this machine has none; NVIDIA_VISIBLE_DEVICES=void in the job's environment runs it without", transforms.GPULabel)
	}
	rights := f.rightsOfJob(job)
	want := wanted{n: res.GPUs, granted: rights.GrantsGPU}
	if res.Devices != "" {
		var err error
		if want.devices, _, err = f.gpus.find(res, rights); err != nil {
			return nil, fmt.Errorf("gpus: %w", err)
		}
	}
	for waited := false; ; waited = true {
		names, changed := f.gpus.take(r.name, want)
		if names != nil {
			if waited {
				r.setStarting(true, string(queue.Preparing))
			}
			return names, nil
		}
		if !waited {
			f.logger.Info("An attempt waits for a GPU", "attempt", r.name, "gpus", want.n, "devices", strings.Join(want.devices, ","))
			r.setStarting(false, "waiting for a GPU")
			f.lookAgain()
		}
		now, err := f.store.Job(job.ID)
		if err == nil && now.CancelRequested {
			return nil, errCanceled
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *running) setStarting(starting bool, stage string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting, r.stage = starting, stage
	r.delays.Store(starting)
}

// freeGPUs lets an attempt's devices go, if it has any.
func (f *front) freeGPUs(a monitor.Attempt) {
	if f.gpus.free(a) {
		f.lookAgain()
	}
}

// holdAgain notes what an attempt has that an earlier front started.
func (f *front) holdAgain(job *queue.Job) {
	dir, err := attempt.NewDir(f.config.Load().StateDir, job.ID, job.Attempt)
	if err != nil {
		return
	}
	// A request of a newer release is not readable, and its devices not known.
	if req, err := dir.ReadRequest(); err == nil && len(req.Resources.GPUs) > 0 {
		f.gpus.hold(monitor.Attempt{Job: job.ID, Attempt: job.Attempt}, req.Resources.GPUs)
	}
}

// readGPUs reads the files again and tells whom it concerns.
func (f *front) readGPUs() {
	if !f.gpus.read() {
		return
	}
	f.logger.Info("The GPUs have changed", "gpus", f.gpus.count())
	for _, problem := range f.gpus.problems() {
		f.logger.Warn("Leaving out a GPU", "error", problem)
	}
	f.server.Apply(f.settings(f.config.Load()))
	f.lookAgain()
}

// gpuInterval is how often the files are read without a reason: nodes come and
// go with a driver, whose file stays.
const gpuInterval = 15 * time.Second

// watchGPUs follows the files that describe GPUs.
func (f *front) watchGPUs(ctx context.Context) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		f.logger.Warn("Not watching the files of GPUs", "error", err)
		w = &fsnotify.Watcher{}
	} else {
		defer w.Close()
	}
	tick := time.NewTicker(gpuInterval)
	defer tick.Stop()
	var settled <-chan time.Time
	for {
		for _, dir := range f.gpus.dirs {
			if w.Events != nil {
				_ = w.Add(dir) // again, for one that was made since; what is not there is read at intervals
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-w.Events:
			settled = time.After(settleTime)
		case <-w.Errors:
		case <-tick.C:
			f.readGPUs()
		case <-settled:
			settled = nil
			f.readGPUs()
		}
	}
}
