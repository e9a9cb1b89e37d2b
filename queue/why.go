package queue

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// Wait is why a job that has not started waits.
type Wait struct {
	// Kind is machine-readable: "slots", "cpus", "memory", "gpus", "scratch", "swap", "turn",
	// "too-large", "reserved", "time", "after", "held", "doubt", "paused".
	Kind string `json:"kind"`
	// Text is for a person and names numbers and ids.
	Text string `json:"text"`
}

// maxAhead bounds how many keys Why counts.
const maxAhead = 100_000

// Why tells what a job waits for under total, and how many jobs are before it
// (-1: unknown). A job that waits for nothing, or is not waiting, has no waits.
// "paused" is for the daemon to add.
func (s *Store) Why(id string, total Capacity) (waits []Wait, ahead int, err error) {
	ahead = -1
	err = s.active.view(func(tx *bolt.Tx) error {
		j, err := loadJob(tx, id)
		if err != nil {
			return err
		}
		waits, ahead, err = s.why(tx, &j, total)
		return err
	})
	if errors.Is(err, ErrNotFound) {
		_, err = s.Job(id) // final jobs wait for nothing
	}
	if err != nil {
		return nil, -1, err
	}
	return waits, ahead, nil
}

func (s *Store) why(tx *bolt.Tx, j *Job, total Capacity) (waits []Wait, ahead int, err error) {
	if j.State != Queued && j.State != Delayed && j.State != Held {
		return nil, 0, nil
	}
	ahead = -1
	switch j.State {
	case Held:
		waits = append(waits, Wait{"held", "held: " + j.Reason})
	case Delayed:
		text := "it does not start before " + j.NotBefore.Format(timeLayout)
		if j.Reason != "" {
			text += " (" + j.Reason + ")"
		}
		waits = append(waits, Wait{"time", text})
	}
	if j.Doubtful {
		text := "whether RabbitMQ gave it to this machine or to another one is being settled"
		if j.HandedBack {
			text = "it was being handed back to its queue, and whether RabbitMQ has it is being settled"
		}
		waits = append(waits, Wait{"doubt", text})
	}
	if ids := unmet(tx, j); len(ids) > 0 {
		waits = append(waits, Wait{"after", "it starts after " + strings.Join(ids, ", ")})
	}
	all, need := capacityOf(total), amountOf(j.Needs)
	tooLarge := shortages("too-large", need, all, all, "the machine has %s")
	if len(tooLarge) > 0 {
		return append(waits, tooLarge...), ahead, nil
	}
	if !j.startable() {
		return waits, ahead, nil
	}
	used, err := inUse(tx)
	if err != nil {
		return nil, -1, err
	}
	p, err := planClaim(tx, all, maxShared, s.now())
	if err != nil {
		return nil, -1, err
	}
	ahead = countAhead(tx, j)
	free := all.minus(used)
	if free.fits(need) {
		for _, c := range p.claims {
			if c.seq == j.Seq {
				return nil, ahead, nil
			}
		}
		for _, r := range p.reserved {
			if r.kept.slots == 0 && min(r.kept.scratch, need.scratch) == 0 && min(r.kept.swap, need.swap) == 0 {
				continue // disk or swap, which this job does without
			}
			first, err := loadSeq(tx, r.seq)
			if err != nil {
				return nil, -1, err
			}
			waits = append(waits, Wait{"reserved", fmt.Sprintf("what is free is kept for job %s, which did not fit for %s", first.ID, patience)})
		}
		if len(waits) == 0 {
			waits = append(waits, Wait{"turn", fmt.Sprintf("%d jobs have their turn first", ahead)})
		}
		return waits, ahead, nil
	}
	return append(waits, shortages("", need, free, all, "%s of %s are free")...), ahead, nil
}

// shortages lists what of need is not in have. kind "" is the resource's own name.
func shortages(kind string, need, have, all amount, format string) (waits []Wait) {
	for _, r := range []struct {
		kind            string
		need, have, all int64
		show            func(int64) string
	}{
		{"slots", need.slots, have.slots, all.slots, func(n int64) string { return fmt.Sprint(n) }},
		{"cpus", need.milli, have.milli, all.milli, func(n int64) string { return fmt.Sprint(float64(n) / 1000) }},
		{"memory", need.memory, have.memory, all.memory, showBytes},
		{"gpus", need.gpus, have.gpus, all.gpus, func(n int64) string { return fmt.Sprint(n) }},
		{"scratch", need.scratch, have.scratch, all.scratch, showBytes},
		{"swap", need.swap, have.swap, all.swap, showBytes},
	} {
		if enough(r.have, r.need) {
			continue
		}
		args, format := []any{r.show(max(r.have, 0)), r.show(r.all)}, format
		if r.kind == "scratch" {
			// What is free there changes, and not by jobs alone.
			if format = "%s of the disk are free and kept for no other job"; kind != "" {
				format = "%s of the disk are free"
			}
		}
		text := fmt.Sprintf("%s: it needs %s, ", r.kind, r.show(r.need)) + fmt.Sprintf(format, args[:strings.Count(format, "%s")]...)
		k := kind
		if k == "" {
			k = r.kind
		}
		waits = append(waits, Wait{k, text})
	}
	return waits
}

func showBytes(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d bytes", n)
	}
	f, i := float64(n)/(1<<10), 0
	for ; f >= 1<<10 && i < len(units)-1; i++ {
		f /= 1 << 10
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", f), ".0") + " " + units[i:i+1] + "iB"
}

// countAhead is how many startable jobs have their turn before j as things
// stand: all of higher priority, those of its owner that came first, and of
// every other owner as many as round robin serves meanwhile. -1 when counting
// would take too long.
func countAhead(tx *bolt.Tx, j *Job) int {
	level, owner := byte(9-j.Priority), ownerOf(j.Owner)
	ahead, seen, own := 0, 0, 0
	others := make(map[ownerKey]int)
	ready := tx.Bucket(bucketReady)
	lanes := ready.Cursor()
	for name, _ := lanes.First(); name != nil && name[0] <= level; name, _ = lanes.Next() {
		keys := ready.Bucket(name).Cursor()
		for k, _ := keys.First(); k != nil; k, _ = keys.Next() {
			if seen++; seen > maxAhead {
				return -1
			}
			switch {
			case name[0] < level:
				ahead++
			case !bytes.Equal(name[1:9], owner[:]):
				others[ownerKey(name[1:9])]++
			case seqOf(k) < j.Seq:
				own++
			}
		}
	}
	served := func(o ownerKey) []byte { return tx.Bucket(bucketServed).Get(o[:]) }
	for o, n := range others {
		turns := own
		if bytes.Compare(served(o), served(owner)) < 0 {
			turns++
		}
		ahead += min(n, turns)
	}
	return ahead + own
}
