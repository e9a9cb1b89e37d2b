package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"time"

	"girderworker/sandbox"

	"golang.org/x/net/dns/dnsmessage"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

const (
	dnsPort = 53
	// answerPatience is how long one name server of the machine may take, and
	// restAfter how long one that did not answer is not asked again: on a
	// machine without a way out every question would wait for it.
	answerPatience = 2 * time.Second
	restAfter      = 20 * time.Second
	localTTL       = 30 // seconds, of what comes from /etc/hosts
)

// resolver answers the container's questions about names: from the machine's
// /etc/hosts, or by asking the machine's name servers. They are asked from here
// and not by the container, so that one on localhost, as systemd-resolved's, is
// no special case.
type resolver struct {
	s      *server
	files  *hostFiles
	asking chan struct{}

	mu      sync.Mutex
	resting map[netip.AddrPort]time.Time
}

func newResolver(s *server, resolv, hosts string) *resolver {
	return &resolver{s: s, files: &hostFiles{resolv: resolv, hosts: hosts}, asking: make(chan struct{}, maxQuestions), resting: map[netip.AddrPort]time.Time{}}
}

// listen begins to answer on the gateway.
func (r *resolver) listen() error {
	at := listenAddress(sandbox.Gateway4, dnsPort)
	packets, err := gonet.DialUDP(r.s.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("cannot listen for questions about names: %w", err)
	}
	streams, err := gonet.ListenTCP(r.s.stack, at, ipv4.ProtocolNumber)
	if err != nil {
		packets.Close()
		return fmt.Errorf("cannot listen for questions about names: %w", err)
	}
	r.s.closeWith(packets)
	r.s.closeWith(streams)
	r.s.run(func() { r.servePackets(packets) })
	r.s.run(func() { r.serveStreams(streams) })
	return nil
}

func (r *resolver) servePackets(conn *gonet.UDPConn) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		question := append([]byte(nil), buf[:n]...)
		select {
		case r.asking <- struct{}{}:
		default:
			continue // it asks again
		}
		r.s.run(func() {
			defer func() { <-r.asking }()
			if answer := r.answer(r.s.ctx, question, false); answer != nil {
				_, _ = conn.WriteTo(answer, from)
			}
		})
	}
}

func (r *resolver) serveStreams(listener *gonet.TCPListener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		select {
		case r.asking <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		r.s.run(func() {
			defer func() { <-r.asking }()
			defer conn.Close()
			defer r.s.closeWith(conn)()
			for {
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				question, err := readFramed(conn)
				if err != nil {
					return
				}
				answer := r.answer(r.s.ctx, question, true)
				if answer == nil || writeFramed(conn, answer) != nil {
					return
				}
			}
		})
	}
}

// readFramed reads a message as TCP carries it (RFC 1035, 4.2.2).
func readFramed(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeFramed(w io.Writer, message []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// answer is the reply to a question, or nil for what is none.
func (r *resolver) answer(ctx context.Context, question []byte, stream bool) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(question)
	if err != nil || head.Response || head.OpCode != 0 {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	if _, err := p.Question(); !errors.Is(err, dnsmessage.ErrSectionDone) {
		return reply(head, nil, dnsmessage.RCodeFormatError, nil)
	}
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if at, ok := r.s.rules.service(name); ok {
		return reply(head, &q, dnsmessage.RCodeSuccess, []netip.Addr{at})
	}
	if !r.s.rules.resolvable(name) {
		r.s.counts.refused(name, "not an allowed name")
		return reply(head, &q, dnsmessage.RCodeRefused, nil)
	}
	if addresses, ok := r.files.lookUp(name); ok {
		r.s.rules.learn(name, addresses)
		return reply(head, &q, dnsmessage.RCodeSuccess, addresses)
	}
	answer := r.ask(ctx, question, q, stream)
	if answer == nil {
		return reply(head, &q, dnsmessage.RCodeServerFailure, nil)
	}
	r.s.rules.learn(name, addressesIn(answer))
	return answer
}

// ask puts a question to the machine's name servers, one after the other.
func (r *resolver) ask(ctx context.Context, question []byte, q dnsmessage.Question, stream bool) []byte {
	for _, server := range r.files.servers() {
		r.mu.Lock()
		resting := time.Now().Before(r.resting[server])
		r.mu.Unlock()
		if resting {
			continue
		}
		answer, err := r.exchange(ctx, server, question, q, stream)
		if err == nil {
			return answer
		}
		if ctx.Err() != nil {
			return nil
		}
		r.mu.Lock()
		r.resting[server] = time.Now().Add(restAfter)
		r.mu.Unlock()
	}
	return nil
}

// exchange asks one server. The question goes out under a number of our own,
// from a port of the kernel's choice, so that an answer cannot be guessed.
func (r *resolver) exchange(ctx context.Context, server netip.AddrPort, question []byte, q dnsmessage.Question, stream bool) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	transport := "udp"
	if stream {
		transport = "tcp"
	}
	conn, err := r.s.dialer.DialContext(ctx, transport, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	defer r.s.closeWith(conn)()

	id := uint16(rand.Uint32())
	sent := append(binary.BigEndian.AppendUint16(nil, id), question[2:]...)
	if stream {
		err = writeFramed(conn, sent)
	} else {
		_, err = conn.Write(sent)
	}
	if err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		var answer []byte
		if stream {
			answer, err = readFramed(conn)
		} else {
			var n int
			n, err = conn.Read(buf)
			answer = buf[:n]
		}
		if err != nil {
			return nil, err
		}
		if !answers(answer, id, q) {
			if stream {
				return nil, errors.New("the answer is to another question")
			}
			continue
		}
		copy(answer, question[:2])
		return answer, nil
	}
}

// answers tells whether a message is the reply to a question.
func answers(message []byte, id uint16, q dnsmessage.Question) bool {
	var p dnsmessage.Parser
	head, err := p.Start(message)
	if err != nil || !head.Response || head.ID != id {
		return false
	}
	got, err := p.Question()
	if err != nil {
		// Servers may leave it out of an error.
		return head.RCode != dnsmessage.RCodeSuccess
	}
	return got.Type == q.Type && got.Class == q.Class && strings.EqualFold(got.Name.String(), q.Name.String())
}

// addressesIn are all that an answer has, by whatever names they go.
func addressesIn(message []byte) (addresses []netip.Addr) {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil || p.SkipAllQuestions() != nil {
		return nil
	}
	for {
		h, err := p.AnswerHeader()
		if err != nil {
			return addresses
		}
		switch h.Type {
		case dnsmessage.TypeA:
			a, err := p.AResource()
			if err != nil {
				return addresses
			}
			addresses = append(addresses, netip.AddrFrom4(a.A))
		case dnsmessage.TypeAAAA:
			a, err := p.AAAAResource()
			if err != nil {
				return addresses
			}
			addresses = append(addresses, netip.AddrFrom16(a.AAAA))
		default:
			if p.SkipAnswer() != nil {
				return addresses
			}
		}
	}
}

// reply is an answer of our own, with those addresses that were asked for.
func reply(head dnsmessage.Header, q *dnsmessage.Question, code dnsmessage.RCode, addresses []netip.Addr) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: head.ID, Response: true, RCode: code, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
	})
	b.EnableCompression()
	if q != nil {
		if b.StartQuestions() != nil || b.Question(*q) != nil || b.StartAnswers() != nil {
			return nil
		}
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: localTTL}
		for _, addr := range addresses {
			var err error
			switch {
			case addr.Is4() && q.Type == dnsmessage.TypeA:
				err = b.AResource(h, dnsmessage.AResource{A: addr.As4()})
			case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
				err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: addr.As16()})
			}
			if err != nil {
				return nil
			}
		}
	}
	message, err := b.Finish()
	if err != nil {
		return nil
	}
	return message
}
