package attempt

import (
	"fmt"
	"net/url"
	"path"
	"strings"

	"girderworker/transforms"
)

// Bounds of what a plan moves.
const (
	maxVolumes = 64
	maxGirders = 64
	maxFetches = 4096
	maxHooks   = 1024
	maxInserts = 16384
)

// validateMoves holds what a plan fetches and uploads against the contract:
// every name refers to something, and every path stays where it belongs.
func validateMoves(p *transforms.Plan) error {
	for _, list := range []struct {
		what string
		n    int
		most int
	}{
		{"volumes", len(p.Volumes), maxVolumes}, {"Girder servers", len(p.Girders), maxGirders},
		{"fetches", len(p.Fetches), maxFetches}, {"hooks", len(p.Hooks), maxHooks}, {"insertions", len(p.Inserts), maxInserts},
	} {
		if list.n > list.most {
			return fmt.Errorf("%d %s, at most %d", list.n, list.what, list.most)
		}
	}
	places := names{what: "volume"}
	for _, v := range p.Volumes {
		if err := places.add(v.Name); err != nil {
			return err
		}
		if !cleanAbs(v.Target) || v.Target == "/" {
			return fmt.Errorf("volume %s: target %q: want a clean absolute path, and not the root", v.Name, v.Target)
		}
		if v.Mode > 0o7777 {
			return fmt.Errorf("volume %s: mode %#o", v.Name, v.Mode)
		}
		if v.HostDir != "" && !cleanAbs(v.HostDir) {
			return fmt.Errorf("volume %s: host_dir %q: want a clean absolute path", v.Name, v.HostDir)
		}
	}
	for _, b := range p.Binds {
		if b.Name == "" {
			continue
		}
		if err := places.add(b.Name); err != nil {
			return err
		}
	}
	girders := names{what: "Girder server"}
	for _, g := range p.Girders {
		if err := girders.add(g.Name); err != nil {
			return err
		}
		if !webAddress(g.URL) {
			return fmt.Errorf("server %s: url %q: want http:// or https://, a host and no password", g.Name, g.URL)
		}
	}
	fetches := names{what: "fetch"}
	for _, f := range p.Fetches {
		if err := fetches.add(f.Name); err != nil {
			return err
		}
		switch {
		case f.Kind != transforms.FetchFile && f.Kind != transforms.FetchItem && f.Kind != transforms.FetchFolder:
			return fmt.Errorf("fetch %s: unknown kind %q", f.Name, f.Kind)
		case !girders.seen[f.Girder]:
			return fmt.Errorf("fetch %s: there is no Girder server %q", f.Name, f.Girder)
		case !places.seen[f.Into]:
			return fmt.Errorf("fetch %s: there is no volume %q", f.Name, f.Into)
		case f.Direct != "" && (!cleanAbs(f.Direct) || f.Kind != transforms.FetchFile):
			return fmt.Errorf("fetch %s: direct %q: want a clean absolute path, of a file", f.Name, f.Direct)
		case !transforms.ValidID(f.ID):
			return fmt.Errorf("fetch %s: id %q: want 24 hexadecimal digits", f.Name, f.ID)
		case f.Rename != "" && (!cleanRel(f.Rename) || f.Rename == "."):
			return fmt.Errorf("fetch %s: name %q: want a path within the volume", f.Name, f.Rename)
		}
	}
	if err := validateInserts(p, fetches, girders); err != nil {
		return err
	}
	hooks := names{what: "hook"}
	for _, h := range p.Hooks {
		if err := hooks.add(h.Name); err != nil {
			return err
		}
		switch {
		case h.Kind != transforms.HookItem && h.Kind != transforms.HookFolder && h.Kind != transforms.HookArtifact:
			return fmt.Errorf("hook %s: unknown kind %q", h.Name, h.Kind)
		case !girders.seen[h.Girder]:
			return fmt.Errorf("hook %s: there is no Girder server %q", h.Name, h.Girder)
		case !places.seen[h.From]:
			return fmt.Errorf("hook %s: there is no volume %q", h.Name, h.From)
		case !transforms.ValidID(h.ID):
			return fmt.Errorf("hook %s: id %q: want 24 hexadecimal digits", h.Name, h.ID)
		case !cleanRel(h.Path):
			return fmt.Errorf("hook %s: path %q: want a path within the volume", h.Name, h.Path)
		}
	}
	return validateEnds(p, girders)
}

// validateInserts holds what goes into the command and the environment against
// the contract.
func validateInserts(p *transforms.Plan, fetches, girders names) error {
	lists := map[transforms.InsertionList][]string{
		transforms.InsertArgs: p.Args, transforms.InsertEntrypoint: p.Entrypoint, transforms.InsertEnv: p.Env,
	}
	type text struct {
		list  transforms.InsertionList
		index int
	}
	last := map[text]int{}
	for _, i := range p.Inserts {
		list, known := lists[i.List]
		at := text{i.List, i.Arg}
		switch {
		case !known || i.Arg < 0 || i.Arg >= len(list):
			return fmt.Errorf("an insertion into text %d of the list %q, which there is not", i.Arg, i.List)
		case i.At < last[at] || i.At > len(list[i.Arg]):
			return fmt.Errorf("an insertion at byte %d of argument %d: before the last one or beyond the end", i.At, i.Arg)
		case (i.Fetch == "") == (i.Token == ""):
			return fmt.Errorf("an insertion into argument %d: want a fetch or a token", i.Arg)
		case i.Fetch != "" && !fetches.seen[i.Fetch]:
			return fmt.Errorf("an argument names the fetch %q, which is none", i.Fetch)
		case i.Token != "" && !girders.seen[i.Token]:
			return fmt.Errorf("an argument names the token of the Girder server %q, which is none", i.Token)
		}
		last[at] = i.At
	}
	return nil
}

func webAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

// validateEnds holds the streams' ends on the host against the contract.
func validateEnds(p *transforms.Plan, girders names) error {
	for _, s := range p.Streams {
		reads := s.Kind == transforms.StreamInput || s.Kind == transforms.StreamStdin
		ends := 0
		for _, set := range []bool{s.File != "", s.Girder != nil, s.HTTP != nil, s.Log != ""} {
			if set {
				ends++
			}
		}
		switch {
		case s.Kind == transforms.StreamProgress && ends > 0:
			return fmt.Errorf("stream %s: progress goes to the job's record and nowhere else", s.Name)
		case s.Kind != transforms.StreamProgress && ends != 1:
			return fmt.Errorf("stream %s: %d ends on the host, want one", s.Name, ends)
		case s.File != "" && !cleanAbs(s.File):
			return fmt.Errorf("stream %s: file %q: want a clean absolute path", s.Name, s.File)
		case s.Girder != nil && (!reads || !girders.seen[s.Girder.Girder] || !transforms.ValidID(s.Girder.ID)):
			return fmt.Errorf("stream %s: a file of Girder is only read, from a server of the plan, by its id", s.Name)
		case s.HTTP != nil && (reads || !webAddress(s.HTTP.URL)):
			return fmt.Errorf("stream %s: an HTTP target is only written, and has http:// or https:// and a host", s.Name)
		case s.Log != "" && (reads || s.Log != "stdout" && s.Log != "stderr"):
			return fmt.Errorf("stream %s: log %q: want stdout or stderr, of an output", s.Name, s.Log)
		}
	}
	return nil
}

// names are those of one kind.
type names struct {
	what string
	seen map[string]bool
}

func (n *names) add(name string) error {
	if !ValidStreamName(name) {
		return fmt.Errorf("%s name %q", n.what, name)
	}
	if n.seen[name] {
		return fmt.Errorf("two of the kind %s are named %q", n.what, name)
	}
	if n.seen == nil {
		n.seen = map[string]bool{}
	}
	n.seen[name] = true
	return nil
}

func cleanRel(p string) bool {
	return p != "" && p[0] != '/' && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../") &&
		strings.IndexByte(p, 0) < 0 && len(p) < 4096
}
