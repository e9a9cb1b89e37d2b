package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"girderworker/daemon/api"
	"girderworker/daemon/apitype"
	"girderworker/daemon/attempt"
	"girderworker/daemon/config"
	"girderworker/daemon/jobsync"
	"girderworker/daemon/metrics"
	"girderworker/daemon/monitor"
	"girderworker/daemon/plugin"
	"girderworker/daemon/systemd"
	"girderworker/queue"
)

// front is the unprivileged half at work.
type front struct {
	options Options
	logger  *slog.Logger
	level   *slog.LevelVar
	who     identities
	bootID  string
	begun   time.Time
	config  atomic.Pointer[config.Config]

	monitor *monitor.Client
	store   *queue.Store
	watcher *attempt.Watcher
	images  *images
	tasks   plugin.Registry
	finding sync.Mutex // of tasks
	gpus    *gpus
	server  *api.Server
	pause   *pause
	broker  *broker // nil: none is configured
	reports *jobsync.Syncer
	events  *metrics.Events
	probe   probed

	attempts attempts
	// pythonChanged, of capacity 1: Python packages are to be looked at again.
	pythonChanged chan struct{}
	imports       *imports

	nudge chan struct{} // capacity 1: the dispatcher should look again
	proof chan chan struct{}
	rest  atomic.Pointer[time.Time] // nothing is started until then
	notes atomic.Pointer[[]string]  // what status tells of the configuration
	rules atomic.Pointer[rules]

	settled *time.Timer // gives memory back, see settle

	fail context.CancelCauseFunc // ends the front with an error
}

// shutdownPatience bounds how long requests under way may take once the daemon stops.
const shutdownPatience = 15 * time.Second

// Front is the hidden sub-command of that name, which only the monitor starts.
func Front(o Options) error {
	c, warnings, err := config.Load(o.Sources)
	if err != nil {
		return err
	}
	logger, level := newLogger(c.Log)
	f := &front{
		options: o, logger: logger.With("part", "front"), level: level, begun: time.Now(),
		nudge: make(chan struct{}, 1), pythonChanged: make(chan struct{}, 1), imports: newImports(), proof: make(chan chan struct{}), events: metrics.NewEvents(),
	}
	if f.who, err = lookUp(&c); err != nil {
		return err
	}
	if err := c.Fill(); err != nil {
		return err
	}
	f.config.Store(&c)
	f.notes.Store(&warnings)

	ctx, fail := context.WithCancelCause(context.Background())
	defer fail(nil)
	f.fail = fail
	f.settled = settle()
	defer f.settled.Stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	// Held for as long as this process lives, see the state directory's lock.
	lock := os.NewFile(monitor.FrontLock, "lock")
	defer lock.Close()
	if f.monitor, err = monitor.Connect(os.NewFile(monitor.FrontConn, "monitor")); err != nil {
		return fmt.Errorf("cannot run: the front is started by `girder-worker daemon`, not by hand (%w)", err)
	}
	defer f.monitor.Close()
	stopGone := context.AfterFunc(contextOf(f.monitor.Done()), func() { fail(monitor.ErrGone) })
	defer stopGone()
	listener, err := monitor.Listen(os.NewFile(monitor.FrontListener, "listener"))
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := f.loadPolicy(ctx); err != nil {
		return err
	}
	return f.run(ctx, &c, visitors{listener}, signals)
}

// lastFront is how long a front that was killed may take to let go of the queue
// after it has let go of the state directory: the kernel closes one file after the other.
const lastFront = 3 * time.Second

// openQueue waits for a front that is in the middle of its end.
func openQueue(ctx context.Context, o queue.Options) (*queue.Store, error) {
	for deadline := time.Now().Add(lastFront); ; {
		store, err := queue.Open(o)
		if !errors.Is(err, queue.ErrLocked) || time.Now().After(deadline) {
			return store, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// run is the front from the queue's opening to its closing.
func (f *front) run(ctx context.Context, c *config.Config, listener net.Listener, signals <-chan os.Signal) (err error) {
	if f.bootID, err = monitor.BootID(); err != nil {
		return err
	}
	if f.store, err = openQueue(ctx, queue.Options{
		Dir: filepath.Join(c.StateDir, "queue"), Logger: f.logger.With("part", "queue"), MaxJobs: c.MaxQueue,
		Retention: queue.Retention{Age: c.Retention.Age, Count: c.Retention.Count}, Observer: observer(f.events),
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.store.Close()) }()
	if f.watcher, err = attempt.NewWatcher(); err != nil {
		return err
	}
	defer f.watcher.Close()
	if f.images, err = openImages(filepath.Join(c.StateDir, "images"), f); err != nil {
		return err
	}
	if f.pause, err = loadPause(filepath.Join(c.StateDir, "spool", "pause.json")); err != nil {
		return err
	}

	reporting, err := reportSettings(c)
	if err != nil {
		return err
	}
	if f.broker, err = newBroker(f, c); err != nil {
		return err
	}
	told := jobsync.Config{
		Queue: f.store, StateDir: c.StateDir, Logger: f.logger.With("part", "reports"), Cancel: f.cancelReported, Settings: reporting,
	}
	if f.broker != nil {
		told.Results = f.broker.results()
	}
	f.reports = jobsync.New(told)

	f.gpus = newGPUs(c.GPUs)
	for _, problem := range f.gpus.problems() {
		f.logger.Warn("Leaving out a GPU", "error", problem)
	}
	// work ends with what must have ended before the queue closes; claims end first.
	var work sync.WaitGroup
	defer work.Wait()
	workCtx, endWork := context.WithCancel(ctx)
	defer endWork()
	f.attempts.init(workCtx, &work)
	if err := f.recover(workCtx); err != nil {
		return fmt.Errorf("cannot recover the jobs under way: %w", err)
	}

	f.server = api.New(api.Config{
		Queue: f.store, Control: f, Images: f.images, Live: f, StateDir: c.StateDir,
		RunAs:    runAs,
		Policy:   f,
		Tasks:    &f.tasks,
		Expect:   f.expect,
		Version:  apitype.Version{Version: f.options.Version, Commit: f.options.Commit, API: 1, Queue: queue.Layout()},
		Settings: f.settings(c), Logger: f.logger.With("part", "api"),
	})
	f.findTasks()
	observer, err := metrics.Listen(c.MetricsAddress, c.MetricsWebConfig, f, f.events, f.logger.With("part", "metrics"))
	if err != nil {
		return err
	}
	work.Go(func() {
		if err := f.server.Serve(listener); err != nil {
			f.fail(err)
		}
	})
	f.notify(systemd.Ready, systemd.Status("Ready"))
	f.logger.Info("Ready", "version", f.options.Version, "state", c.StateDir, "socket", c.SocketPath(),
		"slots", c.Machine.Slots, "attempts", f.attempts.count())

	claims, endClaims := context.WithCancel(workCtx)
	defer endClaims()
	var claiming sync.WaitGroup
	claiming.Go(func() {
		if err := f.dispatch(claims); err != nil {
			f.fail(fmt.Errorf("cannot claim jobs: %w", err))
		}
	})
	if err := f.recallDoubts(); err != nil {
		return fmt.Errorf("cannot see which jobs may be another machine's: %w", err)
	}
	if f.broker != nil {
		f.broker.start(claims, workCtx, &claiming, &work)
	}
	// Reports go on until the work has ended: the last of it is told at once.
	work.Go(func() { f.reports.Run(workCtx) })
	work.Go(func() { f.vigil(claims) })
	work.Go(func() { f.sweep(claims) })
	work.Go(func() { f.watchConfig(claims) })
	work.Go(func() { f.watchPolicy(claims) })
	work.Go(func() { f.watchTasks(claims) })
	work.Go(func() { f.watchGPUs(claims) })
	work.Go(func() { f.watchPython(claims) })
	work.Go(func() { f.images.pruneRegularly(claims) })

	f.wait(ctx, signals)
	cause := context.Cause(ctx)
	f.logger.Info("Stopping; attempts live on", "attempts", f.attempts.count())
	f.notify(systemd.Stopping)
	endClaims()
	claiming.Wait()
	patience, cancel := context.WithTimeout(context.Background(), shutdownPatience)
	defer cancel()
	if err := errors.Join(f.server.Shutdown(patience), observer.Shutdown(patience)); err != nil {
		f.logger.Warn("Cannot stop in order", "error", err)
	}
	return cause
}

// wait returns when the front must end: it was asked to, or something failed.
// From then on a second signal ends the process at once.
func (f *front) wait(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				f.reload()
				continue
			}
			go func() {
				for sig := range signals {
					if sig != syscall.SIGHUP {
						os.Exit(1)
					}
				}
			}()
			return
		}
	}
}

// notify tells the service manager, through the monitor. Without one it does nothing.
func (f *front) notify(messages ...string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, m := range messages {
		if err := f.monitor.Notify(ctx, m); err != nil && !errors.Is(err, monitor.ErrGone) {
			f.logger.Warn("Cannot notify the service manager", "error", err)
		}
	}
}
