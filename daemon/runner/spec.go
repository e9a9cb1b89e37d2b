package runner

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/sandbox/image"
	"girderworker/transforms"
)

// The real-time signals that the C library leaves to programs.
const realtimeMin, realtimeMax = 34, 64

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// progressVariable names the progress pipe to the container.
	progressVariable = "GIRDER_WORKER_PROGRESS"
)

// newSpec combines the plan with what the image says. Mounts, root file system
// and standard streams are the caller's to add.
func newSpec(r *attempt.Request, config *image.Config) (*sandbox.Spec, error) {
	args, err := command(&r.Plan, config)
	if err != nil {
		return nil, err
	}
	wanted := r.Plan.User
	if wanted == "" {
		wanted = config.User
	}
	who, err := resolveUser(wanted, config)
	if err != nil {
		return nil, err
	}
	stopSignal := r.Plan.StopSignal
	if stopSignal == 0 {
		if stopSignal, err = parseSignal(config.StopSignal); err != nil {
			return nil, err
		}
	}
	hostname := r.Plan.Hostname
	if hostname == "" {
		hostname = r.Job[:min(len(r.Job), 63)]
	}
	if r.Plan.Python != nil && r.Plan.Hostname == "" {
		hostname = "girder-worker" // its container may be older than the job
	}
	cwd := r.Plan.Cwd
	if cwd == "" {
		cwd = config.WorkingDir
	}
	uids := keepID(r.Grant.UIDMappings, who.uid, r.Identity.UID)
	gids := keepID(r.Grant.GIDMappings, who.gid, r.Identity.GID)
	groups, err := addedGroups(who.groups, r.Plan.Options.GroupAdd, config)
	if err != nil {
		return nil, err
	}
	for _, host := range r.Identity.Groups {
		if id, ok := containerID(gids, host); ok {
			groups = append(groups, id)
		}
	}
	var devices []sandbox.Device
	for _, d := range r.Plan.Options.Devices {
		devices = append(devices, sandbox.Device{HostPath: d.Source, Path: cmp.Or(d.Target, d.Source), Access: cmp.Or(d.Access, "rwm")})
	}
	return &sandbox.Spec{
		ID:             path.Base(r.Grant.Cgroup),
		Args:           args,
		Env:            environment(&r.Plan, config, hostname, who.home),
		Cwd:            path.Join("/", cwd),
		Hostname:       hostname,
		User:           sandbox.User{UID: who.uid, GID: who.gid, AdditionalGIDs: distinct(groups, who.gid)},
		UIDMappings:    uids,
		GIDMappings:    gids,
		Capabilities:   capabilities(&r.Plan.Options, r.Grant.Withheld),
		Network:        r.Plan.Network,
		ExtraHosts:     r.Plan.ExtraHosts,
		DNS:            r.Plan.DNS,
		ReadOnlyRootfs: r.Plan.ReadOnlyRootfs,
		StopSignal:     stopSignal,
		Mounts:         r.Plan.Options.Mounts(r.Resources.Memory),
		Rlimits:        r.Plan.Options.Rlimits(),
		Sysctls:        r.Plan.Options.Sysctls,
		Seccomp:        r.Plan.Options.Seccomp,
		NoSetUID:       writesOnHost(&r.Plan),
		Init:           r.Plan.Options.Init,
		Domainname:     r.Plan.Options.Domainname,
		OOMScoreAdj:    r.Plan.Options.OOMScoreAdj,
		Resources: sandbox.Resources{
			CPUs:        r.Resources.CPUs,
			CPUSet:      r.Resources.CPUSet,
			MemorySet:   r.Resources.MemorySet,
			CPUShares:   r.Resources.CPUShares,
			Memory:      r.Resources.Memory,
			Swap:        r.Resources.Swap,
			Reservation: r.Resources.Reservation,
			PIDs:        r.Resources.PIDs,
			Shm:         r.Resources.Shm,
			Devices:     devices,
		},
	}, nil
}

// writesOnHost tells whether the container may write into a directory that
// others on this machine may reach.
func writesOnHost(p *transforms.Plan) bool {
	return slices.ContainsFunc(p.Binds, func(b transforms.Bind) bool { return !b.ReadOnly }) ||
		slices.ContainsFunc(p.Volumes, func(v transforms.Volume) bool { return v.HostDir != "" })
}

// capabilities are the default ones, less what the job drops, and what it adds
// within policy; none that is withheld.
func capabilities(o *transforms.Options, withheld []string) []string {
	caps := slices.DeleteFunc(sandbox.DefaultCapabilities(), func(c string) bool {
		return slices.Contains(o.CapDrop, "ALL") || slices.Contains(o.CapDrop, c)
	})
	for _, c := range o.CapAdd {
		if !slices.Contains(caps, c) {
			caps = append(caps, c)
		}
	}
	caps = slices.DeleteFunc(caps, func(c string) bool { return slices.Contains(withheld, c) })
	slices.Sort(caps) // one compiled filter for one set
	return caps
}

// command is the argument vector by Docker's rules: an entrypoint given
// replaces the image's and makes its command void, arguments given replace the
// image's command.
func command(p *transforms.Plan, config *image.Config) ([]string, error) {
	entrypoint, cmd := config.Entrypoint, config.Cmd
	if p.Entrypoint != nil {
		entrypoint, cmd = p.Entrypoint, nil
	}
	if p.Args != nil {
		cmd = p.Args
	}
	args := append(append([]string{}, entrypoint...), cmd...)
	if len(args) == 0 {
		return nil, errors.New("there is nothing to run: the image has no command and the job gives none; name one after the image")
	}
	if args[0] == "" {
		return nil, errors.New("there is nothing to run: the command is an empty string")
	}
	return args, nil
}

// environment joins the defaults, the image's, ours and the job's; of a key
// that is there more than once the last counts.
func environment(p *transforms.Plan, config *image.Config, hostname, home string) []string {
	all := []string{"PATH=" + defaultPath, "HOSTNAME=" + hostname, "HOME=" + home}
	all = append(all, config.Env...)
	for _, s := range p.Streams {
		if s.Kind == transforms.StreamProgress {
			all = append(all, progressVariable+"="+s.Path)
		}
	}
	all = append(all, p.Env...)

	place := make(map[string]int, len(all))
	env := make([]string, 0, len(all))
	for _, kv := range all {
		key, _, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			continue // of the image's: it means nothing
		}
		if i, seen := place[key]; seen {
			env[i] = kv
			continue
		}
		place[key] = len(env)
		env = append(env, kv)
	}
	return env
}

// parseSignal reads an image's stop signal: "SIGQUIT", "QUIT", "3" or "".
func parseSignal(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, fmt.Errorf("the image's stop signal %d is none: want 1 to 64", n)
		}
		return n, nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMIN+"); ok {
		if n, err := strconv.ParseUint(rest, 10, 5); err == nil && realtimeMin+int(n) <= realtimeMax {
			return realtimeMin + int(n), nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "SIGRTMAX-"); ok {
		if n, err := strconv.ParseUint(rest, 10, 5); err == nil && realtimeMax-int(n) >= realtimeMin {
			return realtimeMax - int(n), nil
		}
	}
	if n := unix.SignalNum(name); n != 0 {
		return int(n), nil
	}
	return 0, fmt.Errorf("the image's stop signal %q is unknown", s)
}

// stopSignalOf is the signal that asks a container to end.
func stopSignalOf(spec *sandbox.Spec) syscall.Signal {
	if spec.StopSignal == 0 {
		return unix.SIGTERM
	}
	return syscall.Signal(spec.StopSignal)
}
