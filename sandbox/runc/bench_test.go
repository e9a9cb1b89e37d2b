//go:build linux && cgo && seccomp

package runc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
	"girderworker/sandbox/cgroup"
)

// BenchmarkTrue measures start to exit of /bin/true side by side: a bare
// fork and exec, a container of ours without and with [cgroup.Warm] before it, and `runc run` of
// the same container where runc is installed. One iteration runs each once, so
// that all see the same machine. The figures are medians in milliseconds.
func BenchmarkTrue(b *testing.B) {
	r := testRunner(b)
	base := testSpec(b, "/bin/true")
	n := 0
	ours := func(warm bool) func() time.Duration {
		return func() time.Duration {
			spec := *base
			n++
			spec.ID = "true-" + strconv.Itoa(n)
			spec.Rootfs.Scratch = b.TempDir()
			if warm {
				if err := cgroup.Warm(); err != nil {
					b.Fatal(err)
				}
			}
			begin := time.Now()
			c, err := r.Start(b.Context(), &spec)
			if err != nil {
				b.Fatal(err)
			}
			exit, err := c.Wait(b.Context())
			took := time.Since(begin)
			if err != nil || exit.Code != 0 {
				b.Fatal(exit, err)
			}
			if err := c.Destroy(); err != nil {
				b.Fatal(err)
			}
			return took
		}
	}
	type path struct {
		name string
		run  func() time.Duration
	}
	paths := []path{
		{"bare-ms", func() time.Duration { return timeCommand(b, "/bin/busybox", "true") }},
		{"cold-ms", ours(false)},
		{"warm-ms", ours(true)},
	}
	if _, err := exec.LookPath("runc"); err == nil {
		bundle := runcBundle(b, base)
		paths = append(paths, path{"runc-ms", func() time.Duration {
			return timeCommand(b, "runc", "run", "--bundle", bundle, "girder-worker-bench-"+strconv.Itoa(n))
		}})
	}
	times := make(map[string][]time.Duration)
	for b.Loop() {
		for _, p := range paths {
			// The kernel stays ready for moves between cgroups for a while after
			// one. Nobody shall profit from the one before.
			time.Sleep(50 * time.Millisecond)
			times[p.name] = append(times[p.name], p.run())
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name)
	}
}

func timeCommand(b *testing.B, name string, args ...string) time.Duration {
	begin := time.Now()
	out, err := exec.Command(name, args...).CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		b.Fatalf("%s: %v: %s", name, err, out)
	}
	return took
}

// runcBundle makes a bundle of the container that testSpec describes.
func runcBundle(b *testing.B, spec *sandbox.Spec) string {
	b.Helper()
	bundle, err := os.MkdirTemp("/run", "runc-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(bundle) })
	if err := os.Chmod(bundle, 0o755); err != nil {
		b.Fatal(err)
	}
	rootfs := filepath.Join(bundle, "rootfs")
	if err := os.CopyFS(rootfs, os.DirFS(spec.Rootfs.Layers[0])); err != nil {
		b.Fatal(err)
	}
	err = filepath.WalkDir(rootfs, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, hostRoot, hostRoot)
	})
	if err != nil {
		b.Fatal(err)
	}

	config, err := newConfig(spec, rootfs, "/"+testRoot()+"/runc", maskedPaths(), nil, &configs.Mount{Source: "tmpfs", Destination: "/dev", Device: "tmpfs", Flags: unix.MS_NOSUID | unix.MS_STRICTATIME, Data: "mode=755,size=65536k"}, cgroupMount(), nil)
	if err != nil {
		b.Fatal(err)
	}
	data, err := json.Marshal(runtimeSpec(b, spec, config))
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	return bundle
}

// runtimeSpec writes our configuration in the words of the OCI.
func runtimeSpec(tb testing.TB, spec *sandbox.Spec, c *configs.Config) *specs.Spec {
	tb.Helper()
	caps := &specs.LinuxCapabilities{Bounding: spec.Capabilities, Effective: spec.Capabilities, Permitted: spec.Capabilities}
	s := &specs.Spec{
		Version:  "1.0.2",
		Root:     &specs.Root{Path: c.Rootfs},
		Hostname: c.Hostname,
		Process: &specs.Process{
			Args: spec.Args, Env: spec.Env, Cwd: spec.Cwd, NoNewPrivileges: true,
			Capabilities: caps, OOMScoreAdj: c.OomScoreAdj,
		},
		Linux: &specs.Linux{
			CgroupsPath:   c.Cgroups.Path,
			MaskedPaths:   c.MaskPaths,
			ReadonlyPaths: c.ReadonlyPaths,
			Resources: &specs.LinuxResources{
				CPU:    &specs.LinuxCPU{Quota: &c.Cgroups.CpuQuota, Period: &c.Cgroups.CpuPeriod},
				Memory: &specs.LinuxMemory{Limit: &c.Cgroups.Memory, Swap: &c.Cgroups.MemorySwap},
				Pids:   &specs.LinuxPids{Limit: &spec.Resources.PIDs},
			},
			UIDMappings: []specs.LinuxIDMapping{{HostID: hostRoot, Size: mapSize}},
			GIDMappings: []specs.LinuxIDMapping{{HostID: hostRoot, Size: mapSize}},
		},
	}
	for _, ns := range []specs.LinuxNamespaceType{
		specs.UserNamespace, specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.NetworkNamespace, specs.CgroupNamespace,
	} {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: ns})
	}
	for _, rule := range c.Cgroups.Devices {
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
			Allow: rule.Allow, Type: string(rule.Type), Major: deviceNumber(rule.Major), Minor: deviceNumber(rule.Minor), Access: string(rule.Permissions),
		})
	}
	for _, m := range c.Mounts {
		var options []string
		for _, f := range []struct {
			flag int
			name string
		}{
			{unix.MS_NOSUID, "nosuid"},
			{unix.MS_NODEV, "nodev"},
			{unix.MS_NOEXEC, "noexec"},
			{unix.MS_RDONLY, "ro"},
			{unix.MS_STRICTATIME, "strictatime"},
			{unix.MS_RELATIME, "relatime"},
		} {
			if m.Flags&f.flag != 0 {
				options = append(options, f.name)
			}
		}
		if m.Data != "" {
			options = append(options, m.Data)
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: m.Destination, Type: m.Device, Source: m.Source, Options: options})
	}
	seccomp, err := profile.GetDefaultProfile(s)
	if err != nil {
		tb.Fatal(err)
	}
	s.Linux.Seccomp = seccomp
	return s
}

func deviceNumber(n int64) *int64 {
	if n < 0 {
		return nil
	}
	return &n
}

// BenchmarkParallel runs /bin/true in containers, four at a time.
func BenchmarkParallel(b *testing.B) {
	r := testRunner(b)
	base := testSpec(b, "/bin/true")
	parent := b.TempDir()
	var n atomic.Int64
	b.SetParallelism(max(1, 4/runtime.GOMAXPROCS(0)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			spec := *base
			spec.ID = "parallel-" + strconv.FormatInt(n.Add(1), 10)
			spec.Rootfs.Scratch = filepath.Join(parent, spec.ID)
			err := os.Mkdir(spec.Rootfs.Scratch, 0o711)
			if err == nil {
				err = runToEnd(b, r, &spec)
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "containers/s")
}

func runToEnd(b *testing.B, r *Runner, spec *sandbox.Spec) error {
	c, err := r.Start(b.Context(), spec)
	if err != nil {
		return err
	}
	exit, err := c.Wait(b.Context())
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("it ended with %+v", exit)
	}
	return errors.Join(err, c.Destroy())
}

// BenchmarkPhases measures the parts of the life of a warm container that runs
// /bin/true. The figures are medians in milliseconds.
func BenchmarkPhases(b *testing.B) {
	r := testRunner(b)
	base := testSpec(b, "/bin/true")
	times := make(map[string][]time.Duration)
	n := 0
	for b.Loop() {
		time.Sleep(50 * time.Millisecond)
		spec := *base
		n++
		spec.ID = "phases-" + strconv.Itoa(n)
		spec.Rootfs.Scratch = b.TempDir()
		if err := cgroup.Warm(); err != nil {
			b.Fatal(err)
		}
		last := time.Now()
		lap := func(name string, err error) {
			b.Helper()
			now := time.Now()
			times[name] = append(times[name], now.Sub(last))
			if err != nil {
				b.Fatalf("%s: %v", name, err)
			}
			last = now
		}
		c, config, err := r.prepare(b.Context(), &spec)
		lap("1-prepare-ms", err)
		c.lc, err = libcontainer.Create(c.work.state(), spec.ID, config)
		lap("2-create-ms", err)
		ctl, err := newControl()
		if err == nil {
			err = ctl.sendFilter(c.filter)
		}
		lap("3-control-ms", err)
		null, nullErr := os.OpenFile(filepath.Join(c.work.dev(), "null"), os.O_RDWR, 0)
		if nullErr != nil {
			b.Fatal(nullErr)
		}
		c.process = newProcess(&spec, ctl.child, null)
		err = c.lc.Start(c.process)
		lap("4-start-ms", err)
		ctl.closeChild()
		lap("5-filter-ms", ctl.install())
		_, err = c.exec(ctl)
		lap("6-exec-ms", err)
		_, err = c.process.Wait()
		lap("7-wait-ms", err)
		ctl.close()
		null.Close()
		lap("8-destroy-ms", c.Destroy())
	}
	b.ReportMetric(0, "ns/op")
	for name, all := range times {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, name)
	}
}
