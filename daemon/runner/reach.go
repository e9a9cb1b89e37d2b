package runner

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"girderworker/sandbox"
	"girderworker/sandbox/network"
	"girderworker/transforms/girder"
)

// reach is where downloads, uploads and streams of a job may lead: they are made by
// a process in the machine's own network, to where a message says.
type reach struct {
	anywhere bool // outside this machine
	local    bool // services of this machine
	named    []sandbox.Destination
}

// newReach reads what policy has as transfers; nil is the grant of a monitor that
// did not know of them.
func newReach(transfers []string) (*reach, error) {
	if transfers == nil {
		return nil, nil
	}
	r := &reach{}
	for _, s := range transfers {
		switch s {
		case "*":
			r.anywhere = true
		case sandbox.LocalServices:
			r.local = true
		default:
			d, err := sandbox.ParseDestination(s)
			if err != nil {
				return nil, err
			}
			r.named = append(r.named, d)
		}
	}
	return r, nil
}

// guard judges the connections of one client. The job's own Girder may be anywhere,
// as it often is on the machine itself.
func (r *reach) guard(own bool) girder.Reach {
	if r == nil {
		return nil
	}
	return func(host string, to netip.AddrPort, server bool) error {
		if own && server {
			return nil
		}
		return r.judge(host, to)
	}
}

// judge decides by the address that a name was resolved to. That a name is in the
// list allows whatever it leads to.
func (r *reach) judge(host string, to netip.AddrPort) error {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if slices.ContainsFunc(r.named, func(d sandbox.Destination) bool {
		return (d.Matches(host) || d.Name == "" && d.Prefix.Contains(to.Addr())) && to.Port() >= d.First && to.Port() <= d.Last
	}) {
		return nil
	}
	switch {
	case network.Local(to):
		if r.local {
			return nil
		}
		return fmt.Errorf("%w: %s is an address of this machine, which is not among transfers of the policy", girder.ErrAddress, to)
	case !r.anywhere:
		return fmt.Errorf("%w: %s (%s) is not among transfers of the policy", girder.ErrAddress, host, to)
	}
	return nil
}
