package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// connectPatience is how long a machine may take to answer.
	connectPatience = 30 * time.Second
	// udpIdle is how long a UDP flow without a packet is kept.
	udpIdle = 90 * time.Second
	// probeAfter is how soon a TCP connection that lost its other end is found.
	probeAfter = time.Minute
)

// destination is where a packet of the container was sent.
func destination(id stack.TransportEndpointID) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(id.LocalAddress.AsSlice())
	return netip.AddrPortFrom(addr, id.LocalPort)
}

// acceptTCP connects in the container's place and answers as the other side
// did: what is refused there is refused here. It has a goroutine of its own.
func (s *server) acceptTCP(r *tcp.ForwarderRequest) {
	if !s.begin() {
		r.Complete(true)
		return
	}
	defer s.work.Done()
	to := destination(r.ID())
	target, why := s.rules.decide(to)
	if why != "" {
		s.counts.refused(to.String(), why)
		r.Complete(true)
		return
	}
	select {
	case s.conns <- struct{}{}:
		defer func() { <-s.conns }()
	default:
		s.counts.refused("a connection", fmt.Sprintf("more than %d at a time", maxConnections))
		r.Complete(true)
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, connectPatience)
	outside, err := s.dialer.DialContext(ctx, "tcp", target)
	cancel()
	if err != nil {
		r.Complete(true)
		return
	}
	defer outside.Close()
	var queue waiter.Queue
	endpoint, tcpErr := r.CreateEndpoint(&queue)
	if tcpErr != nil {
		r.Complete(true)
		return
	}
	r.Complete(false)
	s.counts.connected()
	endpoint.SocketOptions().SetKeepAlive(true)
	idle := tcpip.KeepaliveIdleOption(probeAfter)
	_ = endpoint.SetSockOpt(&idle) // the default is longer, and does as well
	inside := gonet.NewTCPConn(&queue, endpoint)
	defer inside.Close()
	defer s.closeWith(outside)()
	defer s.closeWith(inside)()
	join(inside, endpoint, outside.(*net.TCPConn))
}

// join copies both ways until both ends have said all, or one broke off. That
// is passed on as what it is: a transfer that was cut short must not look like
// one that has ended.
func join(inside *gonet.TCPConn, endpoint tcpip.Endpoint, outside *net.TCPConn) {
	done := make(chan struct{})
	abort := func() {
		endpoint.Abort()
		_ = outside.SetLinger(0)
		_ = outside.Close()
	}
	go func() {
		defer close(done)
		if _, err := io.Copy(writeOnly{outside}, inside); err != nil {
			abort()
			return
		}
		_ = outside.CloseWrite()
	}()
	if _, err := io.Copy(writeOnly{inside}, readOnly{outside}); err != nil {
		abort()
	} else {
		_ = inside.CloseWrite()
	}
	<-done
}

// Without these io.Copy would ask for faster ways, which only sockets have.
type (
	writeOnly struct{ io.Writer }
	readOnly  struct{ io.Reader }
)

// acceptUDP begins a flow. What is refused is answered with "port unreachable".
func (s *server) acceptUDP(r *udp.ForwarderRequest) bool {
	to := destination(r.ID())
	target, why := s.rules.decide(to)
	if why != "" {
		s.counts.refused(to.String()+"/udp", why)
		return false
	}
	select {
	case s.flows <- struct{}{}:
	default:
		s.counts.refused("a flow of UDP", fmt.Sprintf("more than %d at a time", maxFlows))
		return true
	}
	free := func() { <-s.flows }
	if !s.begin() {
		free()
		return true
	}
	var queue waiter.Queue
	endpoint, tcpErr := r.CreateEndpoint(&queue)
	if tcpErr != nil {
		s.work.Done()
		free()
		return true
	}
	inside := gonet.NewUDPConn(&queue, endpoint)
	go func() {
		defer s.work.Done()
		defer free()
		defer inside.Close()
		ctx, cancel := context.WithTimeout(s.ctx, connectPatience)
		defer cancel()
		outside, err := s.dialer.DialContext(ctx, "udp", target)
		if err != nil {
			return
		}
		defer outside.Close()
		s.counts.connected()
		defer s.closeWith(outside)()
		defer s.closeWith(inside)()
		done := make(chan struct{})
		go func() {
			defer close(done)
			pass(outside, inside)
			outside.Close()
			inside.Close()
		}()
		pass(inside, outside)
		inside.Close()
		outside.Close()
		<-done
	}()
	return true
}

// pass moves the packets of one direction until none has come for a while.
// Each side's reads keep the other's open: an answer may be long in coming.
func pass(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		_ = from.SetReadDeadline(time.Now().Add(udpIdle))
		n, err := from.Read(buf)
		// Nobody listens there just now, or it was too large for the way:
		// packets are lost, flows go on.
		if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EMSGSIZE) {
			continue
		}
		if err != nil {
			return
		}
		_ = to.SetReadDeadline(time.Now().Add(udpIdle))
		if _, err := to.Write(buf[:n]); err != nil && (errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)) {
			return
		}
	}
}

// listenAddress is one of the gateway's in the stack's form.
func listenAddress(addr netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(addr.AsSlice()), Port: port}
}
