package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"girderworker/daemon/api"
	"girderworker/daemon/apitype"
	"girderworker/daemon/config"
	"girderworker/daemon/monitor"
	"girderworker/daemon/policy"
	"girderworker/sandbox/image"
	"girderworker/sandbox/image/registry"
)

// maxPulls is how many pulls are under way at a time.
const maxPulls = 3

// pull is one that is under way.
type pull struct {
	ref   string
	owner int
	name  string // what the image is called
	// counts are the ids of the images whose layers are not fetched again.
	counts []string
}

// pulling orders pulls: a few at a time, and one of each reference, so that the
// second finds what the first brought.
type pulling struct {
	slots chan struct{}

	mu   sync.Mutex
	refs map[string]chan struct{} // of a pull under way, closed at its end
}

func newPulling() *pulling {
	return &pulling{slots: make(chan struct{}, maxPulls), refs: map[string]chan struct{}{}}
}

// enter waits for its turn. leave must be called.
func (p *pulling) enter(ctx context.Context, key string) (leave func(), err error) {
	for {
		p.mu.Lock()
		other, busy := p.refs[key]
		if !busy {
			break
		}
		p.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	done := make(chan struct{})
	p.refs[key] = done
	p.mu.Unlock()
	end := func() {
		p.mu.Lock()
		delete(p.refs, key)
		p.mu.Unlock()
		close(done)
	}
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots; end() }, nil
	case <-ctx.Done():
		end()
		return nil, context.Cause(ctx)
	}
}

// Pull implements [api.Images].
func (i *images) Pull(ctx context.Context, p *api.Peer, ref string, owner int, always bool, show func(apitype.Progress)) (apitype.Image, string, error) {
	img, note, err := i.pullAs(ctx, i.front.rightsOf(p), ref, owner, always, true, show)
	if errors.Is(err, api.ErrRegistry) {
		i.front.auditRefusal(p, ref, err)
	}
	return img, note, err
}

// pullAs fetches an image from its registry for somebody with rights. With always, what the registry has
// counts, but a machine without a way to it uses the image that it has, and note
// says so: air-gapped machines are normal, and so are images that only ever were
// imported. Such a machine is not waited for by each job: unless ask is set, a registry that was
// away a moment ago is not asked where there is an image to use.
func (i *images) pullAs(ctx context.Context, rights *policy.Rights, ref string, owner int, always, ask bool, show func(apitype.Progress)) (apitype.Image, string, error) {
	target, err := image.ParsePull(ref)
	if err != nil {
		return apitype.Image{}, "", tell(err)
	}
	local, localErr := i.store.Resolve(ref, owner)
	here := localErr == nil
	switch {
	case here && !always:
		return i.shown(local, owner), "the image is here", nil
	case here && target.Digest != "":
		return i.shown(local, owner), "the image of that digest is here", nil
	case here && local.Pinned:
		return i.shown(local, owner), "the image is pinned and was not pulled", nil
	}
	c := i.front.config.Load()
	switch {
	case !c.Images.MayPull(target.Registry):
		err = told{fmt.Errorf("cannot pull %s: nothing is pulled from %s here, see images.registries; import an archive instead", ref, target.Registry), api.ErrRegistry}
	case !rights.MayPull(target.Registry):
		err = told{fmt.Errorf("cannot pull %s: %s is not among the registries to pull from; the machine's admin can allow it with pull in a section of policy.toml for you (yours: %s), or import an archive",
			ref, target.Registry, strings.Join(rights.Sections, " ")), api.ErrRegistry}
	case here && !ask && i.away.why(target.Registry, time.Now()) != "":
		return i.shown(local, owner), usesLocal + i.away.why(target.Registry, time.Now()), nil
	default:
		ctx, cancel := context.WithTimeoutCause(ctx, max(c.Images.PullTimeout, time.Second),
			pullFailure{fmt.Errorf("cannot pull %s: it takes longer than %v, see images.pull_timeout", ref, c.Images.PullTimeout)})
		defer cancel()
		var unchanged bool
		unchanged, err = i.pull(ctx, &pull{ref: ref, owner: owner, name: target.Name}, c.Images, show)
		if ctx.Err() == nil {
			i.away.asked(target.Registry, !errors.Is(err, registry.ErrUnreachable), time.Now())
		}
		if err == nil && unchanged {
			return i.shown(local, owner), "the registry has no newer image", nil
		}
	}
	if err == nil {
		pulled, err := i.store.Resolve(target.Name, owner)
		if err != nil {
			return apitype.Image{}, "", tell(err)
		}
		return i.shown(pulled, owner), "", nil
	}
	if here && fallsBack(ctx, err) {
		return i.shown(local, owner), usesLocal + err.Error(), nil
	}
	return apitype.Image{}, "", err
}

// usesLocal begins the note of a pull that took what was here instead.
const usesLocal = "using the image that is here: "

// fallsBack tells whether an image that is here may do instead. What came and was
// not good, or did not fit, is told and not passed over.
func fallsBack(ctx context.Context, err error) bool {
	var failed pullFailure
	switch {
	case ctx.Err() != nil:
		return false
	case errors.Is(err, api.ErrRegistry), errors.As(err, &failed):
		return true
	}
	return errors.Is(err, registry.ErrUnreachable) || errors.Is(err, registry.ErrDenied) || errors.Is(err, registry.ErrNoSuchImage)
}

// pullFailure is a pull that took too long.
type pullFailure struct{ error }

func (p pullFailure) Unwrap() []error { return []error{p.error, api.ErrPull} }

// shown is img under the names that its owner uses.
func (i *images) shown(img image.Image, owner int) apitype.Image {
	for _, v := range i.views(img) {
		if v.Owner == owner {
			return v
		}
	}
	return i.views(img)[0]
}

// pull fetches and imports. unchanged: the store has what the registry has.
func (i *images) pull(ctx context.Context, p *pull, c config.Images, show func(apitype.Progress)) (unchanged bool, err error) {
	leave, err := i.pulling.enter(ctx, fmt.Sprint(p.owner, " ", p.ref))
	if err != nil {
		return false, err
	}
	defer leave()
	defer i.front.settled.Reset(settleAfter)
	request, end, err := i.begin(p, c)
	if err != nil {
		return false, err
	}
	defer end()
	show(apitype.Progress{Message: "pulling " + p.ref})

	read, write, err := os.Pipe()
	if err != nil {
		return false, fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer read.Close()
	fetching, stop := context.WithCancel(ctx)
	defer stop()
	fetched, err := startFetch(fetching, request, write)
	write.Close()
	if err != nil {
		return false, err
	}
	var imported chan error
	for m := range fetched.messages {
		switch {
		case m.Begin && imported == nil:
			imported = make(chan error, 1)
			go func() {
				err := i.front.monitor.Image(context.WithoutCancel(ctx), monitor.ImageRequest{
					Op: monitor.ImageImport, Name: p.name, Owner: p.owner, Pulled: true,
				}, read, nil)
				read.Close()
				if err != nil {
					stop() // else the fetch goes on for nobody
				}
				imported <- err
			}()
		case m.Progress != nil:
			show(shownProgress(p.ref, *m.Progress))
		}
	}
	result, fetchErr := fetched.end()
	var importErr error
	if imported != nil {
		if fetchErr == nil {
			show(apitype.Progress{Message: "unpacking " + p.ref})
		}
		// The import ends with the pipe, which nobody holds open now.
		importErr = <-imported
	}
	switch {
	case ctx.Err() != nil && (fetchErr != nil || importErr != nil):
		return false, context.Cause(ctx)
	case fetchErr != nil && fetching.Err() == nil:
		return false, told{fmt.Errorf("cannot pull %s: %w", p.ref, fetchErr), api.ErrPull}
	case importErr != nil:
		return false, tell(fmt.Errorf("cannot pull %s: %w", p.ref, importErr))
	case fetchErr != nil:
		return false, told{fmt.Errorf("cannot pull %s: %w", p.ref, fetchErr), api.ErrPull}
	case !result.Unchanged && imported == nil:
		return false, told{fmt.Errorf("cannot pull %s: the fetch ended without an image", p.ref), api.ErrPull}
	}
	return result.Unchanged, nil
}

// begin finds out what need not be fetched, and keeps it in the store until end.
func (i *images) begin(p *pull, c config.Images) (_ *registry.Request, end func(), err error) {
	defer i.Hold()()
	have, err := i.store.LayersOf(p.owner)
	if err != nil {
		return nil, nil, err
	}
	all, err := i.store.List()
	if err != nil {
		return nil, nil, err
	}
	r := &registry.Request{
		Ref: p.ref, Name: p.name, Have: have,
		AuthFile: c.AuthFile, CAFile: c.CAFile, PlainHTTP: c.PlainHTTP,
		Limits: registry.Limits{Connect: c.ConnectTimeout},
	}
	for _, img := range all {
		p.counts = append(p.counts, img.ID)
	}
	// Only an image that already has the name needs no new one.
	if local, err := i.store.Resolve(p.name, p.owner); err == nil &&
		slices.ContainsFunc(local.Names, func(n image.Name) bool { return n.Owner == p.owner }) {
		r.Known = append(slices.Clone(local.Indexes), local.Digest)
	}
	i.pullMu.Lock()
	i.pulls[p] = true
	i.pullMu.Unlock()
	return r, func() {
		i.pullMu.Lock()
		defer i.pullMu.Unlock()
		delete(i.pulls, p)
	}, nil
}

func shownProgress(ref string, p registry.Progress) apitype.Progress {
	message := fmt.Sprintf("pulling %s: layer %d of %d", ref, p.Layer, p.Layers)
	if p.Layers == 0 {
		message = "pulling " + ref + ": no layer is new"
	}
	return apitype.Progress{Total: float64(p.Total), Current: float64(p.Read), Message: message}
}

// fetchProcess is a fetch under way.
type fetchProcess struct {
	cmd      *exec.Cmd
	messages chan fetchMessage // all but the last; closed at the end
	last     fetchMessage
	err      error
	stderr   *tail
}

// maxFetchWords bounds what a fetch may say: progress comes five times a second.
const maxFetchWords = 64 << 20

func startFetch(ctx context.Context, r *registry.Request, out *os.File) (*fetchProcess, error) {
	order, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the request: %w", err)
	}
	p := &fetchProcess{
		cmd: exec.CommandContext(ctx, "/proc/self/exe", FetchCommand), messages: make(chan fetchMessage), stderr: &tail{},
	}
	p.cmd.Dir = "/"
	p.cmd.Stdin = strings.NewReader(string(order))
	p.cmd.Stderr = p.stderr
	p.cmd.ExtraFiles = []*os.File{out}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot make a pipe: %w", err)
	}
	started := make(chan error)
	go func() {
		defer close(p.messages)
		// Pdeathsig comes with the end of the thread that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		lines := json.NewDecoder(io.LimitReader(said, maxFetchWords))
		for {
			var m fetchMessage
			if err := lines.Decode(&m); err != nil {
				if err != io.EOF {
					p.err = err
				}
				break
			}
			if m.Result != nil || m.Error != "" {
				p.last = m
				continue
			}
			p.messages <- m
		}
		p.err = errors.Join(p.err, p.cmd.Wait())
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("cannot start the fetching process: %w", err)
	}
	return p, nil
}

// end is the outcome, once messages is closed.
func (p *fetchProcess) end() (registry.Result, error) {
	switch {
	case p.last.Error != "":
		return registry.Result{}, &fetchError{p.last.Error, fetchKinds[p.last.Kind]}
	case p.last.Result == nil || p.err != nil:
		return registry.Result{}, fmt.Errorf("the fetching process died (%v): %s", p.err, p.stderr)
	}
	return *p.last.Result, nil
}

// fetchError is an error of the fetching process, with its sentinel.
type fetchError struct {
	text string
	kind error
}

func (e *fetchError) Error() string { return e.text }
func (e *fetchError) Unwrap() error { return e.kind }

// tail keeps the beginning of a process's last words.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p[:min(len(p), max(0, 2048-len(t.data)))]...)
	return len(p), nil
}

func (t *tail) String() string {
	if len(t.data) == 0 {
		return "it said nothing"
	}
	return strings.TrimSpace(string(t.data))
}
