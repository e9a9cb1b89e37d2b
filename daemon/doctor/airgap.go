package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Apart runs this program again, with args, where there is no network but a
// loopback interface of its own: a network namespace. An ordinary user needs a
// user namespace for that, in which nothing but the network is another.
func Apart(ctx context.Context, self, args []string, stdout, stderr *os.File) (code int, err error) {
	cmd := exec.CommandContext(ctx, self[0], append(self[1:len(self):len(self)], args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has things to put away
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot leave the network, try as root: %w", err)
	}
	return 0, nil
}

// Airgap examines as Run does, in the namespace that [Apart] made, and adds the
// proof: nothing but a loopback interface was there, so that no packet can have
// left; and the kernel counted no attempt to reach an address elsewhere.
func Airgap(ctx context.Context, o Options) bool {
	o.Offline = true
	if others, err := elsewhere(); err != nil || len(others) > 0 {
		o.Found(Finding{Check: "airgap", Level: Failure, Text: fmt.Sprintf("there is a network here: %s %v", strings.Join(others, ", "), err)})
		return false
	}
	_ = loopbackUp() // an ordinary user may not, and nothing here needs it
	before, err := attempts()
	well := Run(ctx, o)
	after, err2 := attempts()
	f := Finding{Check: "airgap", Level: OK}
	switch others, lookErr := elsewhere(); {
	case errors.Join(err, err2, lookErr) != nil:
		f.Level, f.Text = Failure, errors.Join(err, err2, lookErr).Error()
	case len(others) > 0:
		f.Level, f.Text = Failure, "a network came up meanwhile: "+strings.Join(others, ", ")
	case after != before:
		f.Level, f.Text = Failure, fmt.Sprintf("something tried %d times to reach another machine", after-before)
		f.Hint = "`strace -f -e connect,sendto girder-worker doctor --airgap` shows what"
	default:
		f.Text = "all of this ran with a loopback interface and nothing else; nothing tried to reach another machine"
		if !o.own() {
			f.Text += ". Of the daemon, which is not in there, this says nothing: as root, the container runs through one that is"
		}
	}
	o.Found(f)
	return well && f.Level == OK
}

func (o *Options) own() bool { return os.Geteuid() == 0 }

// elsewhere are the interfaces that are not the loopback's.
func elsewhere() (names []string, err error) {
	all, err := net.Interfaces()
	for _, i := range all {
		// Modules for tunnels put a device without an address into each namespace; only
		// one that is up could send.
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			names = append(names, i.Name)
		}
	}
	return names, err
}

// attempts is how often somebody in this network namespace asked for an address
// to which there is no way.
func attempts() (n int64, err error) {
	text, err := os.ReadFile("/proc/thread-self/net/snmp")
	if err != nil {
		return 0, err
	}
	text6, err := os.ReadFile("/proc/thread-self/net/snmp6") // absent without IPv6
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	counters := map[string]int64{}
	var names []string
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "Ip:" {
			if names == nil {
				names = f
				continue
			}
			for i := range f {
				var v int64
				if _, err := fmt.Sscan(f[i], &v); err == nil && i < len(names) {
					counters[names[i]] = v
				}
			}
		}
	}
	if _, ok := counters["OutNoRoutes"]; !ok {
		return 0, errors.New("the kernel does not tell OutNoRoutes")
	}
	for l := range strings.Lines(string(text6)) {
		if f := strings.Fields(l); len(f) == 2 && f[0] == "Ip6OutNoRoutes" {
			var v int64
			if _, err := fmt.Sscan(f[1], &v); err == nil {
				n += v
			}
		}
	}
	return n + counters["OutNoRoutes"], nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}
