package rabbittest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy passes TCP connections on, until it is told otherwise.
type Proxy struct {
	listener net.Listener
	target   string
	work     sync.WaitGroup

	mu      sync.Mutex
	changed *sync.Cond
	held    [2]bool // by direction: nothing passes until it is released or cut
	waiting [2]int  // connections of which something is held
	refuse  bool
	closed  bool
	conns   map[net.Conn]bool
	made    int
}

// The directions of a proxy.
const (
	Up   = 0 // from the client to the broker
	Down = 1 // from the broker to the client
)

// NewProxy listens on a free port for as long as the test runs.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, conns: map[net.Conn]bool{}}
	p.changed = sync.NewCond(&p.mu)
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut breaks every connection there is, whatever is under way in it.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut()
}

func (p *Proxy) cut() {
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0) // a reset, as from a dead peer
		}
		c.Close()
	}
	clear(p.conns)
	p.changed.Broadcast()
}

// Refuse closes each new connection at once, or no longer.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = on
}

// Hold lets nothing pass in a direction, as a network that has gone silent. New
// connections are made all the same. Hold(false) lets on pass what was held.
func (p *Proxy) Hold(direction int, on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held[direction] = on
	p.changed.Broadcast()
}

// Held is of how many connections something is held in a direction.
func (p *Proxy) Held(direction int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting[direction]
}

// Made is how many connections have come so far.
func (p *Proxy) Made() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

func (p *Proxy) close() {
	p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.held = [2]bool{}
	p.cut()
	p.mu.Unlock()
	p.work.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.work.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	p.made++
	refuse := p.refuse || p.closed
	p.mu.Unlock()
	if refuse {
		return
	}
	broker, err := net.DialTimeout("tcp", p.target, 10*time.Second)
	if err != nil {
		return
	}
	defer broker.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.conns[client], p.conns[broker] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pass(broker, client, Up) })
	both.Go(func() { p.pass(client, broker, Down) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, client)
	delete(p.conns, broker)
	p.mu.Unlock()
}

func (p *Proxy) pass(dst, src net.Conn, direction int) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		p.mu.Lock()
		p.waiting[direction]++
		for p.held[direction] && p.conns[src] {
			p.changed.Wait()
		}
		p.waiting[direction]--
		p.mu.Unlock()
		if n > 0 {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
