package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"girderworker/daemon/api"
	"girderworker/daemon/attempt"
	"girderworker/daemon/monitor"
	"girderworker/daemon/policy"
	"girderworker/queue"
	"girderworker/sandbox/image/provenance"
	"girderworker/transforms"
)

// rules is the policy that the monitor has in force. Here it only makes that a
// refusal is told at the submission; the monitor decides again.
type rules struct {
	policy  *policy.Policy
	keys    []provenance.Key // without their PEM, by name
	problem string           // with the file as it is now
}

// loadPolicy asks the monitor for the policy.
func (f *front) loadPolicy(ctx context.Context) error {
	now, err := f.monitor.Policy(ctx)
	if err != nil {
		return err
	}
	p, err := policy.Parse("policy.toml", now.Text, policy.SystemNames())
	if err != nil {
		return fmt.Errorf("cannot use the monitor's policy: %w", err)
	}
	next := &rules{policy: p, problem: now.Problem}
	for _, name := range slices.Sorted(maps.Keys(now.Keys)) {
		next.keys = append(next.keys, provenance.Key{Name: name, ID: now.Keys[name]})
	}
	f.rules.Store(next)
	return nil
}

// watchPolicy follows the monitor's policy.
func (f *front) watchPolicy(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.monitor.PolicyChanged():
			if err := f.loadPolicy(ctx); err != nil && ctx.Err() == nil {
				f.logger.Error("Cannot follow the policy", "error", err)
			}
		}
	}
}

// rightsOf is what a peer's jobs may ask.
func (f *front) rightsOf(p *api.Peer) *policy.Rights {
	id := p.Identity
	return f.rules.Load().policy.For(policy.Subject{Source: policy.Socket, UID: p.UID, Groups: append([]int{id.GID}, id.Groups...)})
}

// rightsOfJob is what whoever submitted a job may ask now.
func (f *front) rightsOfJob(job *queue.Job) *policy.Rights {
	id := identityOf(job)
	return f.rules.Load().policy.For(policy.Subject{Source: id.Source, UID: id.Submitter, Groups: append([]int{id.GID}, id.Groups...)})
}

// Defaults implements [api.Policy].
func (f *front) Defaults(p *api.Peer, d transforms.Defaults) transforms.Defaults {
	return f.rightsOf(p).Clip(d)
}

// Judge implements [api.Policy].
func (f *front) Judge(p *api.Peer, file *transforms.JobFile, imageID string) error {
	plan, err := file.Plan()
	if err != nil {
		return err
	}
	res := file.Resources
	rights := f.rightsOf(p)
	var signedBy []string
	if rights.WantSignatures() && !file.OnHost() {
		img, err := f.images.store.Get(imageID)
		if err != nil {
			return tell(err)
		}
		signedBy = f.images.signers(img)
	}
	err = rights.Check(&policy.Job{
		Plan: &plan, ImageID: imageID, SignedBy: signedBy, Closed: f.closed(),
		Resources: attempt.Resources{CPUs: res.CPUs, Memory: res.Memory, PIDs: res.PIDs, Shm: res.Shm, Scratch: res.Scratch, Log: res.Log, Swap: res.Swap},
		Limits:    attempt.Limits{Hard: file.Timeout, Soft: file.SoftTimeout, Idle: file.IdleTimeout},
	})
	if err != nil {
		f.events.Refused(policy.Socket)
		f.auditRefusal(p, file.Image, err)
	}
	return err
}

// GPUs implements [api.Policy].
func (f *front) GPUs(p *api.Peer, res transforms.Resources) (int, error) {
	_, n, err := f.gpus.find(res, f.rightsOf(p))
	if errors.Is(err, errNotGranted) {
		f.events.Refused(policy.Socket)
		f.auditRefusal(p, "", fmt.Errorf("resources.gpus: %w", err))
	}
	return n, err
}

// auditRefusal has the audit log tell of it; the submitter does not wait for that.
func (f *front) auditRefusal(p *api.Peer, image string, why error) {
	r := monitor.RefusedJob{Identity: sealed(&p.Identity, queue.SourceSocket), Image: image, Reason: why.Error()}
	r.Image, r.Reason = r.Image[:min(len(r.Image), 1<<10)], r.Reason[:min(len(r.Reason), 4<<10)]
	f.attempts.work.Go(func() {
		ctx, cancel := context.WithTimeout(f.attempts.ctx, time.Minute)
		defer cancel()
		if err := f.monitor.Refused(ctx, r); err != nil && ctx.Err() == nil {
			f.logger.Warn("Cannot tell the audit log of a refusal", "error", err)
		}
	})
}

// closed are the places of the daemon, which no job has.
func (f *front) closed() []string {
	c := f.config.Load()
	return monitor.Closed(c.StateDir, c.SocketPath())
}
