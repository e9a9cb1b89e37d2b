package network

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"girderworker/sandbox"
)

// closed are networks that no container reaches, whatever is allowed but single
// services of this machine. IPv4 addresses in IPv6 are looked at as such.
var closed = []struct {
	prefix netip.Prefix
	why    string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), ownAddress}, // connecting to it is connecting to localhost
	{netip.MustParsePrefix("127.0.0.0/8"), ownAddress},
	{netip.MustParsePrefix("::1/128"), ownAddress},
	{netip.MustParsePrefix("::/96"), ownAddress},
	{netip.MustParsePrefix("169.254.0.0/16"), "a link-local address"}, // with the metadata of most clouds
	{netip.MustParsePrefix("fe80::/10"), "a link-local address"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "a metadata address"},      // Amazon
	{netip.MustParsePrefix("100.100.100.200/32"), "a metadata address"}, // Alibaba
	{netip.MustParsePrefix("168.63.129.16/32"), "a metadata address"},   // Azure
	{netip.MustParsePrefix("192.0.0.192/32"), "a metadata address"},     // Oracle
	{netip.MustParsePrefix("224.0.0.0/4"), "a group's address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"}, // with the broadcast address
	{netip.MustParsePrefix("ff00::/8"), "a group's address"},
	{netip.MustParsePrefix("64:ff9b::/96"), "a translated address"}, // IPv4 in IPv6: it would need a look inside
	{netip.MustParsePrefix("64:ff9b:1::/48"), "a translated address"},
	{netip.MustParsePrefix("2002::/16"), "a translated address"},
	{netip.MustParsePrefix("198.18.0.0/24"), "an address of the container's own network"},
	{netip.MustParsePrefix("fd67:6972:6465:7200::/64"), "an address of the container's own network"},
}

// learnedFor bounds how long an address stays allowed after its name was
// resolved: not so short that a program which resolves once is cut off, since an
// answer's own time is about caches.
const learnedFor = 24 * time.Hour

// maxLearned is how many addresses are remembered; then the oldest go.
const maxLearned = 4096

// rules decide about every connection.
type rules struct {
	narrow bool
	allow  []sandbox.Destination

	// services are where single services of this machine are found, and what to
	// connect to for each.
	services map[netip.AddrPort]string
	// names of services resolve to virtual addresses.
	names   map[string]netip.Addr
	virtual []netip.Addr

	mu      sync.Mutex
	learned map[netip.Addr]learned
}

// learned is an address that a name in the list resolved to.
type learned struct {
	meant []sandbox.Destination
	until time.Time
}

func newRules(n sandbox.Network) (*rules, error) {
	if err := n.Check(); err != nil {
		return nil, err
	}
	r := &rules{narrow: n.Narrow, services: map[netip.AddrPort]string{}, names: map[string]netip.Addr{}, learned: map[netip.Addr]learned{}}
	for _, name := range sandbox.HostNames {
		r.names[name] = sandbox.Gateway4
	}
	for _, s := range n.Allow {
		d, err := sandbox.ParseDestination(s)
		if err != nil {
			return nil, err
		}
		r.allow = append(r.allow, d)
	}
	next := sandbox.Gateway4.Next().Next() // after the container's own
	for _, text := range n.Host {
		service, err := sandbox.ParseService(text)
		if err != nil {
			return nil, err
		}
		at := service.Addr
		switch {
		case service.Local():
			r.services[netip.AddrPortFrom(sandbox.Gateway6, service.Port)] = service.Target()
			at = sandbox.Gateway4
		case service.Name != "":
			known, ok := r.names[service.Name]
			if !ok {
				known, next = next, next.Next()
				r.names[service.Name] = known
				r.virtual = append(r.virtual, known)
			}
			at = known
		}
		r.services[netip.AddrPortFrom(at, service.Port)] = service.Target()
	}
	return r, nil
}

// decide is where a connection to an address is to be made, or why it is not.
func (r *rules) decide(to netip.AddrPort) (target, why string) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if target, ok := r.services[to]; ok {
		return target, ""
	}
	for _, c := range closed {
		if c.prefix.Contains(to.Addr()) {
			return "", c.why
		}
	}
	if r.narrow && !r.allowed(to) {
		return "", "not an allowed destination"
	}
	if ours(to) {
		return "", ownAddress
	}
	return to.String(), ""
}

// allowed tells whether an address is in the list, by itself or by a name.
func (r *rules) allowed(to netip.AddrPort) bool {
	meant := func(d sandbox.Destination) bool { return to.Port() >= d.First && to.Port() <= d.Last }
	for _, d := range r.allow {
		if d.Name == "" && d.Prefix.Contains(to.Addr()) && meant(d) {
			return true
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l, ok := r.learned[to.Addr()]
	return ok && time.Now().Before(l.until) && slices.ContainsFunc(l.meant, meant)
}

const ownAddress = "an address of this machine"

// Local tells whether a connection to an address would be to this machine.
func Local(to netip.AddrPort) bool {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	for _, c := range closed {
		if c.prefix.Contains(to.Addr()) {
			return c.why == ownAddress
		}
	}
	return ours(to)
}

// ours asks the kernel whether an address is one of this machine's: then it
// would send from that address itself. Nothing is sent for the answer.
func ours(to netip.AddrPort) bool {
	// The port means nothing, but must not be 0.
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to.Addr(), max(1, to.Port()))))
	if err != nil {
		return false // there is no way there either
	}
	defer conn.Close()
	own, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return err != nil || own.Addr().Unmap() == to.Addr().Unmap()
}

// service is the virtual address that a name has for being let through.
func (r *rules) service(name string) (netip.Addr, bool) {
	at, ok := r.names[name]
	return at, ok
}

// resolvable tells whether a name may be asked for at all.
func (r *rules) resolvable(name string) bool {
	return !r.narrow || slices.ContainsFunc(r.allow, func(d sandbox.Destination) bool { return d.Matches(name) })
}

// learn allows the addresses that a name in the list was resolved to.
func (r *rules) learn(name string, addresses []netip.Addr) {
	if !r.narrow {
		return
	}
	var meant []sandbox.Destination
	for _, d := range r.allow {
		if d.Matches(name) {
			meant = append(meant, d)
		}
	}
	if len(meant) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range addresses {
		addr = addr.Unmap()
		l := learned{meant: meant, until: time.Now().Add(learnedFor)}
		for _, d := range r.learned[addr].meant {
			if !slices.Contains(l.meant, d) {
				l.meant = append(l.meant, d)
			}
		}
		if _, known := r.learned[addr]; !known && len(r.learned) >= maxLearned {
			r.forgetOldest()
		}
		r.learned[addr] = l
	}
}

func (r *rules) forgetOldest() {
	var oldest netip.Addr
	for addr, l := range r.learned {
		if !oldest.IsValid() || l.until.Before(r.learned[oldest].until) {
			oldest = addr
		}
	}
	delete(r.learned, oldest)
}

// A Report is what became of a container's connections.
type Report struct {
	Connections int64 `json:"connections"`
	// Refused counts what the rules did not let through, and by what it was.
	Refused int64          `json:"refused"`
	Targets map[string]int `json:"targets,omitempty"`
}

// maxTargets is how many refused targets are named.
const maxTargets = 16

// counts make a [Report].
type counts struct {
	mu sync.Mutex
	r  Report
}

func newCounts() *counts { return &counts{r: Report{Targets: map[string]int{}}} }

func (c *counts) connected() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Connections++
}

func (c *counts) refused(what, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Refused++
	what = fmt.Sprintf("%s (%s)", what, why)
	if _, known := c.r.Targets[what]; known || len(c.r.Targets) < maxTargets {
		c.r.Targets[what]++
	}
}

func (c *counts) report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.r
	r.Targets = maps.Clone(r.Targets)
	return r
}
