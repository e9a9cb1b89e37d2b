package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/sandbox/fifo"
	"girderworker/transforms"
)

// slicerStream is the stream by which progress is taken out of the standard
// output. No plan can have one of that name.
const slicerStream = "_stdout"

// defaultOutage is how long Girder may be out of reach where the request does
// not say.
const defaultOutage = 6 * time.Hour

func (a *attemptRun) outage() time.Duration { return cmp.Or(a.request.Limits.Outage, defaultOutage) }

func needsTransfer(p *transforms.Plan) bool {
	return len(p.Streams)+len(p.Binds)+len(p.Volumes)+len(p.Inserts) > 0 || p.SlicerProgress
}

// newTransfer starts the process for the submitter's files.
func (a *attemptRun) newTransfer() (err error) {
	if a.transfer, err = startTransfer(a.request.Identity, &a.request.Grant); err != nil {
		return err
	}
	a.transfer.onDoing, a.transfer.onNote = a.doing, a.note
	return nil
}

// addServers tells it of all servers, which may be out of reach for so long.
func (a *attemptRun) addServers(ctx context.Context, outage time.Duration) (err error) {
	for _, g := range a.request.Plan.Girders {
		s := &server{Girder: g, Token: a.secrets.Tokens[g.Name], APIKey: a.secrets.APIKeys[g.Name], Headers: a.secrets.Headers[g.Name], Proxies: a.secrets.Proxies[g.Name], Outage: outage}
		var keeper *os.File
		if g.MachineKey {
			keeper, err = a.transfer.startKeeper(ctx, a.request.Grant.KeeperID, s, a.secrets.MachineKey)
		}
		if err == nil {
			err = a.transfer.tell(ctx, message{Op: opGirder, Server: s}, keeper)
		}
		if keeper != nil {
			keeper.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *attemptRun) doing(text string) { a.tell(attempt.Event{Doing: text}) }

// stage makes the volumes, opens the binds and has everything fetched. It
// returns what is to be mounted, also with an error.
func (a *attemptRun) stage(ctx context.Context) (mounts []sandbox.Mount, err error) {
	if err := a.newTransfer(); err != nil {
		return nil, err
	}
	if err := a.addServers(ctx, a.outage()); err != nil {
		return nil, err
	}
	plan := &a.request.Plan
	targets := map[string]string{}
	for _, b := range plan.Binds {
		source, err := a.transfer.openBind(ctx, b)
		if err != nil {
			return mounts, err
		}
		mounts = append(mounts, sandbox.Mount{Source: source, Target: b.Target, ReadOnly: b.ReadOnly, Recursive: true})
		targets[b.Name] = b.Target
	}
	for _, v := range plan.Volumes {
		source, err := a.makeVolume(ctx, v)
		if err != nil {
			return mounts, err
		}
		mounts = append(mounts, sandbox.Mount{Source: source, Target: v.Target, ReadOnly: v.ReadOnly})
		targets[v.Name] = v.Target
	}
	paths := make(map[string]string, len(plan.Fetches))
	for _, f := range plan.Fetches {
		at, direct, err := a.transfer.fetch(ctx, f)
		if err != nil {
			return mounts, err
		}
		paths[f.Name] = path.Join(targets[f.Into], at)
		if direct != nil {
			mounts = append(mounts, sandbox.Mount{Source: direct, Target: paths[f.Name], ReadOnly: true})
		}
	}
	if len(plan.Fetches) > 0 {
		a.tell(attempt.Event{Stage: stagePreparing}) // over with what was being done
	}
	for list, texts := range map[transforms.InsertionList]*[]string{
		transforms.InsertArgs: &plan.Args, transforms.InsertEntrypoint: &plan.Entrypoint, transforms.InsertEnv: &plan.Env,
	} {
		*texts = inserted(*texts, list, plan.Inserts, paths, a.secrets.Tokens)
	}
	return mounts, nil
}

// inserted puts paths and tokens into the texts of a list, from behind, so that
// the offsets before stay true.
func inserted(texts []string, list transforms.InsertionList, inserts []transforms.Insertion, paths, tokens map[string]string) []string {
	texts = slices.Clone(texts)
	for _, i := range slices.Backward(inserts) {
		if i.List != list {
			continue
		}
		what := paths[i.Fetch]
		if i.Token != "" {
			what = tokens[i.Token]
		}
		texts[i.Arg] = texts[i.Arg][:i.At] + what + texts[i.Arg][i.At:]
	}
	return texts
}

// volumesDir is where volumes are that no directory was named for.
func (a *attemptRun) volumesDir() string { return filepath.Join(a.space(), "volumes") }

// makeVolume makes a volume and returns its descriptor.
func (a *attemptRun) makeVolume(ctx context.Context, v transforms.Volume) (*os.File, error) {
	if v.HostDir != "" {
		return a.makeHostVolume(ctx, v)
	}
	dir := filepath.Join(a.volumesDir(), v.Name)
	// Open to all below a directory that is closed to all.
	err := os.Mkdir(a.volumesDir(), 0o700)
	if err == nil || errors.Is(err, os.ErrExist) {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		err = os.Chown(dir, a.request.Identity.UID, a.request.Identity.GID)
	}
	if err == nil {
		err = os.Chmod(dir, volumeMode(v))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make volume %s: %w", v.Name, err)
	}
	return a.handVolume(ctx, v)
}

// makeHostVolume has a volume made in a directory of the submitter. It is on
// record before it is there, for whoever cleans up if this process is killed.
func (a *attemptRun) makeHostVolume(ctx context.Context, v transforms.Volume) (*os.File, error) {
	v.HostDir = path.Clean(v.HostDir)
	at := len(a.made)
	a.made = append(a.made, attempt.HostVolume{Name: v.Name, Path: path.Join(v.HostDir, fmt.Sprintf("girder-worker-%s-%08x", a.dir.ID(), rand.Uint32()))})
	record := func() error {
		return a.dir.WriteFinish(attempt.Finish{Hook: len(a.request.Plan.Hooks), Volumes: a.made})
	}
	if err := record(); err != nil {
		return nil, err
	}
	source, made, err := a.transfer.makeVolume(ctx, v, a.made[at].Path)
	if err != nil {
		return nil, err
	}
	a.made[at] = *made
	if err := record(); err != nil {
		source.Close()
		return nil, err
	}
	return source, nil
}

// handVolume opens a volume of the work directory and gives it to the transfer
// process.
func (a *attemptRun) handVolume(ctx context.Context, v transforms.Volume) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(a.volumesDir(), v.Name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open volume %s: %w", v.Name, err)
	}
	if err := a.transfer.tell(ctx, message{Op: opVolume, Volume: &v}, f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// connect has the streams' ends on the host opened and makes their pipes.
func (a *attemptRun) connect(ctx context.Context, spec *sandbox.Spec) error {
	streams := slices.Clone(a.request.Plan.Streams)
	if a.request.Plan.SlicerProgress && !slices.ContainsFunc(streams, func(s transforms.Stream) bool { return s.Kind == transforms.StreamStdout }) {
		streams = append(streams, transforms.Stream{Name: slicerStream, Kind: transforms.StreamStdout, Log: "stdout"})
	}
	if len(streams) == 0 {
		return nil
	}
	late := onlyProgress(&a.request.Plan)
	for _, s := range streams {
		if late {
			break
		}
		if err := a.openStream(ctx, s); err != nil {
			return err
		}
	}
	// Everyone in the container may open the pipes, so nobody else may reach them.
	closed := filepath.Join(a.workDir(), "closed")
	if err := os.Mkdir(closed, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory for named pipes: %w", err)
	}
	dir, err := fifo.Create(filepath.Join(closed, "pipes"))
	if err != nil {
		return err
	}
	a.pipes = dir
	pipes := make(map[string]fifo.Pipe, len(streams))
	inDirectory := false
	for _, s := range streams {
		p, err := dir.Make(s.Name)
		if err != nil {
			return err
		}
		pipes[s.Name] = p
		switch {
		case s.Kind == transforms.StreamStdin:
			if spec.Stdin, err = dir.OpenStdin(p); err != nil {
				return err
			}
		case s.Path == "":
		case path.Dir(s.Path) == transforms.PipeDirectory:
			inDirectory = true
		default:
			// A place of its own: that pipe alone is mounted there.
			f, err := dir.OpenPath(p)
			if err != nil {
				return err
			}
			spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: f, Target: s.Path, ReadOnly: true})
		}
	}
	if inDirectory {
		source, err := duplicate(dir.File())
		if err != nil {
			return err
		}
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: source, Target: transforms.PipeDirectory, ReadOnly: true})
	}
	if late {
		a.late, err = newLateTransfer(dir, streams, pipes)
		return err
	}
	if err := a.transfer.connect(ctx, dir, pipes); err != nil {
		return err
	}
	// Their readers are there now, so that opening them does not fail.
	for _, s := range streams {
		var end **os.File
		switch s.Kind {
		case transforms.StreamStdout:
			end = &spec.Stdout
		case transforms.StreamStderr:
			end = &spec.Stderr
		default:
			continue
		}
		f, err := dir.OpenStdout(pipes[s.Name])
		if err != nil {
			return err
		}
		a.ends = append(a.ends, f)
		*end = f
	}
	return nil
}

// openStream has one stream's end on the host opened.
func (a *attemptRun) openStream(ctx context.Context, s transforms.Stream) error {
	m := message{Op: opStream, Stream: &s, Headers: a.secrets.Headers[s.Name]}
	var with *os.File
	if s.Log != "" {
		m.Slicer = a.request.Plan.SlicerProgress && s.Kind == transforms.StreamStdout
		var err error
		if with, err = a.output.openEnd(s.Log == "stderr"); err != nil {
			return err
		}
		defer with.Close()
	}
	if err := a.transfer.tell(ctx, m, with); err != nil {
		return err
	}
	a.transfer.streams = append(a.transfer.streams, s)
	return nil
}

// connected drops what the container has by now, or never will.
func (a *attemptRun) connected() {
	for _, f := range a.ends {
		f.Close()
	}
	a.ends = nil
}
