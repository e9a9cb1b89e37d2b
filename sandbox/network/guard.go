package network

import (
	"net/netip"

	"girderworker/sandbox"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// guard lets only those packets into the stack that a container has a reason to
// send: from its own address, to one machine, of TCP, UDP or a ping of the
// gateway. The stack would answer for whomever is asked, and a ping that is
// answered by us for a machine which is off is a lie.
type guard struct {
	nested.Endpoint
	counts *counts
	// ready is closed when the stack is complete. The packet for which this
	// process was started waits already, and would be answered with a refusal.
	ready chan struct{}
}

func newGuard(link stack.LinkEndpoint, counts *counts) *guard {
	g := &guard{counts: counts, ready: make(chan struct{})}
	g.Init(link, g)
	return g
}

// DeliverNetworkPacket implements [stack.NetworkDispatcher].
func (g *guard) DeliverNetworkPacket(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	<-g.ready
	from, to, transport, ok := addresses(protocol, pkt)
	switch {
	case !ok:
	case from != sandbox.PrivateAddress4.Addr() && from != sandbox.PrivateAddress6.Addr():
		if !from.IsLinkLocalUnicast() && !from.IsUnspecified() { // what a kernel says to itself
			g.counts.refused("packets from "+from.String(), "not the container's address")
		}
	case to.IsMulticast():
		// A kernel tells of itself in groups; nobody listens.
	case transport == uint8(header.TCPProtocolNumber), transport == uint8(header.UDPProtocolNumber),
		transport == header.IPv6FragmentHeader:
		g.Endpoint.DeliverNetworkPacket(protocol, pkt)
	case transport == uint8(header.ICMPv4ProtocolNumber), transport == uint8(header.ICMPv6ProtocolNumber):
		if to == sandbox.Gateway4 || to == sandbox.Gateway6 {
			g.Endpoint.DeliverNetworkPacket(protocol, pkt)
		}
	}
}

// addresses looks at the fixed part of a packet's header.
func addresses(protocol tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) (from, to netip.Addr, transport uint8, ok bool) {
	switch protocol {
	case header.IPv4ProtocolNumber:
		b, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
		if !ok {
			return from, to, 0, false
		}
		ip := header.IPv4(b)
		return netip.AddrFrom4(ip.SourceAddress().As4()), netip.AddrFrom4(ip.DestinationAddress().As4()), ip.Protocol(), true
	case header.IPv6ProtocolNumber:
		b, ok := pkt.Data().PullUp(header.IPv6MinimumSize)
		if !ok {
			return from, to, 0, false
		}
		ip := header.IPv6(b)
		return netip.AddrFrom16(ip.SourceAddress().As16()), netip.AddrFrom16(ip.DestinationAddress().As16()), ip.NextHeader(), true
	}
	return from, to, 0, false
}
