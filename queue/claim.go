package queue

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Capacity is what the machine has for jobs.
type Capacity struct {
	Slots  int
	CPUs   float64
	Memory int64
	GPUs   int
	// Scratch is what is free on the disk, with all that jobs have written to
	// theirs: what they may still write is InUse. Swap is the machine's.
	Scratch, Swap int64
}

// patience is how long a job that does not fit lets others overtake it.
const patience = 10 * time.Minute

// laneDepth bounds how many jobs of one lane a claim looks at that do not fit.
// Jobs of a lane differ by less than a quarter in size, so those behind that
// many of them seldom would.
const laneDepth = 32

// readAhead is how many keys of a lane are read at a time.
const readAhead = 8

// InUse is what jobs in preparing and running take; derived from the jobs, never counted apart.
func (s *Store) InUse() (c Capacity) {
	err := s.active.view(func(tx *bolt.Tx) error {
		used, err := inUse(tx)
		c = Capacity{Slots: int(used.slots), CPUs: float64(used.milli) / 1000, Memory: used.memory, GPUs: int(used.gpus), Scratch: used.scratch, Swap: used.swap}
		return err
	})
	if err != nil && !errors.Is(err, ErrClosed) {
		s.log.Error("Cannot read what is in use", "err", err)
	}
	return c
}

func inUse(tx *bolt.Tx) (used amount, err error) {
	for _, st := range []State{Preparing, Running} {
		err = eachIn(tx, st, func(_ uint64, v []byte) error {
			used = used.plus(readAmount(v, amountLen))
			return nil
		})
		if err != nil {
			return amount{}, err
		}
	}
	return used, nil
}

// Claim moves at most max startable jobs that fit into total less InUse to
// preparing, with a new attempt number, in the order of fairness. It also
// settles what has become due: delayed jobs, expiry, dependencies. A daemon
// that is paused claims with max 0 for their sake. The jobs come with their bodies.
func (s *Store) Claim(ctx context.Context, total Capacity, bootID string, max int) (claimed []Job, err error) {
	err = s.do(ctx, func(t *txn) error {
		claimed, err = t.claimMost(capacityOf(total), bootID, max)
		return err
	})
	if err != nil {
		return nil, err
	}
	return claimed, nil
}

// Standing is a claim that stands. The committer makes it in every transaction that
// may have made something startable, so that a job which finds room when it is
// submitted, or another one ends, is claimed without a commit of its own.
type Standing struct {
	BootID string
	// Room is asked before each transaction: what the machine has, and how many jobs
	// may be claimed at most. Begin gets the jobs that were claimed, with their bodies,
	// once that is durable, and is called with none when a claim found none. The
	// committer calls both: they must return at once, and call no method of the store
	// that changes something.
	Room  func() (total Capacity, most int)
	Begin func(claimed []Job)
}

// Stand has c stand, in place of what stood before; nil is nothing. The functions of
// that are not called any more when Stand has returned.
func (s *Store) Stand(c *Standing) {
	s.standMu.Lock()
	defer s.standMu.Unlock()
	s.standing = c
}

// Look makes the claim that stands, whatever has been committed: time has passed,
// there is more room, or what was to be claimed with other changes was not.
func (s *Store) Look(ctx context.Context) error {
	return s.do(ctx, (*txn).claimStanding)
}

// claimStanding makes the claim that stands as far as it was not made in t.
func (t *txn) claimStanding() error {
	if t.standing == nil {
		return nil
	}
	claimed, err := t.claimMost(t.room, t.standing.BootID, t.most)
	if err != nil {
		return err
	}
	t.claimed, t.most, t.made = append(t.claimed, claimed...), t.most-len(claimed), true
	return nil
}

// claimMost settles what is due and claims.
func (t *txn) claimMost(total amount, bootID string, max int) (claimed []Job, err error) {
	done, err := t.settleConfirmed()
	if err != nil {
		return nil, err
	}
	if err := t.settleSetBack(); err != nil {
		return nil, err
	}
	more, err := t.settleDue()
	if err != nil {
		return nil, err
	}
	if err := t.settleEnded(); err != nil {
		return nil, err
	}
	p, err := planClaim(t.tx, total, max, t.now)
	if err != nil {
		return nil, err
	}
	for _, seq := range p.overtaken {
		if err := t.overtaken(seq); err != nil {
			return nil, err
		}
	}
	for i, c := range p.claims {
		j, err := t.claim(c, p.served+uint64(i)+1, bootID)
		if err != nil {
			return nil, err
		}
		claimed = append(claimed, j)
	}
	if n := len(p.claims); n > 0 {
		if err := t.bucket(bucketServed).SetSequence(p.served + uint64(n)); err != nil {
			return nil, err
		}
	}
	t.durable = append(t.durable, done)
	// What was left undone is a reason to come again.
	t.wake = more || max == 0 && t.wake || max > 0 && len(claimed) == max
	return claimed, nil
}

// claim starts an attempt of the job that stands at c.
func (t *txn) claim(c candidate, stamp uint64, bootID string) (Job, error) {
	j, err := loadSeq(t.tx, c.seq)
	if err != nil {
		return Job{}, err
	}
	err = t.move(&j, Preparing, func(j *Job) {
		j.Attempt++
		j.Claimed, j.Started, j.Exited = t.now, time.Time{}, time.Time{}
		j.Result, j.Reason, j.BootID = nil, "", bootID
	})
	if err != nil {
		return Job{}, err
	}
	loadBodies(t.tx, &j)
	return j, t.put(bucketServed, c.owner[:], binary.BigEndian.AppendUint64(nil, stamp))
}

// overtaken notes when the patience of a job began.
func (t *txn) overtaken(seq uint64) error {
	j, err := loadSeq(t.tx, seq)
	if err != nil {
		return err
	}
	return t.edit(&j, func(j *Job) { j.passed = t.now })
}

// plan is what a claim will do, found without changing anything.
type plan struct {
	claims    []candidate
	overtaken []uint64      // jobs whose patience begins
	reserved  []reservation // for jobs whose patience is over and that still do not fit
	free      amount        // what is left
	served    uint64        // the last stamp before this claim
}

// reservation is what is kept for a job as it comes free.
type reservation struct {
	seq  uint64
	kept amount
}

// candidate is a startable job as the index shows it.
type candidate struct {
	seq    uint64
	owner  ownerKey
	need   amount
	passed time.Time
}

// lane is the startable jobs of one priority and owner with needs of the same
// size, first come first. What is in a lane is looked at in order and only as
// far as needed, so a claim costs steps for lanes and not for jobs.
type lane struct {
	owner   ownerKey
	least   amount // the smallest need that belongs here
	keys    *bolt.Cursor
	waiting []candidate // read ahead, not judged yet
	skipped int
	// first is the oldest job of the lane that does not fit.
	first *candidate
}

// planner walks the index ready.
type planner struct {
	plan
	tx    *bolt.Tx
	total amount
	max   int
	now   time.Time
	stamp map[ownerKey]uint64 // when an owner was last served
	// above are jobs of higher priority that do not fit: whatever is claimed
	// now overtakes them.
	above []*candidate
}

// planClaim chooses by priority, then the owner served least recently, then
// the job that came first. A job that does not fit is overtaken by those that do
// until its patience is over; then what it needs is kept for it, as it comes
// free: scratch space and swap first, the rest once these are there. A job larger
// than the machine is in nobody's way.
func planClaim(tx *bolt.Tx, total amount, max int, now time.Time) (*plan, error) {
	used, err := inUse(tx)
	if err != nil {
		return nil, err
	}
	p := &planner{tx: tx, total: total, max: max, now: now, stamp: make(map[ownerKey]uint64)}
	p.free = total.minus(used)
	p.plan.served = tx.Bucket(bucketServed).Sequence()
	for level := byte(0); level <= 9 && p.open(); level++ {
		lanes := p.lanes(level)
		p.patient(lanes)
		p.roundRobin(lanes)
		for _, l := range lanes {
			if l.first != nil {
				p.above = append(p.above, l.first)
			}
		}
	}
	return &p.plan, nil
}

func (p *planner) open() bool { return p.free.slots > 0 && len(p.claims) < p.max }

// lanes finds the lanes of a priority, each with its first job.
func (p *planner) lanes(level byte) (lanes []*lane) {
	ready := p.tx.Bucket(bucketReady)
	c := ready.Cursor()
	for name, _ := c.Seek([]byte{level}); name != nil && name[0] == level; name, _ = c.Next() {
		l := &lane{owner: ownerKey(name[1:9]), keys: ready.Bucket(name).Cursor()}
		l.least = leastIn(name)
		k, v := l.keys.First()
		l.waiting = append(l.waiting, l.candidate(k, v))
		if _, ok := p.stamp[l.owner]; !ok {
			if v := p.tx.Bucket(bucketServed).Get(l.owner[:]); v != nil {
				p.stamp[l.owner] = binary.BigEndian.Uint64(v)
			}
		}
		lanes = append(lanes, l)
	}
	return lanes
}

func (l *lane) candidate(k, v []byte) candidate {
	return candidate{
		seq: seqOf(k), owner: l.owner, need: readAmount(v, amountLen+8),
		passed: timeFrom(int64(binary.BigEndian.Uint64(v[amountLen:]))),
	}
}

// more reads the next jobs of the lane ahead.
func (l *lane) more() bool {
	for len(l.waiting) < readAhead {
		k, v := l.keys.Next()
		if k == nil {
			break
		}
		l.waiting = append(l.waiting, l.candidate(k, v))
	}
	return len(l.waiting) > 0
}

// patient serves the jobs whose patience is over, the longest overtaken first,
// and keeps for the others what they need.
func (p *planner) patient(lanes []*lane) {
	var over []*lane
	for _, l := range lanes {
		h := l.waiting[0]
		// What begins in the future began before the clock was set back.
		late := p.now.Sub(h.passed) >= patience || p.now.Before(h.passed)
		if !h.passed.IsZero() && late && p.total.fits(h.need) {
			over = append(over, l)
		}
	}
	slices.SortFunc(over, func(a, b *lane) int {
		return cmp.Or(a.waiting[0].passed.Compare(b.waiting[0].passed), cmp.Compare(a.waiting[0].seq, b.waiting[0].seq))
	})
	for _, l := range over {
		if !p.open() {
			return
		}
		h := l.waiting[0]
		l.waiting = l.waiting[1:]
		if p.free.fits(h.need) {
			p.take(h)
			continue
		}
		kept := p.free.kept(h.need)
		p.reserved = append(p.reserved, reservation{h.seq, kept})
		p.free = p.free.reserve(kept)
		l.skip(h)
	}
}

// roundRobin claims for the owners in turn until nothing fits any more.
func (p *planner) roundRobin(lanes []*lane) {
	for p.open() {
		var best *lane
		for _, l := range lanes {
			if p.advance(l) && (best == nil || p.before(l.waiting[0], best.waiting[0])) {
				best = l
			}
		}
		if best == nil {
			return
		}
		c := best.waiting[0]
		best.waiting = best.waiting[1:]
		for _, h := range p.above {
			p.pass(h)
		}
		for _, l := range lanes {
			if l.first != nil && p.before(*l.first, c) {
				p.pass(l.first)
			}
		}
		p.take(c)
	}
}

// before tells whether a has its turn before b at the same priority.
func (p *planner) before(a, b candidate) bool {
	return cmp.Or(cmp.Compare(p.stamp[a.owner], p.stamp[b.owner]), cmp.Compare(a.seq, b.seq)) < 0
}

func (p *planner) take(c candidate) {
	p.claims = append(p.claims, c)
	p.free = p.free.minus(c.need)
	p.stamp[c.owner] = p.served + uint64(len(p.claims))
}

// pass notes that c was overtaken, once, unless it never could start.
func (p *planner) pass(c *candidate) {
	if c.passed.IsZero() && p.total.fits(c.need) {
		c.passed = p.now
		p.overtaken = append(p.overtaken, c.seq)
	}
}

// advance makes the first job of l that fits the first of l.waiting. What is
// free only shrinks during a claim, so what did not fit is not looked at again.
func (p *planner) advance(l *lane) bool {
	for l.skipped < laneDepth {
		if len(l.waiting) == 0 && !l.more() {
			return false
		}
		c := l.waiting[0]
		if p.free.fits(c.need) {
			return true
		}
		if l.first != nil && !p.free.fits(l.least) {
			return false // no job of this lane does
		}
		l.waiting = l.waiting[1:]
		l.skip(c)
	}
	return false
}

func (l *lane) skip(c candidate) {
	l.skipped++
	if l.first == nil {
		l.first = &c
	}
}

// NextDue is when Claim has something to do again without any other change;
// zero when nothing waits for time.
func (s *Store) NextDue() (due time.Time) {
	at := s.clock.read()
	err := s.active.view(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketDue).Cursor()
		k, _ := c.First()
		for ; k != nil && k[8] != dueStart && !timeOf(k).After(at.now) && timeOf(k).After(at.sure); k, _ = c.Next() {
			due = at.now.Add(clockStep) // the clock is not believed yet
		}
		if k != nil && (due.IsZero() || timeOf(k).Before(due)) {
			due = timeOf(k)
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrClosed) {
		s.log.Error("Cannot read what is due", "err", err)
	}
	return due
}
