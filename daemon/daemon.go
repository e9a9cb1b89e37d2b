// Package daemon builds `girder-worker daemon` out of its parts. [Run] is the
// process that root starts: it becomes the monitor, which starts the other half,
// [Front], as an unprivileged user. Everything else in here is the front.
//
// # Boot
//
//	lock the state directory, find live runners, sweep leftovers   (monitor)
//	open and migrate the queue
//	recover: finish what ended meanwhile, follow what lives, requeue what was lost
//	answer the socket, which was opened before: early clients have waited
//	READY=1
//	dispatch
//
// # Goroutines of the front
//
//	Front ─┬─ dispatch: claims, and starts one goroutine an attempt
//	       │     └─ attempt: start, follow events, record the end
//	       ├─ api.Server, metrics: answer requests
//	       ├─ vigil: self-check, watchdog
//	       ├─ sweep: retention
//	       ├─ pruneRegularly: images, where that is configured
//	       └─ watchConfig: reload
//
// All of them end before the queue is closed; attempts live on. An error that
// no retry can cure ends the process, and the service manager starts it anew:
// recovery is the same path as boot.
package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"girderworker/daemon/attempt"
	"girderworker/daemon/config"
	"girderworker/daemon/monitor"
	"girderworker/daemon/systemd"
	"girderworker/queue"
)

// Options are what the command line knows.
type Options struct {
	// Sources are where the configuration comes from; Args are the arguments
	// that make the same Sources again, for the front.
	Sources config.Sources
	Args    []string
	Version string
	Commit  string
	Runner  string // its program, see [monitor.Options]
}

// Run is `girder-worker daemon`: it returns when the daemon has ended. An error
// that is a [config.Invalid] is the configuration's fault; after a
// [monitor.FrontExit] the reason was told already.
func Run(o Options) error {
	err := run(o)
	if isConfiguration(err) {
		tellManager(err)
	}
	return err
}

func run(o Options) error {
	if err := o.takeCredential(); err != nil {
		return err
	}
	c, warnings, err := config.Load(o.Sources)
	if err != nil {
		return err
	}
	logger, _ := newLogger(c.Log)
	for _, w := range warnings {
		logger.Warn(w)
	}
	if os.Geteuid() != 0 {
		return errors.New("cannot start the daemon: it must be started as root, and gives that up itself")
	}
	who, err := lookUp(&c)
	if err != nil {
		return err
	}
	settled := settle()
	defer settled.Stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	return monitor.Run(monitor.Options{
		State:     c.StateDir,
		UID:       who.uid,
		GID:       who.gid,
		Socket:    c.SocketPath(),
		SocketGID: who.socketGID,
		IDs:       monitor.IDRange{Base: c.IDs.Base, Size: c.IDs.Size},
		Policy:    c.PolicyFile,
		Audit:     c.AuditPath(),
		Launcher:  string(c.Launcher),
		GPUs:      attempt.GPUs{Dirs: c.GPUs.Dirs, Kinds: c.GPUs.Kinds, Hooks: c.GPUs.Hooks},
		TasksDir:  c.TasksDir,
		Drop:      c.DropPath(),
		Quota:     c.Images.Quota,
		Girder:    monitor.Girder{URL: c.GirderURL, KeyFile: c.GirderKeyFile},
		Front:     o.Args,
		Over:      func() { settled.Reset(settleAfter) },
		Runner:    o.Runner,
		Logger:    logger.With("part", "monitor"),

		Interpreters: mayInterpret(&c),
		Ahead:        c.Python.Ready,
		AheadTime:    c.Python.ReadyTime,
	}, signals)
}

// brokerCredential is the name of the credential that holds celery.broker, whose
// password belongs in no file that others than root can read. systemd knows no
// empty one: the unit's default is noBroker.
const (
	brokerCredential = "broker"
	noBroker         = "none"
)

// takeCredential has the broker of the service manager's credential stand where
// its variable would, for the front's environment as well. A variable that is
// set counts for more.
func (o *Options) takeCredential() error {
	url, err := systemd.Credential(brokerCredential)
	if err != nil || url == "" || url == noBroker || os.Getenv(config.BrokerVariable) != "" {
		return err
	}
	if err := os.Setenv(config.BrokerVariable, url); err != nil {
		return fmt.Errorf("cannot use the credential %s: %w", brokerCredential, err)
	}
	o.Sources.Environ = append(o.Sources.Environ, config.BrokerVariable+"="+url)
	return nil
}

// QueueLayout is the layout on disk that this release writes, see [queue.Layout].
func QueueLayout() int { return queue.Layout() }

// ExitCode is what the process ends with after [Run] or [Front] returned err,
// and whether err is still to be told.
func ExitCode(err error) (code int, tell bool) {
	var front *monitor.FrontExit
	switch {
	case err == nil:
		return 0, false
	case isConfiguration(err):
		return ExitConfig, true
	case errors.As(err, &front):
		return max(front.Code, 1), false
	}
	return 1, true
}

// identities are the ids behind the configuration's names.
type identities struct {
	uid, gid  int
	socketGID int
	adminGIDs []int
}

func lookUp(c *config.Config) (identities, error) {
	var who identities
	var problems config.Invalid
	bad := func(key, format string, args ...any) {
		problems = append(problems, config.Problem{Key: key, Err: fmt.Errorf(format, args...)})
	}
	var err error
	if who.uid, who.gid, err = userNamed(c.User); err != nil {
		bad("girder_worker.user", "%w; make it with `useradd --system %s`, or name another with --user", err, c.User)
	} else if who.uid == 0 || who.gid == 0 {
		bad("girder_worker.user", "must not be root: the daemon's larger half runs as it")
	}
	if who.socketGID, err = groupNamed(c.Group); err != nil {
		bad("girder_worker.group", "%w; make it with `groupadd --system %s`, or name another with --group", err, c.Group)
	}
	// Without an admin group, root alone is an admin.
	if gid, err := groupNamed(c.AdminGroup); err == nil {
		who.adminGIDs = []int{gid}
	} else if c.AdminGroup != config.Default().AdminGroup {
		bad("girder_worker.admin_group", "%w", err)
	}
	if len(problems) > 0 {
		return identities{}, problems
	}
	return who, nil
}

// newLogger writes to stderr, without the time where the journal knows it.
func newLogger(l config.Log) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(l.Level)
	return slog.New(logHandler(os.Stderr, l, level)), level
}
