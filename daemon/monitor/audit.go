package monitor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/daemon/peer"
	"girderworker/daemon/policy"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// auditLog is a file to which a line of JSON is added for each start, end and
// refusal. Arguments, variables and tokens are not in it. It is opened for
// appending only, so that an admin may make the file so as well (chattr +a), and
// anew when it was renamed, for rotation. No job waits for it: what cannot be
// written is counted, and told with the next line that can.
type auditLog struct {
	path   string
	logger *slog.Logger
	logins peer.Logins

	mu   sync.Mutex
	file *os.File
	lost int
	told time.Time // when the log last heard of a loss
	// refused counts the refusals of each user in this minute.
	refused map[int]int
	minute  time.Time
}

// auditEvent is what a line tells.
type auditEvent string

const (
	auditStart   auditEvent = "start"
	auditEnd     auditEvent = "end"
	auditRefused auditEvent = "refused"
)

// auditRecord is one line.
type auditRecord struct {
	Time    time.Time  `json:"time"`
	Event   auditEvent `json:"event"`
	Job     string     `json:"job,omitempty"`
	Attempt int        `json:"attempt,omitempty"`

	// Who asked, as the kernel told the monitor, and by what way.
	Source string `json:"source,omitempty"`
	UID    *int   `json:"uid,omitempty"`
	User   string `json:"user,omitempty"`
	PID    int    `json:"pid,omitempty"`
	// By is "front" where only the unprivileged half says so.
	By string `json:"by,omitempty"`

	*auditWhat
	// Reason is why it was refused, or how it went wrong.
	Reason string `json:"reason,omitempty"`

	Outcome attempt.Outcome `json:"outcome,omitempty"`
	Code    *int            `json:"code,omitempty"`

	// Lost is how many lines before this one could not be written.
	Lost int `json:"lost,omitempty"`
}

// auditWhat is what was asked.
type auditWhat struct {
	RunAs    *auditIdentity      `json:"run_as,omitempty"`
	Image    string              `json:"image"`
	ImageID  string              `json:"image_id"`
	Mounts   []auditMount        `json:"mounts,omitempty"`
	Network  sandbox.NetworkMode `json:"network"`
	Withheld []string            `json:"withheld,omitempty"` // capabilities
	CPUs     float64             `json:"cpus"`
	Memory   int64               `json:"memory"`
	// Privileges are fields of the plan, by name: new ones come in by themselves.
	Privileges map[string]any `json:"privileges,omitempty"`
}

type auditIdentity struct {
	UID    int   `json:"uid"`
	GID    int   `json:"gid"`
	Groups []int `json:"groups,omitempty"`
}

type auditMount struct {
	Source   string `json:"source"`
	Target   string `json:"target,omitempty"`
	ReadOnly bool   `json:"read_only,omitempty"`
}

func newAuditLog(path string, logger *slog.Logger) *auditLog {
	return &auditLog{path: path, logger: logger, refused: map[int]int{}}
}

// write adds a line.
func (l *auditLog) write(r auditRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Time, r.Lost = time.Now().UTC(), l.lost
	line, err := json.Marshal(r)
	if err == nil {
		err = l.append(append(line, '\n'))
	}
	if err == nil {
		l.lost = 0
		return
	}
	l.lost++
	if time.Since(l.told) > time.Minute {
		l.told = time.Now()
		l.logger.Error("Cannot write the audit log; jobs go on", "file", l.path, "lost", l.lost, "error", err)
	}
}

// append writes a whole line or, as far as the file system lets it, nothing.
func (l *auditLog) append(line []byte) error {
	if err := l.open(); err != nil {
		return err
	}
	before, err := l.file.Stat()
	if err != nil {
		return err
	}
	n, err := l.file.Write(line)
	if err != nil && n > 0 {
		// Half a line would spoil the next; where it may only grow, it does.
		if l.file.Truncate(before.Size()) != nil {
			_, _ = l.file.Write([]byte("\n"))
		}
	}
	return err
}

// open makes sure that the file is the one of that name.
func (l *auditLog) open() error {
	named, err := os.Lstat(l.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if l.file != nil {
		if ours, err := l.file.Stat(); err == nil && named != nil && os.SameFile(named, ours) {
			return nil
		}
		l.file.Close()
		l.file = nil
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is no regular file", l.path)
	case named == nil: // new: readable by those who read logs
		gid := 0
		if adm, lookUpErr := user.LookupGroup("adm"); lookUpErr == nil {
			gid, _ = strconv.Atoi(adm.Gid)
		}
		err = errors.Join(f.Chown(0, gid), f.Chmod(0o640))
	}
	if err != nil {
		f.Close()
		return err
	}
	l.file = f
	return nil
}

func (l *auditLog) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
}

// maxRefusals is how many refusals of one user are told in a minute: a job that
// is refused costs its submitter nothing, and the disk a line.
const maxRefusals = 60

// mayRefuse counts a refusal.
func (l *auditLog) mayRefuse(uid int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.minute) > time.Minute {
		l.minute = now
		clear(l.refused)
	}
	l.refused[uid]++
	if l.refused[uid] > maxRefusals {
		l.lost++
		return false
	}
	return true
}

// auditOf is what a line says of a request. An identity without its seal is
// nobody's.
func (m *Monitor) auditOf(event auditEvent, r *attempt.Request) auditRecord {
	rec := auditRecord{Event: event, Job: clipText(r.Job, 200), Attempt: r.Attempt, Source: clipText(r.Identity.Source, 32)}
	if id := &r.Identity; id.Seal != "" && m.seal.check(id) {
		rec.UID, rec.PID, rec.User = &id.Submitter, id.PID, m.audit.logins.Of(id.Submitter)
	}
	rec.auditWhat = &auditWhat{
		Image: clipText(r.Plan.Image, maxText), ImageID: clipText(r.ImageID, 100), Network: cmp.Or(r.Plan.Network, sandbox.NetworkNone),
		CPUs: r.Resources.CPUs, Memory: r.Resources.Memory, Withheld: r.Grant.Withheld,
		Privileges: policy.Privileges(&r.Plan),
	}
	if event == auditStart {
		rec.RunAs = &auditIdentity{r.Identity.UID, r.Identity.GID, r.Identity.Groups}
	}
	for _, b := range r.Plan.Binds {
		rec.Mounts = append(rec.Mounts, auditMount{clipText(b.Source, maxText), clipText(b.Target, maxText), b.ReadOnly})
	}
	for _, v := range r.Plan.Volumes {
		if v.HostDir != "" {
			rec.Mounts = append(rec.Mounts, auditMount{clipText(v.HostDir, maxText), clipText(v.Target, maxText), false})
		}
	}
	for _, s := range r.Plan.Streams {
		if s.File != "" {
			rec.Mounts = append(rec.Mounts, auditMount{Source: clipText(s.File, maxText), ReadOnly: s.Kind == transforms.StreamInput || s.Kind == transforms.StreamStdin})
		}
	}
	return rec
}

// auditRefusal tells of a start that was not allowed.
func (m *Monitor) auditRefusal(r *attempt.Request, err error) {
	if !m.audit.mayRefuse(r.Identity.Submitter) {
		return
	}
	rec := m.auditOf(auditRefused, r)
	rec.Reason = clip(err.Error())
	m.audit.write(rec)
}

// auditExit tells how an attempt ended.
func (m *Monitor) auditExit(d attempt.Dir) {
	rec := auditRecord{Event: auditEnd, Job: d.Job(), Attempt: d.Number()}
	exit, err := d.ReadExit()
	switch {
	case err == nil:
		rec.Outcome, rec.Code, rec.Reason = exit.Outcome, &exit.Code, clip(exit.Error)
	case errors.Is(err, fs.ErrNotExist):
		rec.Outcome, rec.Reason = attempt.OutcomeInterrupted, "its runner died"
	default:
		rec.Reason = clip(err.Error())
	}
	m.audit.write(rec)
}

// RefusedJob is a submission that the front refused, and the monitor never saw.
type RefusedJob struct {
	// Identity is the submitter's, sealed.
	Identity attempt.Identity `json:"identity"`
	Image    string           `json:"image"`
	Reason   string           `json:"reason"`
}

// auditTold adds what the front says it refused. It says so of whom it likes, but
// only of people who were here.
func (m *Monitor) auditTold(r *RefusedJob) {
	id := &r.Identity
	if !m.seal.check(id) || !m.audit.mayRefuse(id.Submitter) {
		return
	}
	m.audit.write(auditRecord{
		Event: auditRefused, By: "front", Source: id.Source, UID: &id.Submitter, PID: id.PID, User: m.audit.logins.Of(id.Submitter),
		auditWhat: &auditWhat{Image: clipText(r.Image, maxText)}, Reason: clip(r.Reason),
	})
}

// Refused has the audit log tell of a submission that was refused.
func (c *Client) Refused(ctx context.Context, r RefusedJob) error {
	_, err := c.call(ctx, request{Op: opRefused, Refused: &r}, nil)
	return err
}

func clipText(s string, most int) string { return s[:min(len(s), most)] }
