package api

import (
	"context"
	"io"

	"girderworker/daemon/apitype"
	"girderworker/queue"
	"girderworker/transforms"
)

// Control is what the API asks of the daemon beyond the queue.
type Control interface {
	// Capacity is what admission counts.
	Capacity() queue.Capacity
	// Paused tells whether claims are stopped, and whether for a drain.
	Paused() (paused, draining bool)
	// Pause stops claims until Resume; Drain also tells `status` that the
	// daemon may be stopped once nothing runs. All survive a restart.
	Pause(ctx context.Context, drain bool) error
	Resume(ctx context.Context) error
	// Status fills in what the daemon knows of itself.
	Status(ctx context.Context) (apitype.Status, error)
	// CancelAttempt hands a cancel that was committed to the live attempt.
	CancelAttempt(ctx context.Context, job queue.Job) error
	// RemoveJob deletes the directories of a job that left the history.
	RemoveJob(ctx context.Context, id string) error
}

// Images is the image store as the API reaches it: reads from its files,
// changes through the monitor. A name that is unknown, or not the user's to
// see, is answered with an error that wraps [ErrNoImage].
type Images interface {
	// Import reads a docker-archive, oci-archive or tar of an OCI layout,
	// plain, gzip or zstd. owner -1 makes the names everyone's.
	Import(ctx context.Context, archive io.Reader, name string, owner int) ([]apitype.Image, error)
	// List returns the images that uid may use; -1 is all.
	List(uid int) ([]apitype.Image, error)
	// Resolve finds the image that ref means for uid. It is called once for
	// every job submitted, so it answers from memory.
	Resolve(ref string, uid int) (apitype.Image, error)
	Remove(ctx context.Context, ref string, owner int) error
	// Prune removes what no name and no job needs, and returns what it freed.
	Prune(ctx context.Context) (apitype.Pruned, error)
	Verify(ctx context.Context, ref string, uid int) error
	// Pin keeps an image from prune, rm and pull, or ends that.
	Pin(ctx context.Context, ref string, owner int, pinned bool) error
	// Pull fetches an image from its registry, when it is not there or, with
	// always, when the registry has another. owner -1 makes the name everyone's; p
	// is who asks. tell is called now and then, with what a person may be shown.
	Pull(ctx context.Context, p *Peer, ref string, owner int, always bool, tell func(apitype.Progress)) (img apitype.Image, note string, err error)
	// Hold keeps images from being pruned until release is called.
	Hold() (release func())
}

// Live is what the daemon knows from memory about attempts under way, on top
// of what the queue has on disk.
type Live interface {
	// Live returns the stage and the last progress of an attempt of a job; zero
	// values where there is none.
	Live(id string, attempt int) (stage string, progress *apitype.Progress)
}

// Policy says what jobs may ask of the machine, and by whom.
type Policy interface {
	// Defaults are d, less what the peer may not have.
	Defaults(p *Peer, d transforms.Defaults) transforms.Defaults
	// Judge holds a completed document, whose image came to imageID, against what
	// the peer may ask. The error is a [*policy.Denied] where that is less.
	Judge(p *Peer, f *transforms.JobFile, imageID string) error
	// GPUs is how many devices the peer's job comes to, see [transforms.Resources].
	// The error says what it cannot have.
	GPUs(p *Peer, res transforms.Resources) (int, error)
}
