package monitor

import (
	"slices"

	"girderworker/sandbox"
)

// sliceSize is how many ids one attempt has of its own.
const sliceSize = 1 << 16

// maxGroups bounds the supplementary groups that an attempt keeps: each costs
// up to two lines of its id map, and the kernel takes 340.
const maxGroups = 128

// keepID maps the container's id inside to the host's id outside, each id of
// keep to itself, and every other id below 65536 to the slice that starts at
// base, which nobody else uses.
func keepID(inside, outside, base int, keep []int) []sandbox.IDMapping {
	special := map[int]int{inside: outside}
	for _, id := range keep {
		// No id may appear twice on either side.
		if id != outside && id != inside {
			special[id] = id
		}
	}
	ids := make([]int, 0, len(special))
	for id := range special {
		ids = append(ids, id)
	}
	slices.Sort(ids)

	var maps []sandbox.IDMapping
	next := 0
	for _, id := range ids {
		if end := min(id, sliceSize); next < end {
			maps = append(maps, sandbox.IDMapping{ContainerID: next, HostID: base + next, Size: end - next})
		}
		maps = append(maps, sandbox.IDMapping{ContainerID: id, HostID: special[id], Size: 1})
		next = max(next, id+1)
	}
	if next < sliceSize {
		maps = append(maps, sandbox.IDMapping{ContainerID: next, HostID: base + next, Size: sliceSize - next})
	}
	return maps
}

// IDRange is host ids for the insides of containers: slices of 65536, the
// first of which is kept for those who have no identity of their own.
type IDRange struct{ Base, Size int }

func (r IDRange) contains(id int) bool { return id >= r.Base && id-r.Base < r.Size }

// unprivileged is the one id of the range that a job may act as.
func (r IDRange) unprivileged() int { return r.Base }

// slice is the base of the nth attempt's slice, from 0.
func (r IDRange) slice(n int) int { return r.Base + (n+1)*sliceSize }

func (r IDRange) slices() int { return r.Size/sliceSize - 1 }

// sliceOf is the inverse of slice for mappings that were granted before; -1
// when they do not come from the range.
func (r IDRange) sliceOf(maps []sandbox.IDMapping) int {
	for _, m := range maps {
		if m.Size > 1 && r.contains(m.HostID) {
			return (m.HostID-r.Base)/sliceSize - 1
		}
	}
	return -1
}
