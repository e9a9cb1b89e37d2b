package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Bounds of one submission. The daemon's own are tighter; these keep a row
// within what the store was built for.
const (
	maxBody         = 16 << 20
	maxText         = 4096 // owner, name, task, image, reasons
	maxOrigin       = 4 << 20
	maxSecrets      = 1 << 20
	maxDependencies = 256
	maxGroups       = 65536 // the kernel's NGROUPS_MAX
)

// Submission is a job to accept.
type Submission struct {
	// ID, when not empty, makes the submission idempotent within Source and
	// Owner: the same ID with the same BodyHash answers the job that exists,
	// with another BodyHash ErrConflict.
	ID        string
	Source    Source
	Owner     string
	Identity  Identity
	Name      string
	Task      string
	Image     string
	Priority  int
	Needs     Needs
	Limits    Limits
	Retry     Retry
	After     []string
	AfterAny  []string
	NotBefore time.Time
	Expires   time.Time
	Hold      string // not empty: born held, with this reason
	Fail      string // not empty: born failed, with this reason (unknown task)
	Report    Sinks  // who is told of its changes of state
	Doubtful  bool   // born in doubt, see [Store.Confirm]
	Body      json.RawMessage
	BodyHash  string
	// Origin is what is known of where the job came from, and not secret: it is
	// kept and handed back with the body.
	Origin json.RawMessage
	// Secrets are tokens and the like. Only [Store.Secrets] gives them back, until
	// the job is final and nobody has to be told of it any more.
	Secrets []byte
}

// Accepted is the answer to one Submission.
type Accepted struct {
	Job Job
	// Existing is set when an equal submission was accepted before; Job is then
	// as it stands now, without its body.
	Existing bool
}

// Submit accepts all submissions or none. Concurrent calls share commits. A job
// may depend on one that stands before it in the same call.
func (s *Store) Submit(ctx context.Context, subs ...Submission) ([]Accepted, error) {
	size := 0
	for i := range subs {
		if err := subs[i].check(); err != nil {
			return nil, describe(subs, i, err)
		}
		size += 1024 + len(subs[i].Body) + len(subs[i].Origin) + len(subs[i].Secrets)
	}
	if len(subs) == 0 {
		return nil, nil
	}
	var accepted []Accepted
	err := s.submit(ctx, &op{grows: true, size: size, apply: func(t *txn) (err error) {
		accepted, err = t.accept(subs)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return accepted, nil
}

// describe says which of several submissions err is about.
func describe(subs []Submission, i int, err error) error {
	switch {
	case len(subs) == 1:
		return err
	case subs[i].ID != "":
		return fmt.Errorf("job %d of %d (%s): %w", i+1, len(subs), subs[i].ID, err)
	}
	return fmt.Errorf("job %d of %d: %w", i+1, len(subs), err)
}

// check refuses what needs no look into the database.
func (sub *Submission) check() error {
	if sub.ID != "" {
		if err := CheckID(sub.ID); err != nil {
			return err
		}
	}
	invalid := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	switch {
	case sub.Source != SourceSocket && sub.Source != SourceAMQP:
		return invalid("unknown source %q", sub.Source)
	case sub.Owner == "":
		return invalid("the owner is empty")
	case sub.Priority < 0 || sub.Priority > 9:
		return invalid("the priority %d is not within 0 and 9", sub.Priority)
	case !(sub.Needs.CPUs >= 0 && sub.Needs.CPUs <= 1e6):
		return invalid("%v cpus make no sense", sub.Needs.CPUs)
	case sub.Needs.Memory < 0:
		return invalid("%d bytes of memory make no sense", sub.Needs.Memory)
	case sub.Needs.Scratch < 0 || sub.Needs.Swap < 0:
		return invalid("%d bytes of scratch space and %d of swap make no sense", sub.Needs.Scratch, sub.Needs.Swap)
	case sub.Needs.GPUs < 0 || sub.Needs.GPUs > math.MaxUint16:
		return invalid("%d gpus make no sense", sub.Needs.GPUs)
	case sub.Limits.Hard < 0 || sub.Limits.Soft < 0 || sub.Limits.Idle < 0:
		return invalid("a time limit is negative")
	case sub.Retry.Max < 0 || sub.Retry.Delay < 0:
		return invalid("a retry is negative")
	case len(sub.Body) > maxBody:
		return invalid("the job document has %d bytes, at most %d are allowed", len(sub.Body), maxBody)
	case len(sub.Origin) > maxOrigin:
		return invalid("its origin has %d bytes, at most %d are allowed", len(sub.Origin), maxOrigin)
	case len(sub.Secrets) > maxSecrets:
		return invalid("its secrets have %d bytes, at most %d are allowed", len(sub.Secrets), maxSecrets)
	case sub.Report&^allSinks != 0:
		return invalid("unknown sinks %b", sub.Report)
	case len(sub.Identity.Groups) > maxGroups:
		return invalid("%d groups are more than a process can have", len(sub.Identity.Groups))
	case sub.Hold != "" && sub.Source != SourceSocket:
		return ErrNotHoldable
	}
	for _, text := range []string{
		sub.Owner, sub.Name, sub.Task, sub.Image, sub.Hold, sub.Fail, sub.BodyHash, sub.Identity.User,
	} {
		if len(text) > maxText {
			return invalid("a text of %d bytes, at most %d are allowed", len(text), maxText)
		}
	}
	for _, t := range []time.Time{sub.NotBefore, sub.Expires} {
		if y := t.Year(); !t.IsZero() && (y < 1971 || y > 2261) {
			return invalid("the year %d is out of range", y)
		}
	}
	return sub.checkDependencies()
}

func (sub *Submission) checkDependencies() error {
	if n := len(sub.After) + len(sub.AfterAny); n > maxDependencies {
		return fmt.Errorf("%w: %d jobs to wait for, at most %d are allowed", ErrDependency, n, maxDependencies)
	}
	for _, id := range slices.Concat(sub.After, sub.AfterAny) {
		if err := CheckID(id); err != nil {
			return fmt.Errorf("%w: %w", ErrDependency, err)
		}
		if id == sub.ID {
			return fmt.Errorf("%w: job %s would wait for itself", ErrDependency, id)
		}
	}
	return nil
}

// accept looks at everything first and writes then, so that what it refuses
// does not disturb the ops beside it.
func (t *txn) accept(subs []Submission) ([]Accepted, error) {
	out := make([]Accepted, len(subs))
	named := make(map[string]int) // ids that this call names, and where first
	fresh := 0
	for i := range subs {
		sub := &subs[i]
		if err := t.knows(sub, named); err != nil {
			return nil, describe(subs, i, err)
		}
		if sub.ID == "" {
			fresh++
			continue
		}
		if first, ok := named[sub.ID]; ok {
			if !sub.equals(subs[first].Source, subs[first].Owner, subs[first].BodyHash) {
				return nil, describe(subs, i, fmt.Errorf("%w: %s", ErrConflict, sub.ID))
			}
			out[i].Existing = true
			continue
		}
		named[sub.ID] = i
		j, err := t.find(sub.ID)
		switch {
		case errors.Is(err, ErrNotFound):
			fresh++
		case err != nil:
			return nil, err
		case !sub.equals(j.Source, j.Owner, j.BodyHash):
			return nil, describe(subs, i, fmt.Errorf("%w: %s", ErrConflict, sub.ID))
		default:
			out[i] = Accepted{Job: j, Existing: true}
		}
	}
	if most := t.maxJobs.Load(); fresh > 0 && int64(t.waiting()+fresh) > most {
		return nil, fmt.Errorf("%w: at most %d jobs may wait", ErrFull, most)
	}
	for i := range subs {
		switch {
		case !out[i].Existing:
			j, err := t.create(&subs[i])
			if err != nil {
				return nil, err
			}
			out[i].Job = j
		case out[i].Job.ID == "":
			out[i].Job = out[named[subs[i].ID]].Job
		}
	}
	return out, nil
}

func (sub *Submission) equals(source Source, owner, bodyHash string) bool {
	return sub.Source == source && sub.Owner == owner && sub.BodyHash == bodyHash
}

// knows tells whether every job that sub waits for is there or in named.
func (t *txn) knows(sub *Submission, named map[string]int) error {
	for _, id := range slices.Concat(sub.After, sub.AfterAny) {
		if _, ok := named[id]; ok {
			continue
		}
		if _, err := t.find(id); errors.Is(err, ErrNotFound) {
			return fmt.Errorf("%w: there is no job %s to wait for", ErrDependency, id)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// find is load that looks into the history too. The committer removes a job
// from the active file only after the history has it, so no job is missed.
func (t *txn) find(id string) (Job, error) {
	j, err := t.load(id)
	if !errors.Is(err, ErrNotFound) {
		return j, err
	}
	return t.fromHistory(id)
}

// create writes a new job.
func (t *txn) create(sub *Submission) (Job, error) {
	seq, err := t.bucket(bucketJobs).NextSequence()
	if err != nil {
		return Job{}, err
	}
	j := Job{
		ID: sub.ID, Seq: seq, Source: sub.Source, Owner: sub.Owner, Identity: sub.Identity,
		Name: sub.Name, Task: sub.Task, Image: sub.Image, Priority: sub.Priority,
		Needs: sub.Needs, Limits: sub.Limits, Retry: sub.Retry,
		After: unique(sub.After, nil), AfterAny: unique(sub.AfterAny, sub.After),
		NotBefore: clean(sub.NotBefore), Expires: clean(sub.Expires),
		Created: t.now, BodyHash: sub.BodyHash, Report: sub.Report,
	}
	if j.ID == "" {
		if j.ID, err = t.freshID(seq); err != nil {
			return Job{}, err
		}
	}
	to := Queued
	fail := sub.Fail
	revoked := sub.Source == SourceAMQP && t.isRevoked(j.ID)
	if !revoked && fail == "" {
		if fail, err = t.await(&j); err != nil {
			return Job{}, err
		}
	}
	switch {
	case revoked:
		to, j.Reason = Canceled, "revoked before it arrived"
		j.CancelRequested, j.CancelReason = true, j.Reason
	case fail != "":
		to, j.Reason = Failed, fail
	case !j.Expires.IsZero() && !j.Expires.After(t.at.sure):
		to, j.Reason = Failed, "expired before it was accepted"
	case sub.Hold != "":
		to, j.Reason = Held, sub.Hold
	case j.NotBefore.After(t.now):
		to = Delayed
	}
	if j.Doubtful = sub.Doubtful && !to.Final(); j.Doubtful {
		t.unconfirm(j.ID)
	}
	if err := t.put(bucketIDs, []byte(j.ID), seqKey(seq)); err != nil {
		return Job{}, err
	}
	if len(sub.Body) > 0 {
		if err := t.put(bucketBodies, seqKey(seq), sub.Body); err != nil {
			return Job{}, err
		}
	}
	if len(sub.Origin) > 0 {
		if err := t.put(bucketOrigins, seqKey(seq), sub.Origin); err != nil {
			return Job{}, err
		}
	}
	if len(sub.Secrets) > 0 {
		if err := t.put(bucketSecrets, seqKey(seq), sub.Secrets); err != nil {
			return Job{}, err
		}
	}
	if err := t.move(&j, to, nil); err != nil {
		return Job{}, err
	}
	j.Body, j.Origin = sub.Body, sub.Origin
	return j, nil
}

// await enters j with every job that it has to wait for. fail is not empty when
// one of them has ended in a way that fails j.
func (t *txn) await(j *Job) (fail string, err error) {
	for i, id := range slices.Concat(j.After, j.AfterAny) {
		end, err := t.endOf(id)
		if err != nil {
			return "", err
		}
		if end == "" {
			j.pending++
			if err := t.put(bucketDependents, dependentKey(id, j.Seq), nil); err != nil {
				return "", err
			}
		} else if end != Succeeded && i < len(j.After) {
			fail = dependencyReason(id, end)
		}
	}
	return fail, nil
}

// unique is ids without repetitions and without those of other.
func unique(ids, other []string) (out []string) {
	for _, id := range ids {
		if !slices.Contains(out, id) && !slices.Contains(other, id) {
			out = append(out, id)
		}
	}
	return out
}

// fromHistory finds a job that was moved, without its body.
func (s *Store) fromHistory(id string) (j Job, err error) {
	err = s.history.view(func(tx *bolt.Tx) error {
		j, err = loadJob(tx, id)
		return err
	})
	return j, err
}

// complete adds what stands apart from the row of j, in either file.
func (t *txn) complete(j *Job) error {
	if t.tx.Bucket(bucketJobs).Get(seqKey(j.Seq)) != nil {
		loadBodies(t.tx, j)
		return nil
	}
	return t.history.view(func(tx *bolt.Tx) error {
		loadBodies(tx, j)
		return nil
	})
}
