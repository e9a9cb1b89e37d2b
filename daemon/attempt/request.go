package attempt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"girderworker/sandbox"
	"girderworker/transforms"
)

// maxRequest bounds request.json: an argument vector is at most 2 MiB in
// Linux, and JSON may escape some of it.
const maxRequest = 8 << 20

// Bounds of a plan that a runner carries out.
const (
	maxStreams = 64
	maxBinds   = 128
	maxGroups  = 1024
	maxGPUs    = transforms.MaxGPUs
)

// WriteRequest validates r and writes request.json in one step, not synced: see [Dir.Create].
func (d Dir) WriteRequest(r *Request) error {
	if err := r.validate(d); err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot encode the request: %w", err)
	}
	if len(data) > maxRequest {
		return fmt.Errorf("%w: request of %d bytes, more than %d", ErrInvalid, len(data), maxRequest)
	}
	f, err := openEmpty(d.file(requestTemp))
	if err == nil {
		err = putInPlace(f, d.file(requestName), data, r.Grant.GroupID)
	}
	if err != nil {
		return fmt.Errorf("cannot write the request: %w", err)
	}
	return nil
}

// ReadRequest reads and validates request.json. A field that this release does
// not know is refused: it could be a restriction.
func (d Dir) ReadRequest() (*Request, error) {
	data, err := readBounded(d.file(requestName), maxRequest)
	if err != nil {
		return nil, fmt.Errorf("cannot read the request: %w", err)
	}
	r := new(Request)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err = dec.Decode(r)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else {
			err = errors.New("more than one document")
		}
	}
	if err != nil {
		// A newer request fails for being newer, not for the first of its new fields.
		var head struct {
			Version int `json:"version"`
		}
		if json.Unmarshal(data, &head) == nil {
			r.Version = head.Version
		}
	}
	if r.Version > Version {
		return nil, fmt.Errorf("request of version %d, this program knows %d: %w", r.Version, Version, ErrVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: request: %w", ErrInvalid, err)
	}
	if err := r.validate(d); err != nil {
		return nil, err
	}
	return r, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := openNoFollow(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrInvalid, path, limit)
	}
	return data, nil
}

// validate holds a request against the contract. What a user may ask for is
// policy and was decided before; this keeps a mistake elsewhere from becoming
// a container with the wrong identity or a file outside its directory.
func (r *Request) validate(d Dir) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: request: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case r.Version != Version:
		return bad("version %d, want %d", r.Version, Version)
	case r.Job != d.job || r.Attempt != d.number:
		return bad("it is for %s-%d, in the directory of %s", r.Job, r.Attempt, d.ID())
	case r.Identity.UID < 1 || r.Identity.GID < 0:
		return bad("identity %d:%d: root and negative ids cannot run a job", r.Identity.UID, r.Identity.GID)
	case len(r.Identity.Groups) > maxGroups:
		return bad("%d groups, at most %d", len(r.Identity.Groups), maxGroups)
	case r.Plan.OnHost() && r.ImageID != "":
		return bad("image_id %q for a job that has no image", r.ImageID)
	case !r.Plan.OnHost() && !validDigest(r.ImageID):
		return bad("image_id %q: want sha256: and 64 hex digits", r.ImageID)
	case !cleanAbs(r.Grant.WorkDir):
		return bad("work_dir %q: want a clean absolute path", r.Grant.WorkDir)
	case filepath.Base(r.Grant.WorkDir) != d.ID():
		return bad("work_dir %q: want one named %s", r.Grant.WorkDir, d.ID())
	case !cleanAbs(r.Grant.ImageDir):
		return bad("image_dir %q: want a clean absolute path", r.Grant.ImageDir)
	case r.Limits.Hard < 0 || r.Limits.Soft < 0 || r.Limits.Idle < 0:
		return bad("a limit of time is negative")
	case r.Plan.StopGrace < 0:
		return bad("stop_grace is negative")
	case r.Plan.StopSignal < 0 || r.Plan.StopSignal > 64:
		return bad("stop_signal %d: want 1 to 64", r.Plan.StopSignal)
	case r.Resources.CPUs < 0 || r.Resources.Memory < 0 || r.Resources.PIDs < 0 ||
		r.Resources.Shm < 0 || r.Resources.Scratch < 0 || r.Resources.Log < 0 ||
		r.Resources.Swap < 0 || r.Resources.Reservation < 0 || r.Resources.CPUShares < 0:
		return bad("a resource is negative")
	}
	if len(r.Resources.GPUs) > maxGPUs {
		return bad("%d gpus, at most %d", len(r.Resources.GPUs), maxGPUs)
	}
	if len(r.Resources.GPUs) > 0 && r.Grant.GPUs == nil {
		return bad("gpus that nobody granted")
	}
	for _, g := range r.Identity.Groups {
		if g < 0 {
			return bad("group %d is negative", g)
		}
	}
	for _, m := range append(append([]sandbox.IDMapping{}, r.Grant.UIDMappings...), r.Grant.GIDMappings...) {
		if m.ContainerID < 0 || m.HostID < 0 || m.Size < 1 {
			return bad("id mapping %+v", m)
		}
	}
	if n := r.Grant.Network; n != nil {
		if err := n.Check(); err != nil {
			return bad("%s", err)
		}
	}
	if err := validatePlan(&r.Plan); err != nil {
		return bad("%s", err)
	}
	return nil
}

func validatePlan(p *transforms.Plan) error {
	if len(p.Streams) > maxStreams {
		return fmt.Errorf("%d streams, at most %d", len(p.Streams), maxStreams)
	}
	if len(p.Binds) > maxBinds {
		return fmt.Errorf("%d binds, at most %d", len(p.Binds), maxBinds)
	}
	if len(p.ExtraHosts) > sandbox.MaxHostEntries || len(p.DNS) > sandbox.MaxResolvers {
		return fmt.Errorf("%d extra hosts and %d name servers, at most %d and %d", len(p.ExtraHosts), len(p.DNS), sandbox.MaxHostEntries, sandbox.MaxResolvers)
	}
	for _, e := range p.ExtraHosts {
		if err := e.Check(); err != nil {
			return err
		}
	}
	for _, server := range p.DNS {
		if err := sandbox.CheckResolver(server); err != nil {
			return err
		}
	}
	for _, list := range [][]string{p.Command, p.Entrypoint, p.Args, p.Env} {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return fmt.Errorf("NUL in %q", s)
			}
		}
	}
	for _, kv := range p.Env {
		if key, _, ok := strings.Cut(kv, "="); !ok || key == "" {
			return fmt.Errorf("environment %q: want KEY=VALUE", kv)
		}
	}
	for _, b := range p.Binds {
		if !cleanAbs(b.Source) || !cleanAbs(b.Target) || b.Target == "/" {
			return fmt.Errorf("bind %q at %q: want clean absolute paths, and not the root", b.Source, b.Target)
		}
	}
	if p.Python != nil {
		if err := p.Python.Check(); err != nil {
			return err
		}
	}
	if err := p.CheckCommand(); err != nil {
		return err
	}
	seen := map[string]bool{}
	only := map[transforms.StreamKind]int{}
	for _, s := range p.Streams {
		if !ValidStreamName(s.Name) {
			return fmt.Errorf("stream name %q", s.Name)
		}
		if seen[s.Name] {
			return fmt.Errorf("two streams named %q", s.Name)
		}
		seen[s.Name] = true
		switch s.Kind {
		case transforms.StreamInput, transforms.StreamOutput:
		case transforms.StreamStdin, transforms.StreamStdout, transforms.StreamStderr, transforms.StreamProgress:
			if only[s.Kind]++; only[s.Kind] > 1 {
				return fmt.Errorf("more than one %s stream", s.Kind)
			}
		default:
			return fmt.Errorf("stream %s: unknown kind %q", s.Name, s.Kind)
		}
		if err := validPipePath(s); err != nil {
			return err
		}
	}
	return validateMoves(p)
}

// validPipePath: a pipe has its own name in [transforms.PipeDirectory], or a
// place of its own anywhere else.
func validPipePath(s transforms.Stream) error {
	switch dir, name := path.Split(s.Path); {
	case s.Kind == transforms.StreamStdin || s.Kind == transforms.StreamStdout || s.Kind == transforms.StreamStderr:
		if s.Path != "" {
			return fmt.Errorf("stream %s: path %q, want none", s.Name, s.Path)
		}
	case !cleanAbs(s.Path) || s.Path == "/" || s.Path == transforms.PipeDirectory:
		return fmt.Errorf("stream %s: path %q: want a clean absolute path", s.Name, s.Path)
	case strings.HasPrefix(dir, transforms.PipeDirectory+"/") && s.Path != transforms.PipeDirectory+"/"+s.Name:
		return fmt.Errorf("stream %s: path %q, want %s/%s or a place elsewhere", s.Name, s.Path, transforms.PipeDirectory, s.Name)
	case name == "":
		return fmt.Errorf("stream %s: path %q", s.Name, s.Path)
	}
	return nil
}

// ValidStreamName tells whether a name can be that of a stream, see
// [transforms.Stream].
func ValidStreamName(name string) bool {
	return name != "" && (name[0] == '_' || validName(name[:1])) && validName("x"+name[1:])
}

func cleanAbs(path string) bool {
	return filepath.IsAbs(path) && filepath.Clean(path) == path && strings.IndexByte(path, 0) < 0
}

func validDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
