package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// inside is a network namespace with a device of the kind that a container has,
// and [Serve] behind it.
type inside struct {
	t      testing.TB
	do     chan func()
	end    context.CancelFunc
	counts *counts
	report chan Report
}

func newInside(t testing.TB, c Config) *inside {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	i := &inside{t: t, do: make(chan func()), counts: newCounts(), report: make(chan Report, 1)}
	type device struct {
		tun *os.File
		err error
	}
	made := make(chan device)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
		tun, err := newDevice()
		made <- device{tun, err}
		for f := range i.do {
			f()
		}
	}()
	d := <-made
	if d.err != nil {
		t.Fatal(d.err)
	}
	ctx, end := context.WithCancel(context.Background())
	i.end = end
	go func() {
		report, err := serve(ctx, d.tun, c, i.counts, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(err)
		}
		i.report <- report
	}()
	t.Cleanup(func() { i.finish() })
	return i
}

// finish ends the network and returns what it counted.
func (i *inside) finish() Report {
	i.end()
	r := <-i.report
	i.report <- r
	return r
}

// run runs f in the namespace.
func (i *inside) run(f func()) {
	done := make(chan struct{})
	i.do <- func() {
		defer close(done)
		f()
	}
	<-done
}

// dial connects from inside.
func (i *inside) dial(network, address string) (conn net.Conn, err error) {
	i.run(func() {
		if network == "udp" {
			conn, err = net.DialUDP(network, nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
			return
		}
		conn, err = net.DialTCP(network, nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	})
	return conn, err
}

func newDevice() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq("eth0")
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, err
	}
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	err = netlink.LinkSetMTU(link, sandbox.PrivateMTU)
	for _, p := range []netip.Prefix{sandbox.PrivateAddress4, sandbox.PrivateAddress6} {
		err = errors.Join(err, netlink.AddrAdd(link, &netlink.Addr{
			IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD,
		}))
	}
	err = errors.Join(err, netlink.LinkSetUp(link))
	for _, g := range []netip.Addr{sandbox.Gateway4, sandbox.Gateway6} {
		err = errors.Join(err, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: g.AsSlice()}))
	}
	return os.NewFile(uintptr(fd), "tun"), err
}

// listen serves TCP on this machine's loopback interface.
func listen(t testing.TB, serve func(*net.TCPConn)) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	_, port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func letThrough(ports ...string) Config {
	var c Config
	for _, p := range ports {
		c.Rules.Host = append(c.Rules.Host, "127.0.0.1:"+p)
	}
	return c
}

// TestEnds: each way in which a connection can end arrives as what it is.
func TestEnds(t *testing.T) {
	heard := make(chan error, 1)
	whole := listen(t, func(c *net.TCPConn) {
		io.WriteString(c, "whole")
	})
	broken := listen(t, func(c *net.TCPConn) {
		io.WriteString(c, "half")
		io.ReadFull(c, make([]byte, 1)) // the half has arrived
		c.SetLinger(0)
	})
	halfClosed := listen(t, func(c *net.TCPConn) {
		data, err := io.ReadAll(c) // until the other side has said all
		fmt.Fprintf(c, "%d bytes, %v", len(data), err)
	})
	aborted := listen(t, func(c *net.TCPConn) {
		io.WriteString(c, "go")
		_, err := io.ReadAll(c)
		heard <- err
	})
	in := newInside(t, letThrough(whole, broken, halfClosed, aborted))
	get := func(port string) *net.TCPConn {
		c, err := in.dial("tcp", "198.18.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	if data, err := io.ReadAll(get(whole)); string(data) != "whole" || err != nil {
		t.Errorf("whole: %q, %v", data, err)
	}
	c := get(broken)
	half := make([]byte, 4)
	if _, err := io.ReadFull(c, half); err != nil {
		t.Error(err)
	}
	c.Write([]byte{1})
	if _, err := c.Read(half); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection that was reset outside: %v inside", err)
	}
	c = get(halfClosed)
	big := make([]byte, 10<<20)
	if _, err := c.Write(big); err != nil {
		t.Error(err)
	}
	c.CloseWrite()
	if data, err := io.ReadAll(c); string(data) != fmt.Sprintf("%d bytes, <nil>", len(big)) || err != nil {
		t.Errorf("half closed: %q, %v", data, err)
	}
	c = get(aborted)
	io.ReadFull(c, half[:2])
	c.SetLinger(0)
	c.Close()
	if err := <-heard; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection that was reset inside: %v outside", err)
	}
	if _, err := in.dial("tcp", "198.18.0.1:1"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port that is not let through: %v", err)
	}
	if r := in.finish(); r.Connections != 4 || r.Refused != 1 {
		t.Errorf("counted %+v", r)
	}
}

// TestSpoofedSource: packets from another address get no answer, and are counted.
func TestSpoofedSource(t *testing.T) {
	port := listen(t, func(c *net.TCPConn) { io.WriteString(c, "reached") })
	in := newInside(t, letThrough(port))
	var err error
	in.run(func() {
		var link netlink.Link
		if link, err = netlink.LinkByName("eth0"); err == nil {
			err = netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 9, 9), Mask: net.CIDRMask(32, 32)}})
		}
		if err != nil {
			return
		}
		var fd int
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 9, 9, 9}}),
			unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: [4]byte{198, 18, 0, 1}, Port: 53}))
	})
	if err != nil {
		t.Fatal(err)
	}
	// The stack looks at several flows at a time.
	const target = "packets from 10.9.9.9 (not the container's address)"
	for in.counts.report().Targets[target] == 0 {
		time.Sleep(time.Millisecond)
	}
	c, err := in.dial("tcp", "198.18.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if r := in.finish(); r.Targets[target] != 1 {
		t.Errorf("counted %+v", r)
	}
}

// TestNames: a machine whose name server is a stub on localhost, or off.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	resolv, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	for name, text := range map[string]string{resolv: "nameserver 127.77.0.1\nnameserver 127.77.0.53\n", hosts: "10.1.2.3 girder.lab\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody answers at the first.
	stub, err := net.ListenPacket("udp", "127.77.0.53:53")
	if err != nil {
		t.Skipf("port 53 of a loopback address is needed: %v", err)
	}
	defer stub.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := stub.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil {
				continue
			}
			m.Response = true
			addr := [4]byte{203, 0, 113, 9}
			if strings.HasPrefix(m.Questions[0].Name.String(), "rebind.") {
				addr = [4]byte{127, 0, 0, 1}
			}
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.AResource{A: addr},
			}}
			// First one that somebody else could have sent.
			forged := m
			forged.ID++
			for _, answer := range []dnsmessage.Message{forged, m} {
				if packed, err := answer.Pack(); err == nil {
					stub.WriteTo(packed, from)
				}
			}
		}
	}()
	in := newInside(t, Config{Resolv: resolv, Hosts: hosts, Rules: sandbox.Network{Narrow: true, Allow: []string{"*.example:443", "girder.lab:80"}}})
	ask := func(network, name string) string {
		t.Helper()
		c, err := in.dial(network, "198.18.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		m := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 99, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		}
		packed, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 512)
		if network == "tcp" {
			if err := writeFramed(c, packed); err != nil {
				t.Fatal(err)
			}
			if buf, err = readFramed(c); err != nil {
				t.Fatal(err)
			}
		} else {
			c.Write(packed)
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			buf = buf[:n]
		}
		var answer dnsmessage.Message
		if err := answer.Unpack(buf); err != nil || answer.ID != 99 {
			t.Fatalf("%s: answer %+v, %v", name, answer, err)
		}
		text := strings.TrimPrefix(answer.RCode.String(), "RCode")
		for _, a := range answer.Answers {
			if r, ok := a.Body.(*dnsmessage.AResource); ok {
				text += " " + netip.AddrFrom4(r.A).String()
			}
		}
		return text
	}
	for _, c := range []struct{ network, name, want string }{
		{"udp", "a.example.", "Success 203.0.113.9"},
		{"udp", "GIRDER.lab.", "Success 10.1.2.3"},
		{"tcp", "girder.lab.", "Success 10.1.2.3"},
		{"udp", "elsewhere.org.", "Refused"},
		{"udp", "example.", "Refused"},
		{"udp", "rebind.example.", "Success 127.0.0.1"},
		{"tcp", "b.example.", "ServerFailure"}, // the stub speaks UDP only
		{"udp", "b.example.", "ServerFailure"}, // and is left alone for a while after that
	} {
		if got := ask(c.network, c.name); got != c.want {
			t.Errorf("%s over %s: got %s, want %s", c.name, c.network, got, c.want)
		}
	}
	if got, why := in.dial("tcp", "198.18.0.1:443"); why == nil {
		got.Close()
		t.Error("the gateway has a port 443")
	}
}

// TestLimits: a container that opens connections without end gets no more than
// its share, and those it has go on.
func TestLimits(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a thousand connections")
	}
	hold := make(chan struct{})
	port := listen(t, func(c *net.TCPConn) { <-hold })
	in := newInside(t, letThrough(port))
	var open []net.Conn
	defer func() {
		close(hold)
		for _, c := range open {
			c.Close()
		}
	}()
	for {
		c, err := in.dial("tcp", "198.18.0.1:"+port)
		if errors.Is(err, unix.ECONNREFUSED) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if open = append(open, c); len(open) > maxConnections {
			t.Fatalf("%d connections at a time", len(open))
		}
	}
	if len(open) != maxConnections {
		t.Errorf("%d connections at a time, want %d", len(open), maxConnections)
	}
}

// BenchmarkNetwork moves data from a server on loopback, through the network
// and beside it.
func BenchmarkNetwork(b *testing.B) {
	const size = 64 << 20
	chunk := make([]byte, 256<<10)
	port := listen(b, func(c *net.TCPConn) {
		for range size / len(chunk) {
			if _, err := c.Write(chunk); err != nil {
				return
			}
		}
	})
	in := newInside(b, letThrough(port))
	for name, dial := range map[string]func() (net.Conn, error){
		"private":  func() (net.Conn, error) { return in.dial("tcp", "198.18.0.1:"+port) },
		"loopback": func() (net.Conn, error) { return net.Dial("tcp", "127.0.0.1:"+port) },
	} {
		b.Run("download/"+name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				c, err := dial()
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.CopyBuffer(writer{}, c, make([]byte, 256<<10))
				c.Close()
				if n != size || err != nil {
					b.Fatal(n, err)
				}
			}
		})
		b.Run("connect/"+name, func(b *testing.B) {
			for b.Loop() {
				c, err := dial()
				if err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

type writer struct{}

func (writer) Write(p []byte) (int, error) { return len(p), nil }
