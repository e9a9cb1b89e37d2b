// Package doctor looks at a machine and says what the daemon and its jobs would
// miss there, and what to do about it. Every check stands alone: one that cannot
// be made for want of rights says so and is no failure. Nothing is changed but
// what is undone again: a mount in a namespace of its own, a job, and the name of its
// image, whose few hundred bytes stay until the next prune.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"girderworker/daemon/amqp"
	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
	"girderworker/daemon/config"
	"girderworker/daemon/policy"
)

// Level is how a check ended.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // it works, less well than it could
	Failure Level = "failure"
	Skipped Level = "skipped" // it could not be looked at
)

// Finding is what a check found.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	Text  string `json:"text"`
	// Hint is what to do; empty where nothing is to be done.
	Hint string `json:"hint,omitempty"`
}

// Options say what to look at.
type Options struct {
	Sources config.Sources
	// Socket is the daemon's; empty: the configuration's.
	Socket string
	// Self starts this program again, before its arguments.
	Self []string
	// Offline makes no check that asks another machine.
	Offline bool
	// Found is called with each finding as it comes.
	Found func(Finding)
}

// patient is one examination.
type patient struct {
	Options
	config   config.Config
	bad      bool // the configuration is, and the defaults are looked at
	warnings []string
	problem  error
	unknown  error // why what the configuration leaves to the machine is zero
	root     bool
	rules    *policy.Policy // nil where it cannot be read
	client   *client.Client
	status   *apitype.Status // nil without a daemon that answers
	down     error
}

// check is one line of the table.
type check struct {
	name string
	run  func(*patient, context.Context) []Finding
}

// checks in the order in which a person reads them: what everything else stands
// on comes first.
var checks = []check{
	{"kernel", (*patient).kernel},
	{"cgroups", (*patient).cgroups},
	{"namespaces", (*patient).namespaces},
	{"seccomp", (*patient).seccomp},
	{"overlay", (*patient).overlay},
	{"idmap", (*patient).idmap},
	{"scratch", (*patient).scratch},
	{"private network", (*patient).tunnel},
	{"disk", (*patient).disk},
	{"sync", (*patient).latency},
	{"clock", (*patient).clock},
	{"configuration", (*patient).configuration},
	{"policy", (*patient).policy},
	{"transfers", (*patient).transfers},
	{"girder key", (*patient).girderKey},
	{"room", (*patient).room},
	{"swap", (*patient).swap},
	{"groups", (*patient).groups},
	{"ids", (*patient).ids},
	{"socket", (*patient).socket},
	{"daemon", (*patient).daemon},
	{"images", (*patient).images},
	{"tasks", (*patient).tasks},
	{"python", (*patient).python},
	{"gpus", (*patient).gpus},
	{"broker", (*patient).broker},
	{"girder", (*patient).girder},
	{"registry", (*patient).registry},
	{"container", (*patient).container},
}

// connectPatience is more than one try to connect to a broker takes.
const connectPatience = 20 * time.Second

// ask returns what the daemon says of itself. One that was started just now may not
// have tried its broker to the end.
func (p *patient) ask(ctx context.Context) (apitype.Status, error) {
	for deadline := time.Now().Add(connectPatience); ; {
		st, err := p.client.Status(ctx)
		if err != nil || st.Broker == nil || st.Broker.State != string(amqp.Connecting) || time.Now().After(deadline) {
			return st, err
		}
		select {
		case <-ctx.Done():
			return st, nil
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Run makes all checks and tells whether none failed.
func Run(ctx context.Context, o Options) bool {
	p := &patient{Options: o, root: os.Geteuid() == 0}
	p.config, p.warnings, p.problem = config.Load(o.Sources)
	if p.problem != nil {
		p.bad, p.config = true, config.Default()
	}
	p.unknown = p.config.Fill()
	if p.Socket == "" {
		p.Socket = p.config.SocketPath()
	}
	p.client = client.New(p.Socket, 0)
	defer p.client.Close()
	if st, err := p.ask(ctx); err != nil {
		p.down = err
	} else {
		p.status = &st
	}
	well := true
	for _, c := range checks {
		if ctx.Err() != nil {
			return false
		}
		for _, f := range c.run(p, ctx) {
			f.Check = c.name
			well = well && f.Level != Failure
			o.Found(f)
		}
	}
	return well
}

func ok(format string, args ...any) []Finding {
	return []Finding{{Level: OK, Text: fmt.Sprintf(format, args...)}}
}

func skip(format string, args ...any) []Finding {
	return []Finding{{Level: Skipped, Text: fmt.Sprintf(format, args...)}}
}

// bad is a failure; hint says what to do.
func bad(hint, format string, args ...any) []Finding {
	return []Finding{{Level: Failure, Text: fmt.Sprintf(format, args...), Hint: hint}}
}

func warn(hint, format string, args ...any) []Finding {
	return []Finding{{Level: Warning, Text: fmt.Sprintf(format, args...), Hint: hint}}
}

// unseen is for what only root may look at.
func unseen(what string) []Finding {
	return skip("only root can tell: run `sudo girder-worker doctor` for %s", what)
}

func denied(err error) bool { return errors.Is(err, fs.ErrPermission) }

func line(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}
