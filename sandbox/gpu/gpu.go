// Package gpu knows the GPUs of this machine, by the Container Device Interface
// (github.com/cncf-tags/container-device-interface, SPEC.md): files that an admin,
// or a vendor's tool, keeps in /etc/cdi or /var/run/cdi. They say for each device
// which nodes, files and variables a container needs to use it.
//
// The files are configuration of the machine and read as such: one that somebody
// else than root could have written is not read at all.
package gpu

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"girderworker/sandbox"
)

// DefaultDirs are where CDI files are; of two that name one device, the one of
// the later directory counts.
var DefaultDirs = []string{"/etc/cdi", "/var/run/cdi"}

// DefaultKinds are the kinds of device that are GPUs.
var DefaultKinds = []string{"nvidia.com/gpu", "amd.com/gpu", "intel.com/gpu"}

// DefaultHooks are the programs that may prepare a container for a device.
var DefaultHooks = []string{"/usr/bin/nvidia-cdi-hook", "/usr/bin/nvidia-ctk"}

// maxHook is how long such a program may take.
const maxHook = 30 * time.Second

// Inventory is what the files said when they were read.
type Inventory struct {
	// Devices are all GPUs, each once, by their qualified names
	// ("nvidia.com/gpu=0"), sorted as a person would.
	Devices []string
	// Problems are files and devices that were left out, for the admin.
	Problems []error

	byName map[string]device
	same   map[string]string // of Devices, by all their names
}

type device struct {
	own    specs.ContainerEdits // of the device
	common specs.ContainerEdits // of the whole file
	file   string
}

// Read reads the files. A directory that is not there has none. Kinds are
// vendor/class; devices of other kinds are no GPUs.
func Read(dirs, kinds []string) *Inventory {
	inv := &Inventory{byName: map[string]device{}, same: map[string]string{}}
	for priority, dir := range dirs {
		files, err := specFiles(dir)
		if err != nil {
			inv.Problems = append(inv.Problems, err)
		}
		found := map[string]device{}
		for _, file := range files {
			spec, err := readSpec(file, priority)
			if err != nil {
				inv.Problems = append(inv.Problems, err)
				continue
			}
			if !slices.Contains(kinds, spec.Kind) {
				continue
			}
			for _, d := range spec.Devices {
				name := spec.Kind + "=" + d.Name
				if other, twice := found[name]; twice {
					inv.Problems = append(inv.Problems, fmt.Errorf("cannot use %s: both %s and %s name it", name, other.file, file))
					continue
				}
				if err := present(&d.ContainerEdits); err != nil {
					inv.Problems = append(inv.Problems, fmt.Errorf("cannot use %s: %w", name, err))
					continue
				}
				found[name] = device{own: d.ContainerEdits, common: spec.ContainerEdits, file: file}
			}
		}
		for name, d := range found {
			inv.byName[name] = d
		}
	}
	inv.choose()
	return inv
}

// present tells whether a device's nodes are there: its file may outlive them.
func present(edits *specs.ContainerEdits) error {
	for _, n := range edits.DeviceNodes {
		if _, err := os.Stat(cmp.Or(n.HostPath, n.Path)); err != nil {
			return err
		}
	}
	return nil
}

// choose finds the GPUs among the names. A vendor's tool writes each device under
// its index, and again under its UUID, and all of them as "all": the same nodes
// are the same device, and what is made of several is none.
func (inv *Inventory) choose() {
	byNodes := map[string][]string{}
	for name, d := range inv.byName {
		kind, bare, _ := strings.Cut(name, "=")
		if bare == "all" {
			continue
		}
		nodes := kind
		for _, n := range d.own.DeviceNodes {
			nodes += "\x00" + cmp.Or(n.HostPath, n.Path)
		}
		if len(d.own.DeviceNodes) == 0 {
			nodes += "\x00\x00" + bare // of a kind that needs none of its own
		}
		byNodes[nodes] = append(byNodes[nodes], name)
	}
	for _, names := range byNodes {
		first := slices.MinFunc(names, byIndex)
		inv.Devices = append(inv.Devices, first)
		for _, name := range names {
			inv.same[name] = first
		}
	}
	slices.SortFunc(inv.Devices, byIndex)
}

// Find is the device that somebody means: by a qualified name, or by an index or a
// UUID alone, as its vendor's tools have it.
func (inv *Inventory) Find(name string) (string, error) {
	if found, ok := inv.same[name]; ok {
		return found, nil
	}
	var found []string
	for qualified, device := range inv.same {
		if _, bare, _ := strings.Cut(qualified, "="); bare == name {
			found = append(found, device)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("there is no GPU %.80q; there are %s", name, cmp.Or(strings.Join(inv.Devices, ", "), "none"))
	}
	slices.SortFunc(found, byIndex)
	return "", fmt.Errorf("%.80q may be %s; name it in full", name, strings.Join(found, " or "))
}

// byIndex sorts numbers as numbers, and before names.
func byIndex(a, b string) int {
	kindA, bareA, _ := strings.Cut(a, "=")
	kindB, bareB, _ := strings.Cut(b, "=")
	if c := strings.Compare(kindA, kindB); c != 0 {
		return c
	}
	x, errA := strconv.Atoi(bareA)
	y, errB := strconv.Atoi(bareB)
	switch {
	case errA == nil && errB == nil:
		return cmp.Compare(x, y)
	case errA == nil:
		return -1
	case errB == nil:
		return 1
	}
	return strings.Compare(bareA, bareB)
}

// specFiles lists the files of a directory that only root can change.
func specFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && len(entries) > 0 {
		err = rootOnly(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the GPUs in %s: %w", dir, err)
	}
	var files []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".json" || ext == ".yaml" {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// maxSpec bounds a file; nvidia-ctk's have some 20 KiB.
const maxSpec = 4 << 20

func readSpec(file string, priority int) (*specs.Spec, error) {
	err := rootOnly(file)
	if err == nil {
		var fi fs.FileInfo
		if fi, err = os.Stat(file); err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxSpec) {
			err = errors.New("it is no file of a sensible size")
		}
	}
	var spec *cdi.Spec
	if err == nil {
		spec, err = cdi.ReadSpec(file, priority)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the GPUs in %s: %w", file, err)
	}
	return spec.Spec, nil
}

// rootOnly refuses what somebody else than root could have changed: the file
// itself, or any directory on the way to it.
func rootOnly(path string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	for {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Uid != 0 {
			return fmt.Errorf("%s belongs to user %d and not to root", path, st.Uid)
		}
		if st.Mode&0o022 != 0 {
			return fmt.Errorf("others than root may write to %s", path)
		}
		if path == "/" {
			return nil
		}
		path = filepath.Dir(path)
	}
}

// Apply adds to a container what it needs for the devices, in the order of names.
// hooks are the programs that may be run. The caller closes the sources of mounts
// that were added, also after an error.
func (inv *Inventory) Apply(spec *sandbox.Spec, names, hooks []string) error {
	applied := map[string]bool{}
	for _, name := range names {
		d, ok := inv.byName[name]
		if !ok {
			return fmt.Errorf("cannot give the job %s: it is not there any more", name)
		}
		if !applied[d.file] {
			applied[d.file] = true
			if err := apply(spec, &d.common, hooks); err != nil {
				return fmt.Errorf("cannot give the job %s, by %s: %w", name, d.file, err)
			}
		}
		if err := apply(spec, &d.own, hooks); err != nil {
			return fmt.Errorf("cannot give the job %s, by %s: %w", name, d.file, err)
		}
	}
	return nil
}

func apply(spec *sandbox.Spec, edits *specs.ContainerEdits, hooks []string) error {
	for _, kv := range edits.Env {
		spec.Env = setEnv(spec.Env, kv)
	}
	for _, n := range edits.DeviceNodes {
		access := n.Permissions
		if access == "" {
			access = "rwm"
		}
		d := sandbox.Device{HostPath: cmp.Or(n.HostPath, n.Path), Path: n.Path, Access: access, Own: true}
		if !slices.Contains(spec.Resources.Devices, d) {
			spec.Resources.Devices = append(spec.Resources.Devices, d)
		}
	}
	for _, m := range edits.Mounts {
		if m.Type == "tmpfs" {
			return fmt.Errorf("%s: a tmpfs is not supported", m.ContainerPath)
		}
		if slices.ContainsFunc(spec.Mounts, func(have sandbox.Mount) bool {
			return have.Target == m.ContainerPath && have.Source != nil && have.Source.Name() == m.HostPath
		}) {
			continue // by another device of the same file
		}
		fd, err := unix.Open(m.HostPath, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: m.HostPath, Err: err}
		}
		spec.Mounts = append(spec.Mounts, sandbox.Mount{
			Source: os.NewFile(uintptr(fd), m.HostPath), Target: m.ContainerPath,
			ReadOnly: !slices.Contains(m.Options, "rw"), Recursive: slices.Contains(m.Options, "rbind"),
		})
	}
	for _, h := range edits.Hooks {
		if err := addHook(spec, h, hooks); err != nil {
			return err
		}
	}
	if edits.IntelRdt != nil || len(edits.NetDevices) > 0 {
		return errors.New("it asks for more than nodes, files, variables and hooks")
	}
	// Groups: a container's nodes are its own, so none is needed to use them.
	return nil
}

// addHook accepts a program that the machine's configuration names, at the one
// stage at which it runs in the container's user namespace, without any power
// over the machine. Its environment is its own: not the image's and not the job's.
func addHook(spec *sandbox.Spec, h *specs.Hook, allowed []string) error {
	if h.HookName != "createContainer" {
		return fmt.Errorf("the hook %s at %s would be run with the machine's privileges, which none is", h.Path, h.HookName)
	}
	if !slices.Contains(allowed, h.Path) {
		return fmt.Errorf("the hook %s is not among those of the configuration (gpus.hooks)", h.Path)
	}
	if err := rootOnly(h.Path); err != nil {
		return fmt.Errorf("the hook %s is not safe: %w", h.Path, err)
	}
	timeout := maxHook
	if h.Timeout != nil && *h.Timeout > 0 {
		timeout = min(timeout, time.Duration(*h.Timeout)*time.Second)
	}
	hook := sandbox.Hook{Path: h.Path, Args: h.Args, Env: append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, h.Env...), Timeout: timeout}
	if !slices.ContainsFunc(spec.Hooks, func(have sandbox.Hook) bool {
		return have.Path == hook.Path && slices.Equal(have.Args, hook.Args)
	}) {
		spec.Hooks = append(spec.Hooks, hook)
	}
	return nil
}

func setEnv(env []string, kv string) []string {
	key, _, _ := strings.Cut(kv, "=")
	for i, have := range env {
		if name, _, _ := strings.Cut(have, "="); name == key {
			env[i] = kv
			return env
		}
	}
	return append(env, kv)
}
