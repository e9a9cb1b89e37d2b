package network

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// lookEvery is how old what was read of the machine's files may be: a laptop
// changes its name servers as it changes networks.
const lookEvery = 5 * time.Second

// largestFile is read of each of the machine's files; an /etc/hosts of a block
// list has megabytes.
const largestFile = 8 << 20

// hostFiles are what the machine knows of names and name servers.
type hostFiles struct {
	resolv, hosts string

	mu    sync.Mutex
	read  time.Time
	asked []netip.AddrPort
	known map[string][]netip.Addr
}

func (f *hostFiles) refresh() {
	if !f.read.IsZero() && time.Since(f.read) < lookEvery {
		return
	}
	f.read = time.Now()
	f.asked = nameServers(readFile(f.resolv))
	f.known = hostNames(readFile(f.hosts))
}

// servers are the machine's name servers. There may be none.
func (f *hostFiles) servers() []netip.AddrPort {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	return f.asked
}

// lookUp finds a name in the machine's /etc/hosts. Names of loopback addresses
// are not among them: they would be the container's own.
func (f *hostFiles) lookUp(name string) ([]netip.Addr, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	addresses, ok := f.known[name]
	return addresses, ok
}

func readFile(name string) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil // a machine without one has none to ask
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, largestFile))
	if err != nil {
		return nil
	}
	return data
}

// maxServers is how many name servers a C library asks.
const maxServers = 3

func nameServers(resolv []byte) (servers []netip.AddrPort) {
	for line := range bytes.Lines(resolv) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || fields[0] != "nameserver" || len(servers) == maxServers {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, netip.AddrPortFrom(addr, dnsPort))
		}
	}
	return servers
}

func hostNames(hosts []byte) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for line := range bytes.Lines(hosts) {
		text, _, _ := strings.Cut(string(line), "#")
		fields := strings.Fields(text)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil || addr.Zone() != "" || addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() {
			continue
		}
		for _, name := range fields[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			names[name] = append(names[name], addr.Unmap())
		}
	}
	return names
}
