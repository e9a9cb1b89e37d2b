//go:build linux && cgo && seccomp

package runc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// tunnelName is the name that programs expect of an only network device.
const tunnelName = "eth0"

// openTunnel gives the network namespace of a process its device, and returns
// the other end. The namespace belongs to the container's user namespace, so the
// container sees a network like any other, and what was set up here it cannot
// change without CAP_NET_ADMIN.
func openTunnel(pid int) (*os.File, error) {
	type result struct {
		tun *os.File
		err error
	}
	made := make(chan result)
	go func() {
		// A namespace is a thread's; this one ends with its goroutine.
		runtime.LockOSThread()
		tun, err := makeTunnel(fmt.Sprintf("/proc/%d/ns/net", pid))
		made <- result{tun, err}
	}()
	r := <-made
	return r.tun, r.err
}

// makeTunnel moves the calling thread into a network namespace.
func makeTunnel(namespace string) (_ *os.File, err error) {
	ns, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, os.NewSyscallError("setns", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		err = &os.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			err = fmt.Errorf("the kernel's module tun is not there, load it with `modprobe tun`: %w", err)
		}
		return nil, err
	}
	request, err := unix.NewIfreq(tunnelName)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, request))
	}
	// It can be polled only once it is a device.
	tun := os.NewFile(uintptr(fd), "tun")
	if err == nil {
		err = setUpTunnel()
	}
	if err != nil {
		tun.Close()
		return nil, err
	}
	return tun, nil
}

func setUpTunnel() error {
	// The kernel would give the device an address of the link and ask it for
	// routers. It has none of the one and needs none of the other, and a packet
	// is what the network's process is started for.
	v6 := os.WriteFile("/proc/sys/net/ipv6/conf/"+tunnelName+"/addr_gen_mode", []byte("1"), 0) == nil
	link, err := netlink.LinkByName(tunnelName)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMTU(link, sandbox.PrivateMTU); err != nil {
		return fmt.Errorf("cannot set the MTU: %w", err)
	}
	prefixes := []netip.Prefix{sandbox.PrivateAddress4}
	if v6 {
		prefixes = append(prefixes, sandbox.PrivateAddress6)
	}
	for _, p := range prefixes {
		addr := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("cannot add the address %s: %w", p, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot set the device up: %w", err)
	}
	for _, p := range prefixes {
		gateway := sandbox.Gateway4
		if p.Addr().Is6() {
			gateway = sandbox.Gateway6
		}
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("cannot add the route through %s: %w", gateway, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
