package monitor

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/systemd"
)

// Options are what [Run] needs to know. All but Over and Self is needed.
type Options struct {
	// State is the state directory, absolute.
	State string
	// UID and GID are the front's.
	UID, GID int
	// Socket is the API's path; its group is SocketGID.
	Socket    string
	SocketGID int
	IDs       IDRange
	// Policy is the policy's file, which need not be there.
	Policy string
	// Audit is the audit log's file; empty is audit.jsonl in State.
	Audit string
	// Launcher is "auto", "session" or "systemd".
	Launcher string
	// GPUs say where the machine's devices are described.
	GPUs attempt.GPUs
	// Interpreters are those whose functions may be called. Ahead of them wait in a
	// container for the next call of who has just called a function, for AheadTime.
	Interpreters []string
	Ahead        int
	AheadTime    time.Duration
	// TasksDir has the task files, whose commands may be run.
	TasksDir string
	// Drop is the directory watched for images.
	Drop string
	// Quota is how many bytes the image store's layers may have, 0 for any number.
	Quota int64
	// Girder is the server that the machine has a key for, if there is one.
	Girder Girder
	// Front is the front's arguments after its sub-command.
	Front []string
	// Over, where it is not nil, is called when nothing of an attempt is left.
	Over func()
	// Self is the command that is this program; empty is /proc/self/exe, which
	// stays the same through an upgrade.
	Self []string
	// Runner is a program, as a file has it, that knows the commands of runners
	// and starts faster than this one; empty is Self.
	Runner string
	Logger *slog.Logger
}

// DefaultState is the state directory whose cgroups and units have no suffix.
const DefaultState = "/var/lib/girder-worker"

// Monitor is the root half at work.
type Monitor struct {
	options Options
	files   layout
	logger  *slog.Logger
	bounds  bounds
	seal    sealKey
	ranges  *ranges
	rules   atomic.Pointer[rules]
	audit   *auditLog
	reaped  atomic.Uint64
	warming atomic.Bool
	bootID  string
	runners *runners
	spares  *spares
	ahead   *aheads  // nil: none is kept
	lock    *os.File // the state directory's
	conn    *conn    // to the front; nil before there is one

	ctx  context.Context // ends with the monitor
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // everything that must have ended before Run returns

	mu       sync.Mutex
	live     map[Attempt]*live
	removing map[string]bool // jobs whose directories are being deleted
	// turnstiles are where attempts wait that have uploads left and no runner, by owner.
	turnstiles map[string]chan struct{}
}

// Run is the monitor from the lock of the state directory to its release. It
// ends with the front, or orderly after the first of the signals SIGTERM and
// SIGINT; the second ends it at once. SIGHUP is the front's.
func Run(o Options, signals <-chan os.Signal) (err error) {
	m, err := open(o)
	if err != nil {
		return err
	}
	defer m.close()
	if err := m.prepareImages(); err != nil {
		return err
	}
	listener, err := listen(o.Socket, o.SocketGID)
	if err != nil {
		return err
	}
	defer listener.close()
	door, theirs, err := socketpair()
	if err != nil {
		return err
	}
	front, err := m.startFront(theirs)
	theirs.Close()
	if err != nil {
		door.Close()
		return err
	}
	open, shut := context.WithCancel(m.ctx)
	defer shut()
	m.wg.Go(func() { m.keepDoor(open, listener.file, door) })
	m.wg.Go(m.watchDrop)
	m.wg.Go(m.watchRules)
	return m.supervise(front, signals)
}

// open locks and prepares the state directory, and finds the attempts that
// outlived an earlier monitor.
func open(o Options) (_ *Monitor, err error) {
	if len(o.Self) == 0 {
		o.Self = []string{"/proc/self/exe"}
	}
	m := &Monitor{
		options:    o,
		files:      layout{o.State},
		logger:     o.Logger,
		live:       map[Attempt]*live{},
		removing:   map[string]bool{},
		turnstiles: map[string]chan struct{}{},
	}
	if o.Audit == "" {
		o.Audit = filepath.Join(o.State, "audit.jsonl")
	}
	m.audit = newAuditLog(o.Audit, o.Logger)
	m.ctx, m.stop = context.WithCancelCause(context.Background())
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	first, err := m.loadRules()
	if err != nil {
		return nil, err
	}
	if first.Problem != "" {
		o.Logger.Error("The policy is not whole", "error", first.Problem)
	}
	m.rules.Store(first)
	if err := o.IDs.free("/etc"); err != nil {
		return nil, err
	}
	if m.bootID, err = BootID(); err != nil {
		return nil, err
	}
	if m.lock, err = m.files.lock(); err != nil {
		return nil, err
	}
	if err := m.files.prepare(o.UID, o.GID); err != nil {
		return nil, err
	}
	if m.bounds, err = newBounds(&o); err != nil {
		return nil, err
	}
	if m.seal, err = loadSealKey(o.State); err != nil {
		return nil, err
	}
	if m.ranges, err = loadRanges(o.State, o.IDs); err != nil {
		return nil, err
	}
	// Of runners that ended while no monitor lived.
	removeEmptyCgroups(cgroupBase(o.State), m.files.work())
	l, err := m.newLauncher(m.ctx)
	if err != nil {
		return nil, err
	}
	m.runners = newRunners(l, m.files, o.Logger)
	m.spares = &spares{files: m.files, gid: o.GID, logger: o.Logger}
	m.spares.prepare(true)
	if o.Ahead > 0 && len(o.Interpreters) > 0 {
		m.ahead = &aheads{m: m, demands: map[string]*demand{}}
	}
	if err := m.scan(m.ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// close undoes open. Attempts live on.
func (m *Monitor) close() {
	if m.ctx.Err() == nil {
		m.finishOver()
	}
	m.stop(nil)
	m.wg.Wait()
	if m.ahead != nil {
		m.ahead.close()
	}
	if m.spares != nil {
		m.spares.close()
	}
	if m.runners != nil {
		m.runners.close()
		removeEmptyCgroups(cgroupBase(m.options.State), m.files.work())
	}
	m.audit.close()
	if m.lock != nil {
		m.lock.Close()
	}
}

// stopPatience is how long the front may take to end in order.
const stopPatience = 45 * time.Second

// supervise serves the front until it ends.
func (m *Monitor) supervise(front *frontProcess, signals <-chan os.Signal) error {
	served := make(chan error, 1)
	m.wg.Go(func() { served <- m.serve() })
	ended := make(chan error, 1)
	go func() { ended <- front.wait() }()
	defer m.conn.Close()

	stopping := false
	var deadline <-chan time.Time
	for {
		select {
		case sig := <-signals:
			switch {
			case sig == unix.SIGHUP:
				m.reloadRules()
				front.signal(unix.SIGHUP)
			case stopping:
				front.signal(unix.SIGKILL)
			default:
				stopping = true
				deadline = time.After(stopPatience)
				front.signal(unix.SIGTERM)
			}
		case <-deadline:
			m.logger.Error("The front did not end in time; killing it", "after", stopPatience)
			front.signal(unix.SIGKILL)
		case <-m.ctx.Done():
			front.signal(unix.SIGKILL)
			<-ended
			return context.Cause(m.ctx)
		case err := <-served:
			// The socket is closed, or what came is not a front's. It must end.
			if err != nil {
				m.logger.Error("Cannot serve the front", "error", err)
				front.signal(unix.SIGKILL)
			} else if !stopping {
				deadline = time.After(stopPatience)
			}
			served = nil
		case err := <-ended:
			if stopping && err == nil {
				return nil
			}
			if err == nil {
				err = errors.New("the daemon's front ended unasked")
			}
			return err
		}
	}
}

// maxRequests is how many requests are worked on at a time.
const maxRequests = 64

// serve answers the front until it closes the socket, which is no error.
func (m *Monitor) serve() error {
	slots := make(chan struct{}, maxRequests)
	var requests sync.WaitGroup
	defer requests.Wait()
	for {
		var r request
		file, err := m.conn.receive(&r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		slots <- struct{}{}
		requests.Go(func() {
			defer func() { <-slots }()
			answer := m.handle(&r, file)
			if file != nil {
				file.Close()
			}
			answer.ID = r.ID
			if r.ID == 0 {
				return // nobody waits
			}
			if err := m.conn.send(answer, nil); err != nil && m.ctx.Err() == nil {
				m.logger.Debug("Cannot answer the front", "op", r.Op, "error", err)
			}
		})
	}
}

func (m *Monitor) handle(r *request, file *os.File) (answer reply) {
	a := Attempt{r.Job, r.Attempt}
	var err error
	switch r.Op {
	case opPing:
	case opNotify:
		err = notify(r.Notify)
	case opExpect:
		m.warm()
	case opStart:
		if file == nil {
			err = fmt.Errorf("%w: a start without a request", ErrRefused)
			break
		}
		what := new(start)
		if err = readJSON(file, what); err == nil {
			err = m.start(m.ctx, a, &what.Request, what.Secrets)
		}
	case opCancel:
		if r.Cancel == nil {
			err = fmt.Errorf("%w: a cancel that does not say how", ErrRefused)
			break
		}
		err = m.cancel(a, *r.Cancel)
	case opList:
		answer.Attempts = m.list()
	case opKill:
		err = m.kill(m.ctx, a)
	case opRemove:
		err = m.remove(m.ctx, r.Job)
	case opRefused:
		if r.Refused == nil {
			err = fmt.Errorf("%w: a refusal of nothing", ErrRefused)
			break
		}
		m.auditTold(r.Refused)
	case opCounts:
		answer.Counts = m.counts()
	case opPolicy:
		answer.Rules = &m.rules.Load().Rules
	case opImage:
		if r.Image == nil {
			err = fmt.Errorf("%w: an image operation that does not say which", ErrRefused)
			break
		}
		answer.Result, err = m.image(m.ctx, *r.Image, file)
	case opDiscover:
		if r.Discover == nil || file == nil {
			err = fmt.Errorf("%w: a discovery that does not say where", ErrRefused)
			break
		}
		err = m.discover(m.ctx, *r.Discover, file)
	default:
		err = fmt.Errorf("%w: unknown operation %q", ErrRefused, r.Op)
	}
	answer.Error = toFault(err)
	return answer
}

// tell has the front know of an attempt's end. A front that is gone asks anew
// when it is back.
func (m *Monitor) tell(a Attempt) {
	if m.conn == nil {
		return // before the front was started
	}
	if err := m.conn.send(reply{Ended: &a}, nil); err != nil && m.ctx.Err() == nil {
		m.logger.Debug("Cannot tell the front", "attempt", a, "error", err)
	}
}

// notify passes on what a front may say to the service manager.
func notify(message string) error {
	for line := range strings.SplitSeq(message, "\n") {
		key, _, _ := strings.Cut(line, "=")
		switch key {
		case "READY", "STOPPING", "RELOADING", "MONOTONIC_USEC", "WATCHDOG", "STATUS":
		default:
			return fmt.Errorf("%w: notification %q", ErrRefused, clip(line))
		}
	}
	return systemd.Notify(message)
}

func (m *Monitor) newLauncher(ctx context.Context) (launcher, error) {
	kind := m.options.Launcher
	if kind == "auto" {
		kind = "session"
		// A daemon that somebody started in a terminal does not belong to PID 1,
		// and neither do its attempts.
		if systemd.Running() && os.Getenv("INVOCATION_ID") != "" && os.Getenv("NOTIFY_SOCKET") != "" {
			kind = "systemd"
		}
	}
	switch kind {
	case "session":
		return newSessions(m.options.Self, m.options.Runner, cgroupBase(m.options.State), m.logger), nil
	case "systemd":
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("cannot find this program: %w", err)
		}
		// Not of the monitor's context: what is kept ready is ended after that.
		bus, err := systemd.Dial(context.WithoutCancel(ctx))
		if err != nil {
			return nil, err
		}
		command := append([]string{strings.TrimSuffix(self, " (deleted)")}, m.options.Self[1:]...)
		u := &units{self: command, state: m.options.State, prefix: stateName(m.options.State) + "-", bus: bus}
		service, err := bus.ServiceOf(ctx, os.Getpid())
		if err != nil {
			bus.Close()
			return nil, err
		}
		if service != "" {
			u.daemon = []string{service}
		}
		return u, nil
	}
	return nil, fmt.Errorf("cannot start attempts: unknown launcher %q", kind)
}

// stateName tells the daemons of one machine apart, by their state directories.
func stateName(state string) string {
	if state == DefaultState {
		return "girder-worker"
	}
	return fmt.Sprintf("girder-worker-%x", sha256.Sum256([]byte(filepath.Clean(state))))[:len("girder-worker-")+8]
}

func cgroupBase(state string) string { return "/" + stateName(state) }

// BootID is the kernel's name for the time since it was booted.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot read the boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
