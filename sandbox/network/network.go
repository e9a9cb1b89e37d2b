// Package network is the outside of a container's private network: a TCP/IP
// stack in a process without privileges. The container's packets come to it
// through a tun(4) device; it accepts each connection in the container's place,
// makes one of its own on the machine, and copies between the two.
//
// So nothing of the machine's network changes: no bridge, no address
// translation, no forwarding, nothing that a firewall, Docker or a VPN could
// undo or be upset by, and nothing to be installed. A connection is one that the
// job's submitter makes, and where it may go is decided for each by [Config]. A
// container cannot send a packet to anybody, only data.
//
// # Where a container may connect
//
// By default to every address but those of this machine, which would be behind
// its firewall; of the link, where cloud metadata is; and of groups. Services of
// this machine can be let through one by one. With a list of destinations,
// everything else is refused, and names that are not in it are not resolved: a
// name in the list allows the addresses that our own resolver found for it.
//
// # Goroutines
//
//	Serve     waits for the end of its context
//	dispatch  gVisor's: read packets and hand them out
//	dns       one for each transport, and one for each question (dns.go)
//	one for each direction of each connection, and one that connects (forward.go)
//
// All end with Serve.
package network

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"girderworker/sandbox"

	gvisorlog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// What one container may have at a time. What they bound is this process's
// memory, which is not the container's.
const (
	maxConnections = 768 // of TCP, each with two buffers in the stack
	maxConnecting  = 256
	maxFlows       = 256 // of UDP
	maxQuestions   = 64  // to the resolver
	maxBuffer      = 256 << 10
)

// Config is what the network of one container is made of.
type Config struct {
	Rules sandbox.Network `json:"rules"`
	// Resolv and Hosts are the machine's files, for tests; empty is those in /etc.
	Resolv string `json:"resolv,omitempty"`
	Hosts  string `json:"hosts,omitempty"`
}

// nic is the only one that the stack has.
const nic tcpip.NICID = 1

// server is one network at work.
type server struct {
	rules    *rules
	counts   *counts
	resolver *resolver
	stack    *stack.Stack
	dialer   net.Dialer
	log      *slog.Logger

	ctx   context.Context
	mu    sync.Mutex // held while work grows, which it does no more once ended
	ended bool
	work  sync.WaitGroup
	conns chan struct{} // one token for each TCP connection
	flows chan struct{} // and for each UDP flow
}

// Serve is the network behind tun until ctx ends or the device is gone. It
// closes tun, and returns when everything it started has ended.
func Serve(ctx context.Context, tun *os.File, c Config, log *slog.Logger) (Report, error) {
	return serve(ctx, tun, c, newCounts(), log)
}

func serve(ctx context.Context, tun *os.File, c Config, counts *counts, log *slog.Logger) (Report, error) {
	rules, err := newRules(c.Rules)
	if err != nil {
		tun.Close()
		return Report{}, err
	}
	if c.Resolv == "" {
		c.Resolv = "/etc/resolv.conf"
	}
	if c.Hosts == "" {
		c.Hosts = "/etc/hosts"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{
		rules: rules, counts: counts, log: log, ctx: ctx,
		conns: make(chan struct{}, maxConnections),
		flows: make(chan struct{}, maxFlows),
	}
	s.resolver = newResolver(s, c.Resolv, c.Hosts)

	// A container could fill a log with what gVisor says of its packets.
	gvisorlog.SetTarget(silent{})
	// The stack reads the descriptor itself; the poller must not.
	fd := int(tun.Fd())
	gone := make(chan struct{})
	var once sync.Once
	link, err := fdbased.New(&fdbased.Options{
		FDs: []int{fd}, MTU: sandbox.PrivateMTU, RXChecksumOffload: true,
		ClosedFunc: func(tcpip.Error) { once.Do(func() { close(gone) }) },
	})
	if err != nil {
		tun.Close()
		return Report{}, fmt.Errorf("cannot use the network device: %w", err)
	}
	guard := newGuard(link, counts)
	err = s.setUp(guard)
	close(guard.ready)
	if err != nil {
		tun.Close()
		return Report{}, err
	}
	select {
	case <-ctx.Done():
	case <-gone:
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	cancel()
	s.stack.Close()
	s.stack.Wait()
	s.work.Wait()
	tun.Close()
	return counts.report(), nil
}

type silent struct{}

func (silent) Emit(int, gvisorlog.Level, time.Time, string, ...any) {}

// begin counts work that Serve waits for, unless it has ended.
func (s *server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.work.Add(1)
	}
	return !s.ended
}

// run does work in a goroutine that Serve waits for.
func (s *server) run(f func()) {
	if !s.begin() {
		return
	}
	go func() {
		defer s.work.Done()
		f()
	}()
}

// setUp makes the stack and everything that answers in it.
func (s *server) setUp(link stack.LinkEndpoint) error {
	s.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
	})
	fail := func(err tcpip.Error) error { return fmt.Errorf("cannot set up the network: %s", err) }
	if err := s.stack.CreateNIC(nic, link); err != nil {
		return fail(err)
	}
	for _, gateway := range append([]netip.Addr{sandbox.Gateway4, sandbox.Gateway6}, s.rules.virtual...) {
		protocol := ipv4.ProtocolNumber
		if gateway.Is6() {
			protocol = ipv6.ProtocolNumber
		}
		address := tcpip.ProtocolAddress{Protocol: protocol, AddressWithPrefix: tcpip.AddrFromSlice(gateway.AsSlice()).WithPrefix()}
		if err := s.stack.AddProtocolAddress(nic, address, stack.AddressProperties{}); err != nil {
			return fail(err)
		}
	}
	// It answers for every address there is.
	if err := s.stack.SetPromiscuousMode(nic, true); err != nil {
		return fail(err)
	}
	if err := s.stack.SetSpoofing(nic, true); err != nil {
		return fail(err)
	}
	s.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}, {Destination: header.IPv6EmptySubnet, NIC: nic}})

	sack := tcpip.TCPSACKEnabled(true)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: maxBuffer, Max: maxBuffer}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: maxBuffer, Max: maxBuffer}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &send, &receive} {
		if err := s.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fail(err)
		}
	}
	if err := s.resolver.listen(); err != nil {
		return err
	}
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, tcp.NewForwarder(s.stack, 0, maxConnecting, s.acceptTCP).HandlePacket)
	s.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(s.stack, s.acceptUDP).HandlePacket)
	return nil
}

// closeWith closes c when the server ends, or by what is returned.
func (s *server) closeWith(c io.Closer) (stop func() bool) {
	return context.AfterFunc(s.ctx, func() { _ = c.Close() })
}
