package monitor

import (
	"bufio"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// burstGap is about what it takes to make an interpreter ready: a call that comes
	// sooner after the one before finds none, where one is kept.
	burstGap = 500 * time.Millisecond
	// burstOver is how long after its last call a burst has ended.
	burstOver = 2 * time.Second
	// shortOfMemory is which part of a machine's memory must be available where
	// interpreters wait.
	shortOfMemory = 8
)

// A demand is what is wanted for calls that have just been made, all of one key: one
// interpreter, and one more with each call of a burst from the third on: two calls are
// no burst, and what is made in vain costs as much as a call.
type demand struct {
	row     int // calls that came soon after each other
	last    time.Time
	over    *time.Timer
	making  int
	waiting int           // who wait for those that are being made
	made    chan struct{} // closed, and another, when one was made
}

// called counts a call, and returns how many to make now. The lock is held.
func (s *aheads) called(key string, now time.Time) int {
	d := s.demands[key]
	if d == nil {
		d = &demand{made: make(chan struct{})}
		d.over = time.AfterFunc(burstOver, func() { s.settle(key) })
		s.demands[key] = d
	} else {
		d.over.Reset(burstOver)
	}
	if now.Sub(d.last) > burstGap {
		d.row = 0
	}
	d.row, d.last = d.row+1, now
	want := min(max(1, d.row-1), s.m.options.Ahead, runtime.NumCPU())
	have := d.making
	// What waits for calls that nobody makes now has to go for the first of a burst to have more.
	busy := 0
	for _, a := range s.ready {
		if a.key == key {
			have++
		}
		if s.demands[a.key] != nil {
			busy++
		}
	}
	for _, other := range s.demands {
		busy += other.making
	}
	missing := min(max(0, want-have), max(0, s.m.options.Ahead-busy))
	if missing == 0 && have == 0 {
		missing = 1
	}
	d.making += missing
	return missing
}

// ended counts one that was made, or could not be. The lock is held.
func (s *aheads) ended(key string) {
	d := s.demands[key]
	d.making--
	close(d.made)
	d.made = make(chan struct{})
}

// surplus takes out those that are too many: first of those whose calls were made a
// while ago, and the oldest. The lock is held.
func (s *aheads) surplus() (over []*ahead) {
	for len(s.ready) > s.m.options.Ahead {
		i := max(0, slices.IndexFunc(s.ready, func(a *ahead) bool { return s.demands[a.key] == nil }))
		over = append(over, s.ready[i])
		s.ready = slices.Delete(s.ready, i, i+1)
	}
	return over
}

// settle leaves one for the next call when a burst is over.
func (s *aheads) settle(key string) {
	s.mu.Lock()
	d := s.demands[key]
	if d == nil || time.Since(d.last) < burstOver || d.making > 0 {
		if d != nil && !s.closed {
			d.over.Reset(burstOver)
		}
		s.mu.Unlock()
		return
	}
	delete(s.demands, key)
	s.mu.Unlock()
	kept := false
	s.endWhere(func(a *ahead) bool {
		one := a.key == key && kept
		kept = kept || a.key == key
		return one
	})
}

// yield ends those that wait where the machine is short of memory: what starts needs it
// more. The kernel does the same, later and at once, because they are the first that it
// kills for memory.
func (s *aheads) yield() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ready) > 0 && !s.closed && memoryShort() {
		s.wg.Go(func() { s.endWhere(func(*ahead) bool { return true }) })
	}
}

// memoryShort tells whether little of the machine's memory is available. What it cannot
// tell it takes for no.
func memoryShort() bool { return shortBy("/proc/meminfo") }

func shortBy(meminfo string) bool {
	f, err := os.Open(meminfo)
	if err != nil {
		return false
	}
	defer f.Close()
	var total, available int64
	for s := bufio.NewScanner(f); s.Scan() && available == 0; {
		name, value, _ := strings.Cut(s.Text(), ":")
		n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(value, "kB")), 10, 64)
		switch {
		case err != nil:
		case name == "MemTotal":
			total = n
		case name == "MemAvailable":
			available = n
		}
	}
	return available > 0 && available < total/shortOfMemory
}
