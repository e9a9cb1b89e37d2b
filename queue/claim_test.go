package queue

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

func wantClaims(t *testing.T, got []string, want string) {
	t.Helper()
	if strings.Join(got, " ") != want {
		t.Fatalf("claimed %v, want %s", got, want)
	}
}

func TestClaimOrder(t *testing.T) {
	s := open(t)
	for _, x := range []struct {
		id, owner string
		prio      int
	}{
		{"a1", "a", 5}, {"a2", "a", 5}, {"a3", "a", 5}, {"b1", "b", 5}, {"b2", "b", 5}, {"c1", "c", 5},
		{"low", "d", 0}, {"high", "a", 9}, {"mid", "a", 6},
	} {
		submit(t, s, sub(named(x.id), ownedBy(x.owner), priority(x.prio)))
	}
	wantClaims(t, claimIDs(t, s, roomy, 2), "high mid")
	// a was served last, so b and c come first.
	wantClaims(t, claimIDs(t, s, roomy, 2), "b1 c1")
	submit(t, s, sub(named("d1"), ownedBy("d")), sub(named("e1"), ownedBy("e")), sub(named("e2"), ownedBy("e")))
	s = reopen(t, s) // the turns are remembered
	wantClaims(t, claimIDs(t, s, roomy, 100), "d1 e1 a1 b2 e2 a2 a3 low")
}

// TestClaimFair gives a newcomer his turn before a batch of others.
func TestClaimFair(t *testing.T) {
	s := open(t)
	batch := make([]Submission, 100)
	for i := range batch {
		batch[i] = sub(ownedBy("many"))
	}
	submit(t, s, batch...)
	claim(t, s, roomy, 5)
	single := submit(t, s, sub(ownedBy("single")))[0]
	wantClaims(t, claimIDs(t, s, roomy, 1), single.ID)
}

func TestClaimFits(t *testing.T) {
	type need struct {
		cpus   float64
		memory int64
		gpus   int
	}
	for _, c := range []struct {
		name  string
		total Capacity
		jobs  []need
		want  string // indexes claimed, in order
	}{
		{"slots", Capacity{Slots: 2, CPUs: 64, Memory: 64}, []need{{1, 1, 0}, {1, 1, 0}, {1, 1, 0}}, "0 1"},
		{"cpus", Capacity{Slots: 9, CPUs: 2, Memory: 64}, []need{{1.5, 1, 0}, {0.5, 1, 0}, {0.1, 1, 0}}, "0 1"},
		{"tenths add up", Capacity{Slots: 20, CPUs: 1, Memory: 64}, slices.Repeat([]need{{0.1, 0, 0}}, 11), "0 1 2 3 4 5 6 7 8 9"},
		{"memory", Capacity{Slots: 9, CPUs: 64, Memory: 10}, []need{{1, 6, 0}, {1, 5, 0}, {1, 4, 0}}, "0 2"},
		{"gpus", Capacity{Slots: 9, CPUs: 64, Memory: 64, GPUs: 2}, []need{{1, 1, 1}, {1, 1, 2}, {1, 1, 1}, {1, 1, 0}}, "0 2 3"},
		{"too large", Capacity{Slots: 9, CPUs: 4, Memory: 64}, []need{{5, 1, 0}, {1, 65, 0}, {1, 1, 1}, {4, 64, 0}}, "3"},
		{"nothing needed", Capacity{Slots: 1}, []need{{0, 0, 0}, {0, 0, 0}}, "0"},
		{"no slots", Capacity{CPUs: 9, Memory: 9}, []need{{0, 0, 0}}, ""},
		{"same size", Capacity{Slots: 9, CPUs: 9, Memory: 9000}, []need{{1, 5000, 0}, {1, 4999, 0}, {1, 4000, 0}}, "0 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			for i, n := range c.jobs {
				submit(t, s, sub(named(fmt.Sprint(i)), func(s *Submission) { s.Needs = Needs{CPUs: n.cpus, Memory: n.memory, GPUs: n.gpus} }))
			}
			wantClaims(t, claimIDs(t, s, c.total, 100), c.want)
			use := s.InUse()
			if use.Slots > c.total.Slots || use.CPUs > c.total.CPUs || use.Memory > c.total.Memory || use.GPUs > c.total.GPUs {
				t.Errorf("in use %+v", use)
			}
			wantClaims(t, claimIDs(t, s, c.total, 100), "")
		})
	}
}

// TestClaimDisk: what jobs may still write is kept for them; swap is counted, too. What
// does not fit on the disk of now is in nobody's way, and fits when there is room.
func TestClaimDisk(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	total := Capacity{Slots: 9, CPUs: 9, Scratch: 100, Swap: 10}
	submit(t, s, sub(named("0"), withDisk(60, 0)))
	submit(t, s, sub(named("1"), withDisk(60, 0)))
	submit(t, s, sub(named("2"), withDisk(40, 8)))
	submit(t, s, sub(named("3"), withDisk(0, 8)))
	submit(t, s, sub(named("4"), withDisk(0, 0)))
	submit(t, s, sub(named("5"), withDisk(110, 0)))
	wantClaims(t, claimIDs(t, s, total, 9), "0 2 4")
	if use := s.InUse(); use.Scratch != 100 || use.Swap != 8 {
		t.Errorf("in use %+v", use)
	}
	for id, want := range map[string]Wait{
		"1": {"scratch", "scratch: it needs 60 bytes, 0 bytes of the disk are free and kept for no other job"},
		"3": {"swap", "swap: it needs 8 bytes, 2 bytes of 10 bytes are free"},
		"5": {"too-large", "scratch: it needs 110 bytes, 100 bytes of the disk are free"},
	} {
		if waits, _, err := s.Why(id, total); err != nil || len(waits) != 1 || waits[0] != want {
			t.Errorf("%s waits for %+v, %v", id, waits, err)
		}
	}
	c.add(2 * patience)
	total.Scratch = 300
	wantClaims(t, claimIDs(t, s, total, 9), "1 5")
	must(t, s.Check())
}

// withDisk needs a cpu, scratch space and swap.
func withDisk(scratch, swap int64) func(*Submission) {
	return func(s *Submission) { s.Needs = Needs{CPUs: 1, Scratch: scratch, Swap: swap} }
}

// TestClaimPastDisk: jobs that wait for the disk or for swap, however many, are in the
// way of none that fits, and those too large for it cost no other its patience.
func TestClaimPastDisk(t *testing.T) {
	for name, large := range map[string]func(*Submission){"scratch": withDisk(500, 0), "swap": withDisk(0, 500), "both": withDisk(500, 500)} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := open(t, withClock(c))
			total := Capacity{Slots: 8, CPUs: 8, Scratch: 100, Swap: 100}
			for range laneDepth {
				submit(t, s, sub(large))
			}
			submit(t, s, sub(named("plain"), withDisk(0, 0)))
			wantClaims(t, claimIDs(t, s, total, 8), "plain")
			submit(t, s, sub(named("half"), withDisk(50, 50)))
			wantClaims(t, claimIDs(t, s, total, 8), "half")
			submit(t, s, sub(named("patient"), withDisk(90, 90)), sub(named("quick"), withDisk(10, 10)))
			wantClaims(t, claimIDs(t, s, total, 8), "quick")
			if job(t, s, "patient").passed.IsZero() {
				t.Error("it was overtaken and nobody noted when")
			}
			must(t, s.Check())
		})
	}
}

// TestDiskKept: what is kept for a job that is short of disk is disk, until that is
// there; jobs that need none go on meanwhile.
func TestDiskKept(t *testing.T) {
	for name, disk := range map[string]func(n int64) func(*Submission){
		"scratch": func(n int64) func(*Submission) { return withDisk(n, 0) },
		"swap":    func(n int64) func(*Submission) { return withDisk(0, n) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			s := open(t, withClock(c))
			total := Capacity{Slots: 4, CPUs: 4, Memory: 10, Scratch: 100, Swap: 100}
			submit(t, s, sub(named("long"), disk(60)))
			wantClaims(t, claimIDs(t, s, total, 4), "long")
			submit(t, s, sub(named("large"), disk(80), func(s *Submission) { s.Needs.CPUs, s.Needs.Memory = 4, 10 }), sub(named("a"), disk(0)))
			wantClaims(t, claimIDs(t, s, total, 4), "a")
			c.add(patience)
			submit(t, s, sub(named("small"), disk(30)))
			for _, id := range []string{"b", "c", "d"} {
				submit(t, s, sub(named(id), disk(0), func(s *Submission) { s.Needs.Memory = 1 }))
			}
			why := func(id, kind, text string) {
				t.Helper()
				if waits, _, err := s.Why(id, total); err != nil || len(waits) != 1 || waits[0].Kind != kind || !strings.Contains(waits[0].Text, text) {
					t.Errorf("%s waits for %+v, %v", id, waits, err)
				}
			}
			why("small", "reserved", "large")
			why("d", "turn", "have their turn first")
			wantClaims(t, claimIDs(t, s, total, 4), "b c")
			run(t, s, "long", 0)
			// The disk is there: now the cpus are kept, too, as they come free.
			wantClaims(t, claimIDs(t, s, total, 4), "")
			why("d", "reserved", "large")
			for _, id := range []string{"a", "b", "c"} {
				run(t, s, id, 0)
			}
			wantClaims(t, claimIDs(t, s, total, 4), "large")
			run(t, s, "large", 0)
			wantClaims(t, claimIDs(t, s, total, 4), "small d")
		})
	}
}

// TestPatience follows a large job that others overtake until its patience is over.
func TestPatience(t *testing.T) {
	for _, otherOwner := range []bool{false, true} {
		t.Run(fmt.Sprintf("other owner %t", otherOwner), func(t *testing.T) {
			c := newClock()
			s := open(t, withClock(c))
			total := Capacity{Slots: 10, CPUs: 4, Memory: 100}
			n := 0
			small := func(cpus float64, memory int64) string {
				n++
				owner := "uid:1000"
				if otherOwner {
					owner = "uid:2"
				}
				return submit(t, s, sub(named(fmt.Sprint("s", n)), needs(cpus, memory), ownedBy(owner)))[0].ID
			}
			submit(t, s, sub(named("huge"), needs(5, 1)))
			first := small(1, 10)
			wantClaims(t, claimIDs(t, s, total, 10), first)
			submit(t, s, sub(named("large"), needs(4, 50)))
			c.add(time.Hour) // nothing overtakes it meanwhile, so its patience has not begun
			second := small(1, 10)
			wantClaims(t, claimIDs(t, s, total, 10), second)
			run(t, s, first, 0)
			c.add(patience - 1)
			third := small(1, 10)
			wantClaims(t, claimIDs(t, s, total, 10), third)
			run(t, s, second, 0)
			s = reopen(t, s)
			c.add(1)
			fourth := small(1, 10)
			tiny := small(0, 10) // needs no cpu: in nobody's way
			wantClaims(t, claimIDs(t, s, total, 10), tiny)
			why, _, err := s.Why(fourth, total)
			must(t, err)
			if len(why) != 1 || why[0].Kind != "reserved" || !strings.Contains(why[0].Text, "large") {
				t.Errorf("%s waits for %+v", fourth, why)
			}
			big := small(0, 50) // what the large job needs of memory is kept as well
			wantClaims(t, claimIDs(t, s, total, 10), "")
			run(t, s, third, 0)
			wantClaims(t, claimIDs(t, s, total, 10), "large")
			run(t, s, tiny, 0)
			wantClaims(t, claimIDs(t, s, total, 10), big)
			run(t, s, "large", 0)
			wantClaims(t, claimIDs(t, s, total, 10), fourth)
			wantState(t, s, "huge", Queued)
		})
	}
}

// TestReservationEnds frees what was kept for a job that is gone.
func TestReservationEnds(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	total := Capacity{Slots: 10, CPUs: 4, Memory: 100}
	one := func(id string) { submit(t, s, sub(named(id), needs(1, 1))) }
	one("a")
	claim(t, s, total, 10)
	submit(t, s, sub(named("large"), needs(4, 1)))
	one("b")
	wantClaims(t, claimIDs(t, s, total, 10), "b")
	c.add(patience)
	one("c")
	wantClaims(t, claimIDs(t, s, total, 10), "")
	drain(s.Wake())
	_, err := s.Cancel(ctx, "large", "")
	must(t, err)
	<-s.Wake()
	wantClaims(t, claimIDs(t, s, total, 10), "c")
}

func drain(c <-chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

func TestTime(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	at := func(d time.Duration) func(*Submission) {
		return func(s *Submission) { s.NotBefore = c.now().Add(d) }
	}
	until := func(d time.Duration) func(*Submission) {
		return func(s *Submission) { s.Expires = c.now().Add(d) }
	}
	submit(t, s, sub(named("soon"), at(time.Minute)), sub(named("later"), at(time.Hour)),
		sub(named("short"), until(30*time.Second)), sub(named("started"), until(time.Minute), priority(9)),
		sub(named("late"), at(2*time.Minute), until(90*time.Second)),
		sub(named("held"), until(30*time.Second), func(s *Submission) { s.Hold = "x" }))
	wantClaims(t, claimIDs(t, s, roomy, 1), "started")
	if d := s.NextDue(); !d.Equal(c.now().Add(30 * time.Second)) {
		t.Errorf("next due %s", d)
	}
	c.add(30 * time.Second)
	wantClaims(t, claimIDs(t, s, Capacity{}, 0), "")
	for _, id := range []string{"short", "held"} {
		if j := wantState(t, s, id, Failed); !strings.Contains(j.Reason, "expired") {
			t.Errorf("%s: %s", id, j.Reason)
		}
	}
	c.add(30 * time.Second)
	wantClaims(t, claimIDs(t, s, roomy, 9), "soon")
	wantState(t, s, "started", Preparing)
	_, err := s.Interrupt(ctx, "started", 1, "reboot") // it had started: it does not expire
	must(t, err)
	wantClaims(t, claimIDs(t, s, roomy, 9), "started")
	c.add(time.Minute)
	claim(t, s, roomy, 9)
	wantState(t, s, "late", Failed)
	_, err = s.Hold(ctx, "later", "not yet")
	must(t, err)
	j, err := s.Release(ctx, "later")
	must(t, err)
	if j.State != Delayed {
		t.Errorf("released to %s before its time", j.State)
	}
	c.add(time.Hour)
	wantClaims(t, claimIDs(t, s, roomy, 9), "later")
	if d := s.NextDue(); !d.IsZero() {
		t.Errorf("next due %s", d)
	}
}

// TestManyDue settles more than one transaction's worth.
func TestManyDue(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	subs := make([]Submission, 2*settleAtOnce+10)
	for i := range subs {
		subs[i] = sub(func(s *Submission) { s.NotBefore = c.now().Add(time.Second) })
	}
	submit(t, s, subs...)
	drain(s.Wake())
	c.add(time.Second)
	for n := 0; n < len(subs); {
		n += len(claim(t, s, Capacity{Slots: math.MaxInt32, CPUs: 1e6, Memory: math.MaxInt64}, 500))
		if n < len(subs) {
			<-s.Wake()
		}
	}
}

func TestDependencies(t *testing.T) {
	s := open(t)
	submit(t, s, sub(named("a")), sub(named("b")),
		sub(named("ab"), after("a", "b", "a")), sub(named("any"), afterAny("a", "b")),
		sub(named("mixed"), after("a"), afterAny("b", "a")),
		sub(named("chain"), after("ab")), sub(named("tail"), after("chain")), sub(named("anytail"), afterAny("chain")))
	wantClaims(t, claimIDs(t, s, roomy, 9), "a b")
	why, _, err := s.Why("ab", roomy)
	must(t, err)
	if len(why) != 1 || why[0].Kind != "after" || !strings.Contains(why[0].Text, "a, b") {
		t.Errorf("ab waits for %+v", why)
	}
	run(t, s, "a", 0)
	must(t, s.moveFinished(ctx)) // the end of one that is in the history counts as well
	wantClaims(t, claimIDs(t, s, roomy, 9), "")
	s = reopen(t, s)
	run(t, s, "b", 1)
	wantClaims(t, claimIDs(t, s, roomy, 9), "any mixed anytail")
	for id, on := range map[string]string{"ab": "b", "chain": "ab", "tail": "chain"} {
		if j := wantState(t, s, id, Failed); !strings.Contains(j.Reason, "job "+on+", which had to succeed first, failed") {
			t.Errorf("%s: %s", id, j.Reason)
		}
	}
	must(t, s.moveFinished(ctx))
	for id, want := range map[string]State{"a": Queued, "b": Failed, "tail": Failed} {
		if j := submit(t, s, sub(after(id)))[0]; j.State != want {
			t.Errorf("after %s: %s", id, j.State)
		}
	}
	// A job waits for its dependencies in every state, and a canceled one is waited for no more.
	submit(t, s, sub(named("x"), priority(0)), sub(named("held"), after("x"), func(s *Submission) { s.Hold = "h" }), sub(named("gone"), after("x")))
	_, err = s.Cancel(ctx, "gone", "")
	must(t, err)
	j, err := s.Release(ctx, "held")
	must(t, err)
	if j.State != Queued || j.startable() {
		t.Errorf("released %s, startable %t", j.State, j.startable())
	}
	_, err = s.Cancel(ctx, "x", "")
	must(t, err)
	if j := wantState(t, s, "held", Failed); !strings.Contains(j.Reason, "was canceled") {
		t.Error(j.Reason)
	}
}

// TestManyDependents settles a chain and a fan that are longer than one
// transaction may be, also when the store closes in between.
func TestManyDependents(t *testing.T) {
	for _, code := range []int{0, 1} {
		s := open(t)
		const n = 3*settleAtOnce + 7
		subs := []Submission{sub(named("root"))}
		for i := range n {
			subs = append(subs, sub(after("root")))
			prev := "root"
			if i > 0 {
				prev = fmt.Sprint("link", i-1)
			}
			subs = append(subs, sub(named(fmt.Sprint("link", i)), after(prev)))
		}
		submit(t, s, subs...)
		claim(t, s, roomy, 1)
		run(t, s, "root", code)
		s = reopen(t, s)
		want := map[int]State{0: Queued, 1: Failed}[code]
		for { // every probe is a commit, and each settles some more
			must(t, s.Probe(ctx))
			ready := 0
			must(t, s.do(ctx, func(t *txn) error {
				ready = countKeys(t.tx, bucketEnded)
				return nil
			}))
			if ready == 0 {
				break
			}
		}
		if got := s.Counts()[want]; got < n {
			t.Errorf("code %d: %d jobs are %s", code, got, want)
		}
		// With success only the fan and the first of the chain can start.
		if got := len(claim(t, s, Capacity{Slots: 1 << 20, CPUs: 1 << 19, Memory: 1 << 40}, 1<<20)); code == 0 && got != n+1 || code == 1 && got != 0 {
			t.Errorf("code %d: %d jobs could start", code, got)
		}
	}
}

func TestWhy(t *testing.T) {
	c := newClock()
	s := open(t, withClock(c))
	total := Capacity{Slots: 2, CPUs: 4, Memory: 8 << 30, GPUs: 1}
	submit(t, s, sub(named("r"), needs(3, 4<<30)))
	claim(t, s, total, 1)
	submit(t, s,
		sub(named("first"), ownedBy("b"), needs(1, 1<<30)),
		sub(named("turn"), needs(1, 1<<30)),
		sub(named("cpus"), needs(2, 1<<30)),
		sub(named("memory"), needs(1, 5<<30)),
		sub(named("large"), needs(8, 9<<30)),
		sub(named("gpus"), func(s *Submission) { s.Needs.GPUs = 2 }),
		sub(named("held"), func(s *Submission) { s.Hold = "look" }),
		sub(named("later"), func(s *Submission) { s.NotBefore = c.now().Add(time.Hour) }),
		sub(named("after"), after("turn")),
	)
	for id, want := range map[string]string{
		"first": "", "turn": "turn", "cpus": "cpus", "memory": "memory", "large": "too-large too-large", "gpus": "too-large",
		"held": "held", "later": "time", "after": "after", "r": "",
	} {
		waits, ahead, err := s.Why(id, total)
		must(t, err)
		var kinds []string
		for _, w := range waits {
			kinds = append(kinds, w.Kind)
			if w.Text == "" {
				t.Errorf("%s: no text for %s", id, w.Kind)
			}
		}
		if got := strings.Join(kinds, " "); got != want {
			t.Errorf("%s waits for %q, want %q", id, got, want)
		}
		if id == "turn" && ahead != 1 || id == "first" && ahead != 0 {
			t.Errorf("%d jobs are ahead of %s", ahead, id)
		}
	}
	claim(t, s, total, 1)
	waits, _, err := s.Why("turn", total)
	must(t, err)
	if len(waits) == 0 || waits[0].Kind != "slots" || waits[0].Text != "slots: it needs 1, 0 of 2 are free" {
		t.Errorf("with all slots taken: %+v", waits)
	}
	if _, _, err := s.Why("nobody", total); !errors.Is(err, ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

func TestSizeClass(t *testing.T) {
	last := byte(0)
	for n := int64(0); n < 1<<12; n++ {
		c := sizeClass(n)
		if c < last || leastOf(c) > n || sizeClass(leastOf(c)) != c {
			t.Fatalf("%d is of class %d, which begins at %d", n, c, leastOf(c))
		}
		last = c
	}
	for _, n := range []int64{math.MaxInt64, 1 << 62, 1<<62 - 1} {
		if c := sizeClass(n); leastOf(c) > n || sizeClass(leastOf(c)) != c {
			t.Errorf("%d is of class %d, which begins at %d", n, c, leastOf(c))
		}
	}
}
