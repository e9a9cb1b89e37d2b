package sandbox

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// The addresses of every private network. Each container has one of its own, so
// they can be the same everywhere. They are of a block that is set aside for
// tests of equipment (RFC 2544) and of a local one (RFC 4193): no laboratory's
// network should have machines there.
var (
	// PrivateAddress4 and PrivateAddress6 are the container's.
	PrivateAddress4 = netip.MustParsePrefix("198.18.0.2/24")
	PrivateAddress6 = netip.MustParsePrefix("fd67:6972:6465:7200::2/64")
	// Gateway4 and Gateway6 are the other end: names are resolved there, and the
	// services of this machine that are let through are found there.
	Gateway4 = netip.MustParseAddr("198.18.0.1")
	Gateway6 = netip.MustParseAddr("fd67:6972:6465:7200::1")
)

// PrivateMTU is the largest packet of a private network: segments of such a
// size are what makes it fast, and they never leave the machine.
const PrivateMTU = 65520

// HostNames are what containers call this machine, as with Docker and Podman.
var HostNames = []string{"host.docker.internal", "host.containers.internal"}

// Network says where a container with a private network may connect.
type Network struct {
	// Narrow refuses everything but Allow and Host. Without it every address may
	// be reached but those of this machine, of the link, and of cloud metadata.
	Narrow bool `json:"narrow,omitempty"`
	// Allow are names, *.names, addresses or networks, each with :PORT or
	// :FROM-TO where not every port is meant. They open none of the addresses
	// that are closed to everyone.
	Allow []string `json:"allow,omitempty"`
	// Host are services of this machine that may be reached nevertheless, as
	// NAME:PORT or ADDRESS:PORT. Those of localhost are found under [HostNames],
	// the others under their own name.
	Host []string `json:"host,omitempty"`
}

// Bounds of a [Network].
const (
	MaxNetworkRules    = 256
	MaxNetworkServices = 128
)

// Check refuses what cannot be parsed.
func (n *Network) Check() error {
	if len(n.Allow) > MaxNetworkRules || len(n.Host) > MaxNetworkServices {
		return fmt.Errorf("%d destinations and %d services of this machine; at most %d and %d are possible", len(n.Allow), len(n.Host), MaxNetworkRules, MaxNetworkServices)
	}
	for _, s := range n.Allow {
		if _, err := ParseDestination(s); err != nil {
			return err
		}
	}
	for _, s := range n.Host {
		if _, err := ParseService(s); err != nil {
			return err
		}
	}
	return nil
}

// A Destination is one parsed entry of [Network.Allow]: a name or a prefix.
type Destination struct {
	// Name is in lower case, without a dot at its end.
	Name string
	// Below means the names below Name, and not Name itself.
	Below  bool
	Prefix netip.Prefix
	// First and Last are ports; 0 and 65535 are all.
	First, Last uint16
}

// ParseDestination reads an entry of [Network.Allow].
func ParseDestination(s string) (Destination, error) {
	bad := func(why string) (Destination, error) {
		return Destination{}, fmt.Errorf("destination %q: %s", s, why)
	}
	host, ports, err := cutPorts(s)
	if err != nil {
		return bad(err.Error())
	}
	d := Destination{Last: 65535}
	if ports != "" {
		from, to, isRange := strings.Cut(ports, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err := errors.Join(err1, err2); err != nil || first == 0 || first > last {
			return bad("the port must be 1 to 65535, or a range of them")
		}
		d.First, d.Last = uint16(first), uint16(last)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return bad("an address of a link cannot be reached")
		}
		addr = addr.Unmap()
		d.Prefix = netip.PrefixFrom(addr, addr.BitLen())
		return d, nil
	}
	if prefix, err := netip.ParsePrefix(host); err == nil {
		if prefix.Addr().Is4In6() {
			return bad("write an IPv4 network as such")
		}
		d.Prefix = prefix.Masked()
		return d, nil
	}
	d.Name = strings.ToLower(strings.TrimSuffix(host, "."))
	d.Name, d.Below = strings.CutPrefix(d.Name, "*.")
	if !d.Below {
		d.Name = strings.ToLower(strings.TrimSuffix(host, "."))
	}
	if !validName(d.Name) {
		return bad("want a name, *.name, an address or a network such as 10.0.0.0/8, and :PORT if not all")
	}
	return d, nil
}

// LocalServices stands for the services of this machine where destinations are
// listed that a process in the machine's own network is kept to.
const LocalServices = "local"

// Matches tells whether a name, in lower case and without a dot at its end, is
// meant.
func (d Destination) Matches(name string) bool {
	if d.Name == "" {
		return false
	}
	if d.Below {
		return strings.HasSuffix(name, "."+d.Name)
	}
	return name == d.Name
}

// A Service is one parsed entry of [Network.Host].
type Service struct {
	// Name is empty where an address was given.
	Name string
	Addr netip.Addr
	Port uint16
}

// Local tells whether the service is found under [HostNames].
func (s Service) Local() bool { return s.Name == "localhost" || s.Addr.IsLoopback() }

// Target is host:port, to connect to from this machine.
func (s Service) Target() string {
	if s.Name != "" {
		return s.Name + ":" + strconv.Itoa(int(s.Port))
	}
	return netip.AddrPortFrom(s.Addr, s.Port).String()
}

// ParseService reads an entry of [Network.Host].
func ParseService(s string) (Service, error) {
	d, err := ParseDestination(s)
	switch {
	case err != nil:
		return Service{}, err
	case d.Below || d.Name == "" && !d.Prefix.IsSingleIP():
		return Service{}, fmt.Errorf("service %q: name one host of this machine", s)
	case d.First == 0 || d.First != d.Last:
		return Service{}, fmt.Errorf("service %q: name one port, as in localhost:8080", s)
	}
	return Service{Name: d.Name, Addr: d.Prefix.Addr(), Port: d.First}, nil
}

// cutPorts separates a port from what comes before it, which may be an IPv6
// address with colons of its own.
func cutPorts(s string) (host, ports string, err error) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		host, rest, ok := strings.Cut(inner, "]")
		if !ok {
			return "", "", errors.New("the bracket is not closed")
		}
		if rest == "" {
			return host, "", nil
		}
		ports, ok := strings.CutPrefix(rest, ":")
		if !ok || ports == "" {
			return "", "", errors.New("what follows the bracket must be :PORT")
		}
		return host, ports, nil
	}
	if strings.Count(s, ":") > 1 {
		return s, "", nil
	}
	host, ports, ok := strings.Cut(s, ":")
	if ok && ports == "" {
		return "", "", errors.New("there is no port after the colon")
	}
	return host, ports, nil
}

// validName is what can be the name of a host in the DNS or in /etc/hosts.
func validName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	// What looks like a number and is no address is a mistake.
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.Trim(last, "0123456789") != ""
}

// HostEntry is one more line of a container's /etc/hosts.
type HostEntry struct {
	Name string `json:"name"`
	// Address is an IP address, or [HostGateway] for this machine.
	Address string `json:"address"`
}

// HostGateway stands for the address of this machine in a private network, as
// with Docker.
const HostGateway = "host-gateway"

// Check refuses what must not get into a file of lines.
func (e HostEntry) Check() error {
	if !validName(strings.ToLower(e.Name)) {
		return fmt.Errorf("extra host %q: it is no name of a host", e.Name)
	}
	if e.Address == HostGateway {
		return nil
	}
	if addr, err := netip.ParseAddr(e.Address); err != nil || addr.Zone() != "" {
		return fmt.Errorf("extra host %s: %q is no IP address", e.Name, e.Address)
	}
	return nil
}

// CheckResolver refuses what cannot be a name server of a container.
func CheckResolver(s string) error {
	if addr, err := netip.ParseAddr(s); err != nil || addr.Zone() != "" {
		return fmt.Errorf("dns %q: it is no IP address", s)
	}
	return nil
}

// Bounds of what a container's /etc/hosts and /etc/resolv.conf can be given.
const (
	MaxHostEntries = 256
	MaxResolvers   = 3 // as in every C library
)
