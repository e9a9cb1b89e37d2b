package monitor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
	"girderworker/sandbox/image/provenance"
)

// Rules is the policy that is in force, on its way to the front, which cannot
// always read the file.
type Rules struct {
	Text []byte `json:"text"`
	// Keys are the ids of the keys that it names and that could be read, by name.
	Keys map[string]string `json:"keys,omitempty"`
	// Problem says why the file as it is now is not what is in force, or not all
	// of it.
	Problem string `json:"problem,omitempty"`
}

// rules is the policy in force, and its text.
type rules struct {
	Rules
	policy *policy.Policy
	keys   []provenance.Key
}

// loadRules reads the policy's file.
func (m *Monitor) loadRules() (*rules, error) {
	text, err := policy.Read(m.options.Policy)
	if err != nil {
		return nil, err
	}
	p, err := policy.Parse(m.options.Policy, text, policy.SystemNames())
	if err != nil {
		return nil, err
	}
	r := &rules{Rules: Rules{Text: text}, policy: p}
	r.readKeys()
	return r, nil
}

// readKeys reads the keys of r's policy anew. One that is gone does not make the
// policy bad: its trust must end with it.
func (r *rules) readKeys() {
	keys, err := r.policy.ReadKeys()
	r.keys, r.Keys = keys, map[string]string{}
	for _, k := range keys {
		r.Keys[k.Name] = k.ID
	}
	if err != nil {
		r.Problem = "not all keys of the policy can be used: " + err.Error()
	}
}

// reloadRules puts the file into force. A bad one changes nothing, but is told.
func (m *Monitor) reloadRules() {
	current := m.rules.Load()
	next, err := m.loadRules()
	if err != nil {
		m.logger.Error("Keeping the old policy: the new one is bad", "error", err)
		next = &rules{Rules: Rules{Text: current.Text}, policy: current.policy}
		next.readKeys()
		next.Problem = "the policy on disk is bad and not in use: " + err.Error()
	} else {
		if reflect.DeepEqual(next.Rules, current.Rules) {
			return
		}
		m.logger.Info("Policy reloaded", "file", m.options.Policy)
		if next.Problem != "" {
			m.logger.Error("The policy is not whole", "error", next.Problem)
		}
	}
	m.rules.Store(next)
	if m.conn == nil {
		return
	}
	if err := m.conn.send(reply{RulesChanged: true}, nil); err != nil && m.ctx.Err() == nil {
		m.logger.Debug("Cannot tell the front of the policy", "error", err)
	}
}

// settleTime lets an editor finish what it does in several steps.
const settleTime = 200 * time.Millisecond

// watchRules reloads when the file, or that of a key, was written, replaced or
// removed. It watches their directories: editors replace files.
func (m *Monitor) watchRules() {
	w, err := fsnotify.NewWatcher()
	if err == nil {
		defer w.Close()
		err = w.Add(filepath.Dir(m.options.Policy))
	}
	if err != nil {
		m.logger.Info("Not watching the policy; SIGHUP reloads it", "error", err)
		return
	}
	var settled <-chan time.Time
	var keys []string
	followKeys := func() {
		keys = slices.Collect(maps.Values(m.rules.Load().policy.Keys))
		for _, file := range keys {
			if err := w.Add(filepath.Dir(file)); err != nil {
				m.logger.Info("Not watching a key of the policy; SIGHUP reloads it", "error", err)
			}
		}
	}
	followKeys()
	for {
		select {
		case <-m.ctx.Done():
			return
		case e, ok := <-w.Events:
			if !ok {
				return
			}
			// Chmod as well: a file that others may write is no policy.
			if e.Name == m.options.Policy || slices.Contains(keys, e.Name) {
				settled = time.After(settleTime)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return
			}
			m.logger.Warn("Cannot watch the policy; SIGHUP reloads it", "error", err)
		case <-settled:
			settled = nil
			m.reloadRules()
			followKeys()
		}
	}
}

// judge holds a request against the policy of now, whatever held when the job
// was accepted, with an identity that is not the front's to choose.
func (m *Monitor) judge(r *attempt.Request) (*policy.Rights, error) {
	id := &r.Identity
	switch {
	case id.Source == policy.Socket && m.seal.check(id):
	case id.Source == policy.AMQP && id.UID == 0 && id.GID == 0 && len(id.Groups) == 0:
	default:
		return nil, fmt.Errorf("%w: its submitter is not known here; submit the job again", ErrRefused)
	}
	if p := r.Plan.Python; p != nil && !slices.Contains(m.options.Interpreters, p.Interpreter) {
		return nil, fmt.Errorf("%w: python: %s is no interpreter of girder_worker.python (any more)", ErrRefused, p.Interpreter)
	}
	if p := r.Plan.Python; p != nil && (r.Plan.User != "" || len(r.Plan.Entrypoint) > 0 || len(r.Plan.Args) > 0 || len(r.Plan.Binds) > 0) {
		return nil, fmt.Errorf("%w: python: a function runs as its caller and as nothing else", ErrRefused)
	}
	if err := m.mayRun(&r.Plan); err != nil {
		return nil, fmt.Errorf("%w: command: %w", ErrRefused, err)
	}
	who := policy.Subject{Source: id.Source, UID: id.Submitter, Groups: append([]int{id.GID}, id.Groups...)}
	rules := m.rules.Load()
	rights := rules.policy.For(who)
	job := policy.Job{Plan: &r.Plan, Resources: r.Resources, Limits: r.Limits, ImageID: r.ImageID, Closed: m.closed()}
	if rights.WantSignatures() && !r.Plan.OnHost() {
		img, err := provenance.Of(m.files.image(), r.ImageID)
		if errors.Is(err, provenance.ErrNotFound) {
			return nil, fmt.Errorf("%w: %w", ErrNoImage, err)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot learn who signed the image: %w", err)
		}
		job.SignedBy = img.SignedBy(rules.keys)
	}
	if err := rights.Check(&job); err != nil {
		var denied *policy.Denied
		if errors.As(err, &denied) {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil, err
	}
	if p := r.Plan.Python; p != nil {
		if err := policy.CheckPython(p.Interpreter, p.Path); err != nil {
			return nil, fmt.Errorf("%w: python: %w", ErrRefused, err)
		}
	}
	if c := r.Plan.Command; len(c) > 0 {
		program, err := policy.CheckCommand(c)
		if err != nil {
			return nil, fmt.Errorf("%w: command: %w", ErrRefused, err)
		}
		// Looked for here alone, so that it is the one that was looked at.
		r.Plan.Command = append([]string{program}, c[1:]...)
	}
	return rights, nil
}

// closed are the places of ours that no job may have.
func (m *Monitor) closed() []string { return Closed(m.options.State, m.options.Socket) }

// Closed are the places that no job of a daemon has anything of: the system's,
// and its own two.
func Closed(state, socket string) []string {
	return policy.SystemPaths(state, filepath.Dir(socket))
}

// owner is who keeps the slice of an attempt's ids; "" is nobody, because none
// of its files outlive it.
func owner(r *attempt.Request) string {
	if r.Identity.Source != policy.AMQP {
		return userOwner(r.Identity.UID)
	}
	for _, b := range r.Plan.Binds {
		if !b.ReadOnly {
			return queueOwner
		}
	}
	for _, v := range r.Plan.Volumes {
		if v.HostDir != "" {
			return queueOwner
		}
	}
	for _, s := range r.Plan.Streams {
		if s.File != "" {
			return queueOwner
		}
	}
	return ""
}

// Policy returns the policy in force.
func (c *Client) Policy(ctx context.Context) (Rules, error) {
	answer, err := c.call(ctx, request{Op: opPolicy}, nil)
	if err != nil {
		return Rules{}, err
	}
	if answer.Rules == nil {
		return Rules{}, errors.New("cannot learn the policy: the monitor did not tell it")
	}
	return *answer.Rules, nil
}

// PolicyChanged has a value when [Client.Policy] would answer anew.
func (c *Client) PolicyChanged() <-chan struct{} { return c.rulesChanged }
