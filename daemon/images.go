package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"girderworker/daemon/api"
	"girderworker/daemon/apitype"
	"girderworker/daemon/monitor"
	"girderworker/queue"
	"girderworker/sandbox/image"
	"girderworker/transforms"
)

// images reads the store's index itself and has everything else done by the
// helper, through the monitor.
type images struct {
	store *image.Store
	front *front

	// pruning is held for writing while it is decided what is removed, and for
	// reading by whom an image is about to be needed.
	pruning sync.RWMutex
	pullMu  sync.Mutex
	pulls   map[*pull]bool // under way
	pulling *pulling
	away    awayRegistries
}

var _ api.Images = (*images)(nil)

func openImages(dir string, f *front) (*images, error) {
	store, err := image.Open(dir, image.Options{Log: f.logger.With("part", "images")})
	if err != nil {
		return nil, err
	}
	return &images{store: store, front: f, pulls: map[*pull]bool{}, pulling: newPulling()}, nil
}

// told is an error of the image store as the API's callers tell it apart.
type told struct {
	error
	kind error
}

func (t told) Unwrap() []error { return []error{t.error, t.kind} }

func tell(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, image.ErrNotFound), errors.Is(err, monitor.ErrNoImage):
		return told{err, api.ErrNoImage}
	case errors.Is(err, image.ErrName), errors.Is(err, monitor.ErrBadImage):
		return told{err, api.ErrBadImage}
	case errors.Is(err, monitor.ErrPinned):
		return told{err, api.ErrPinned}
	case errors.Is(err, monitor.ErrNoSpace):
		return told{err, queue.ErrNoSpace}
	}
	return err
}

// Import streams an archive to the helper.
func (i *images) Import(ctx context.Context, archive io.Reader, name string, owner int) ([]apitype.Image, error) {
	if name != "" {
		if _, err := image.CheckName(name); err != nil {
			return nil, tell(err)
		}
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(write, archive)
		copied <- errors.Join(err, write.Close())
	}()
	defer i.front.settled.Reset(settleAfter)
	var result HelperImages
	err = i.front.monitor.Image(ctx, monitor.ImageRequest{Op: monitor.ImageImport, Name: name, Owner: owner}, read, &result)
	// With the last reader gone the copy ends, if the helper did not read all.
	read.Close()
	copyErr := <-copied
	if err != nil {
		// An archive that did not arrive whole looks damaged; the reason is here.
		if copyErr != nil && !errors.Is(copyErr, errBrokenPipe) {
			err = fmt.Errorf("cannot receive the archive: %w", copyErr)
		}
		return nil, tell(err)
	}
	out := make([]apitype.Image, 0, len(result.Images))
	for _, in := range result.Images {
		img, err := i.store.Resolve(in.ID, owner)
		if err != nil {
			return nil, tell(err)
		}
		out = append(out, i.view(img, owner, in.Names))
	}
	return out, nil
}

// List returns the images that a user may use, one for each owner of names;
// everyone is all of them.
func (i *images) List(uid int) ([]apitype.Image, error) {
	all, err := i.store.List()
	if err != nil {
		return nil, err
	}
	var out []apitype.Image
	for _, img := range all {
		img.Names = slices.DeleteFunc(slices.Clone(img.Names), func(n image.Name) bool {
			return uid != everyone && n.Owner != uid && n.Owner != image.Everyone
		})
		if len(img.Names) > 0 || uid == everyone {
			out = append(out, i.views(img)...)
		}
	}
	return out, nil
}

// Resolve finds the image that a user means.
func (i *images) Resolve(ref string, uid int) (apitype.Image, error) {
	img, err := i.store.Resolve(ref, uid)
	if err != nil {
		return apitype.Image{}, tell(err)
	}
	return i.views(img)[0], nil
}

// Remove takes names from an image.
func (i *images) Remove(ctx context.Context, ref string, owner int) error {
	return tell(i.front.monitor.Image(ctx, monitor.ImageRequest{Op: monitor.ImageRemove, Name: ref, Owner: owner}, nil, nil))
}

// Prune removes what no name and no job needs.
func (i *images) Prune(ctx context.Context) (apitype.Pruned, error) {
	pruned, err := i.decidePrune(ctx)
	if err == nil {
		// What was taken out of the store is deleted now, which can take long.
		err = i.front.monitor.Image(ctx, monitor.ImageRequest{Op: monitor.ImagePrepare}, nil, nil)
	}
	return pruned, tell(err)
}

// decidePrune takes out of the store what nobody needs. No job is accepted or
// started and no pull begins meanwhile: what it would need might not be known yet.
func (i *images) decidePrune(ctx context.Context) (pruned apitype.Pruned, err error) {
	i.pruning.Lock()
	defer i.pruning.Unlock()
	keep, err := i.needed()
	if err == nil {
		// To the end, whoever gives up: while it runs nobody else may decide.
		err = i.front.monitor.Image(context.WithoutCancel(ctx), monitor.ImageRequest{Op: monitor.ImagePrune, Owner: everyone, Keep: keep}, nil, &pruned)
	}
	return pruned, err
}

// pruneRegularly prunes as often as the configuration of the moment says.
func (i *images) pruneRegularly(ctx context.Context) {
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Minute):
		}
		every := i.front.config.Load().Images.PruneEvery
		if every <= 0 || time.Since(last) < every {
			continue
		}
		last = time.Now()
		pruned, err := i.Prune(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			i.front.logger.Error("Cannot prune images", "error", err)
		case err == nil && pruned.Layers > 0:
			i.front.logger.Info("Images pruned", "images", len(pruned.Images), "layers", pruned.Layers, "bytes", pruned.Bytes)
		}
	}
}

// Hold keeps a prune from deciding until release is called: what the caller
// finds in the store meanwhile is there when others can see that it is needed.
func (i *images) Hold() (release func()) {
	i.pruning.RLock()
	return i.pruning.RUnlock
}

// Pin keeps an image, or ends that.
func (i *images) Pin(ctx context.Context, ref string, owner int, pinned bool) error {
	op := monitor.ImageUnpin
	if pinned {
		op = monitor.ImagePin
	}
	return tell(i.front.monitor.Image(ctx, monitor.ImageRequest{Op: op, Name: ref, Owner: owner}, nil, nil))
}

// needed are the ids that jobs which have not ended may still use.
func (i *images) needed() ([]string, error) {
	ids := map[string]bool{}
	i.pullMu.Lock()
	for p := range i.pulls {
		for _, id := range p.counts {
			ids[id] = true
		}
	}
	i.pullMu.Unlock()
	for _, r := range i.front.attempts.all() {
		r.mu.Lock()
		if r.imageID != "" {
			ids[r.imageID] = true
		}
		r.mu.Unlock()
	}
	type want struct{ ref, owner string }
	seen := map[want]bool{}
	waiting := queue.Filter{States: []queue.State{queue.Queued, queue.Delayed, queue.Held, queue.Preparing, queue.Running}}
	for {
		jobs, err := i.front.store.List(waiting)
		if err != nil {
			return nil, err
		}
		if len(jobs) == 0 {
			break
		}
		for k := range jobs {
			w := want{jobs[k].Image, jobs[k].Owner}
			if w.ref == "" || seen[w] {
				continue
			}
			seen[w] = true
			// A job whose image is gone will be told so when its turn comes.
			if img, err := i.store.Resolve(w.ref, ownerUID(&jobs[k])); err == nil {
				ids[img.ID] = true
			}
		}
		waiting.Before = jobs[len(jobs)-1].Seq
	}
	keep := make([]string, 0, len(ids))
	for id := range ids {
		keep = append(keep, id)
	}
	return keep, nil
}

// Verify reads every byte of an image again.
func (i *images) Verify(ctx context.Context, ref string, uid int) error {
	img, err := i.store.Resolve(ref, uid)
	if err == nil {
		err = i.front.monitor.Image(ctx, monitor.ImageRequest{Op: monitor.ImageVerify, Name: img.ID, Owner: uid}, nil, nil)
	}
	return tell(err)
}

// views shows an image once for each owner of names that it has, or once
// without a name.
func (i *images) views(img image.Image) []apitype.Image {
	if len(img.Names) == 0 {
		return []apitype.Image{i.view(img, everyone, []string{})}
	}
	var owners []int
	names := map[int][]string{}
	for _, n := range img.Names {
		if !slices.Contains(owners, n.Owner) {
			owners = append(owners, n.Owner)
		}
		names[n.Owner] = append(names[n.Owner], n.Ref)
	}
	views := make([]apitype.Image, len(owners))
	for k, owner := range owners {
		views[k] = i.view(img, owner, names[owner])
	}
	return views
}

func (i *images) view(img image.Image, owner int, names []string) apitype.Image {
	return apitype.Image{
		ID: img.ID, Owner: owner, Digest: img.Digest, Size: img.Size,
		Created: img.Created, Added: img.Added, Arch: img.Arch, Names: names,
		WantsGPU: img.Config.Labels[transforms.GPULabel] == transforms.GPULabelValue,
		Pinned:   img.Pinned, SignedBy: i.signers(img),
	}
}

// signers names the keys that have signed an image, in the order of the
// signatures: as the policy names them, or by id where it does not.
func (i *images) signers(img image.Image) []string {
	keys := i.front.rules.Load().keys
	var names []string
	for _, s := range img.Signatures {
		if s.Key == "" {
			continue
		}
		name := s.Key
		for _, k := range keys {
			if k.ID == s.Key {
				name = k.Name
				break
			}
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
