package queue

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"math/bits"
	"time"
)

// The buckets of both files; the tree is drawn in doc.go.
var (
	bucketMeta       = []byte("meta")
	bucketJobs       = []byte("jobs")
	bucketLive       = []byte("live")
	bucketBodies     = []byte("bodies")
	bucketIDs        = []byte("ids")
	bucketStates     = []byte("states")
	bucketOwners     = []byte("owners")
	bucketReady      = []byte("ready")
	bucketDue        = []byte("due")
	bucketDependents = []byte("dependents")
	bucketEnded      = []byte("ended")
	bucketServed     = []byte("served")
	bucketOutbox     = []byte("outbox")
	bucketRevoked    = []byte("revoked")
	bucketFinished   = []byte("finished")
	bucketOrigins    = []byte("origins")
	bucketSecrets    = []byte("secrets")
	bucketReports    = []byte("reports")
	bucketDoubtful   = []byte("doubtful")
)

var (
	activeBuckets = [][]byte{
		bucketMeta, bucketJobs, bucketLive, bucketBodies, bucketIDs, bucketStates, bucketOwners, bucketReady,
		bucketDue, bucketDependents, bucketEnded, bucketServed, bucketOutbox, bucketRevoked,
		bucketOrigins, bucketSecrets, bucketReports, bucketDoubtful,
	}
	historyBuckets = [][]byte{
		bucketMeta, bucketJobs, bucketBodies, bucketIDs, bucketStates, bucketOwners, bucketFinished,
		bucketOrigins,
	}
)

// Keys of the bucket meta.
var (
	keySchema = []byte("schema")
	keyProbe  = []byte("probe")
)

// keyCount is the key under which meta counts the jobs in state s.
func keyCount(s State) []byte { return []byte{'#', s.code()} }

// code is s as the files hold it. Codes are never given to another state.
func (s State) code() byte {
	switch s {
	case Queued:
		return 1
	case Delayed:
		return 2
	case Held:
		return 3
	case Preparing:
		return 4
	case Running:
		return 5
	case Finishing:
		return 6
	case Succeeded:
		return 7
	case Failed:
		return 8
	case Canceled:
		return 9
	}
	return 0
}

// states in the order of their codes, from 1.
var states = [...]State{Queued, Delayed, Held, Preparing, Running, Finishing, Succeeded, Failed, Canceled}

func stateOf(code byte) State {
	if code < 1 || int(code) > len(states) {
		return ""
	}
	return states[code-1]
}

// ownerKey stands for an owner in keys: the head of the SHA-256 of its name, so
// that no table of names has to be kept in step.
type ownerKey [8]byte

func ownerOf(name string) ownerKey {
	sum := sha256.Sum256([]byte(name))
	return ownerKey(sum[:8])
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func seqOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

func timeKey(t time.Time) []byte {
	return binary.BigEndian.AppendUint64(nil, uint64(t.UnixNano()))
}

func timeOf(key []byte) time.Time {
	return time.Unix(0, int64(binary.BigEndian.Uint64(key))).UTC()
}

// Kinds of keys in the bucket due.
const (
	dueStart  byte = 1 // a delayed job becomes startable
	dueExpiry byte = 2 // a job that has not started by now fails
)

func dueKey(t time.Time, kind byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(timeKey(t), kind), seq)
}

// eventKey keeps the events of one job together and in order.
func eventKey(job, event uint64) []byte {
	return binary.BigEndian.AppendUint64(seqKey(job), event)
}

func stateKey(s State, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{s.code()}, seq)
}

func ownerSeqKey(o ownerKey, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), o[:]...), seq)
}

func dependentKey(on string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(on), 0), seq)
}

// laneLen is how long the name of a lane is whose jobs need neither scratch space nor swap.
const laneLen = 1 + 8 + 3

// laneKey names a lane, a bucket in ready: 9-priority, owner, and the classes of
// the job's needs.
func laneKey(j *Job) []byte {
	n := amountOf(j.Needs)
	k := make([]byte, 0, laneLen+2)
	k = append(k, byte(9-j.Priority))
	o := ownerOf(j.Owner)
	k = append(k, o[:]...)
	k = append(k, sizeClass(n.milli), sizeClass(n.memory), byte(min(n.gpus, math.MaxUint8)))
	return n.appendDiskClasses(k)
}

// appendDiskClasses ends the name of a lane whose jobs need scratch space or swap.
func (a amount) appendDiskClasses(k []byte) []byte {
	if a.scratch == 0 && a.swap == 0 {
		return k
	}
	return append(k, sizeClass(a.scratch), sizeClass(a.swap))
}

// leastIn is the smallest need that belongs in a lane.
func leastIn(lane []byte) amount {
	a := amount{slots: 1, milli: leastOf(lane[9]), memory: leastOf(lane[10]), gpus: int64(lane[11])}
	if len(lane) > laneLen {
		a.scratch, a.swap = leastOf(lane[laneLen]), leastOf(lane[laneLen+1])
	}
	return a
}

// sizeClass groups numbers within a quarter of a power of two, in order.
func sizeClass(n int64) byte {
	if n < 4 {
		return byte(n)
	}
	l := bits.Len64(uint64(n))
	return byte(l<<2) | byte(n>>(l-3))&3
}

// leastOf is the smallest number of a class.
func leastOf(class byte) int64 {
	if class < 4 {
		return int64(class)
	}
	return int64(4|class&3) << (class>>2 - 3)
}

// entry is one key of an index.
type entry struct {
	bucket, lane []byte // lane is a bucket in bucket, or nil
	key, value   []byte
}

// same tells whether two entries have one key.
func (e entry) same(o entry) bool {
	return bytes.Equal(e.bucket, o.bucket) && bytes.Equal(e.lane, o.lane) && bytes.Equal(e.key, o.key)
}

// rowBucket is where the row of j is written. Jobs that were claimed are few and
// change often: apart from those that wait, their rows stay within few pages.
func rowBucket(j *Job) []byte {
	if j.Attempt > 0 {
		return bucketLive
	}
	return bucketJobs
}

// entries are the index keys that the row of an active job asks for, and
// nothing but the row decides: changing a job means to remove what the old row
// asks for and to add what the new one does. Keys of dependents are apart: they
// belong to two jobs.
func entries(j *Job) []entry {
	es := make([]entry, 0, 4)
	es = append(es, entry{bucket: bucketOwners, key: ownerSeqKey(ownerOf(j.Owner), j.Seq)})
	if j.startable() {
		es = append(es, entry{bucket: bucketReady, lane: laneKey(j), key: seqKey(j.Seq), value: readyValue(j)})
	} else {
		es = append(es, entry{bucket: bucketStates, key: stateKey(j.State, j.Seq), value: stateValue(j)})
	}
	if j.Doubtful {
		es = append(es, entry{bucket: bucketDoubtful, key: seqKey(j.Seq)})
	}
	if j.State == Delayed {
		es = append(es, entry{bucket: bucketDue, key: dueKey(j.NotBefore, dueStart, j.Seq)})
	}
	if j.expires() {
		es = append(es, entry{bucket: bucketDue, key: dueKey(j.Expires, dueExpiry, j.Seq)})
	}
	return es
}

// historyEntries are the index keys of a row of the history.
func historyEntries(j *Job) []entry {
	return []entry{
		{bucket: bucketStates, key: stateKey(j.State, j.Seq)},
		{bucket: bucketOwners, key: ownerSeqKey(ownerOf(j.Owner), j.Seq)},
		{bucket: bucketFinished, key: append(timeKey(j.Finished), seqKey(j.Seq)...)},
	}
}

// startable tells whether a claim may take j as far as j alone is concerned.
func (j *Job) startable() bool { return j.State == Queued && j.pending == 0 && !j.Doubtful }

// expires tells whether j fails when its time of expiry comes: until its first attempt.
func (j *Job) expires() bool {
	return !j.Expires.IsZero() && j.Attempt == 0 && (j.State == Queued || j.State == Delayed || j.State == Held)
}

// stateValue is the needs of a job that holds resources.
func stateValue(j *Job) []byte {
	if j.State != Preparing && j.State != Running {
		return nil
	}
	a := amountOf(j.Needs)
	return a.appendDisk(a.append(nil))
}

// readyValue is the job's needs and when it was first overtaken, 0 for never.
func readyValue(j *Job) []byte {
	a := amountOf(j.Needs)
	v := a.append(make([]byte, 0, 48))
	return a.appendDisk(binary.BigEndian.AppendUint64(v, uint64(nanos(j.passed))))
}

// amount is Needs and Capacity in whole numbers: thousandths of a cpu, bytes, devices.
type amount struct {
	slots, milli, memory, gpus, scratch, swap int64
}

// amountLen is what append writes.
const amountLen = 24

func amountOf(n Needs) amount {
	return amount{slots: 1, milli: int64(math.Ceil(n.CPUs*1000 - 1e-6)), memory: n.Memory, gpus: int64(n.GPUs), scratch: n.Scratch, swap: n.Swap}
}

func capacityOf(c Capacity) amount {
	return amount{slots: int64(c.Slots), milli: int64(math.Floor(c.CPUs*1000 + 1e-6)), memory: c.Memory, gpus: int64(c.GPUs), scratch: c.Scratch, swap: c.Swap}
}

func (a amount) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(a.milli))
	b = binary.BigEndian.AppendUint64(b, uint64(a.memory))
	return binary.BigEndian.AppendUint64(b, uint64(a.gpus))
}

// appendDisk adds what few jobs need, at the end of a value: values of jobs that do
// not are those of releases that did not count it.
func (a amount) appendDisk(b []byte) []byte {
	if a.scratch == 0 && a.swap == 0 {
		return b
	}
	b = binary.BigEndian.AppendUint64(b, uint64(a.scratch))
	return binary.BigEndian.AppendUint64(b, uint64(a.swap))
}

// readAmount reads what append wrote, and appendDisk from byte disk on: the needs of
// one job.
func readAmount(b []byte, disk int) amount {
	a := amount{
		slots:  1,
		milli:  int64(binary.BigEndian.Uint64(b)),
		memory: int64(binary.BigEndian.Uint64(b[8:])),
		gpus:   int64(binary.BigEndian.Uint64(b[16:])),
	}
	if len(b) >= disk+16 {
		a.scratch = int64(binary.BigEndian.Uint64(b[disk:]))
		a.swap = int64(binary.BigEndian.Uint64(b[disk+8:]))
	}
	return a
}

func (a amount) plus(b amount) amount {
	return amount{a.slots + b.slots, a.milli + b.milli, a.memory + b.memory, a.gpus + b.gpus, a.scratch + b.scratch, a.swap + b.swap}
}

// minus may go below zero: a limit that was lowered under running jobs.
func (a amount) minus(b amount) amount {
	return amount{a.slots - b.slots, a.milli - b.milli, a.memory - b.memory, a.gpus - b.gpus, a.scratch - b.scratch, a.swap - b.swap}
}

// kept is what of need is kept for a job when a is what is free. Scratch space and
// swap may be short for as long as another job runs, days: cpus that idle meanwhile
// would bring the start no nearer.
func (a amount) kept(need amount) amount {
	if enough(a.scratch, need.scratch) && enough(a.swap, need.swap) {
		return need
	}
	return amount{scratch: need.scratch, swap: need.swap}
}

// reserve takes b away as far as it is there. What b does not need stays.
func (a amount) reserve(b amount) amount {
	r := a
	for _, f := range []struct {
		have *int64
		need int64
	}{{&r.slots, b.slots}, {&r.milli, b.milli}, {&r.memory, b.memory}, {&r.gpus, b.gpus}, {&r.scratch, b.scratch}, {&r.swap, b.swap}} {
		*f.have = max(*f.have-f.need, min(*f.have, 0))
	}
	return r
}

// fits tells whether b is there. What b does not need may be overdrawn.
func (a amount) fits(b amount) bool {
	return enough(a.slots, b.slots) && enough(a.milli, b.milli) && enough(a.memory, b.memory) && enough(a.gpus, b.gpus) &&
		enough(a.scratch, b.scratch) && enough(a.swap, b.swap)
}

func enough(have, need int64) bool { return need == 0 || need <= have }

// nanos is t as rows hold it: 0 for the zero time.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeFrom(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// clean is t as it comes back from a row.
func clean(t time.Time) time.Time { return timeFrom(nanos(t)) }
