package queue

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Rows are protobuf messages without a schema file: small, quick, and open to
// new fields, which older rows simply lack. The numbers below are the schema. A
// number is never given to another field; a new field takes the next one.
const (
	fieldID protowire.Number = iota + 1
	fieldVersion
	fieldSource
	fieldOwner
	fieldIdentity // 1 uid, 2 gid, 3 groups, 4 user, 5 submitter, 6 pid, 7 seal
	fieldName
	fieldTask
	fieldImage
	fieldPriority
	fieldState // its code
	fieldReason
	fieldCancelRequested
	fieldCancelReason
	fieldNeeds  // 1 cpus (IEEE 754), 2 memory, 3 gpus
	fieldLimits // 1 hard, 2 soft, 3 idle
	fieldAttempt
	fieldFailures
	fieldRetry // 1 max, 2 delay, 3 fail interrupted
	fieldAfter
	fieldAfterAny
	fieldNotBefore // times are nanoseconds since 1970
	fieldExpires
	fieldCreated
	fieldQueued
	fieldClaimed
	fieldStarted
	fieldExited
	fieldFinished
	fieldResult // 1 outcome, 2 code, 3 error, 4 detail
	fieldBodyHash
	fieldBootID
	fieldReport // a bit for each sink
	fieldPending
	fieldPassed
	fieldUntold
	fieldDoubtful
	fieldHandedBack
)

// message builds a row. Zero values are left out.
type message []byte

func (m *message) string(n protowire.Number, v string) {
	if v != "" {
		*m = protowire.AppendString(protowire.AppendTag(*m, n, protowire.BytesType), v)
	}
}

func (m *message) bytes(n protowire.Number, v []byte) {
	if len(v) > 0 {
		*m = protowire.AppendBytes(protowire.AppendTag(*m, n, protowire.BytesType), v)
	}
}

func (m *message) int(n protowire.Number, v int64) {
	if v != 0 {
		*m = protowire.AppendVarint(protowire.AppendTag(*m, n, protowire.VarintType), protowire.EncodeZigZag(v))
	}
}

func (m *message) bool(n protowire.Number, v bool) {
	if v {
		m.int(n, 1)
	}
}

func (m *message) float(n protowire.Number, v float64) {
	if v != 0 {
		*m = protowire.AppendFixed64(protowire.AppendTag(*m, n, protowire.Fixed64Type), math.Float64bits(v))
	}
}

func (m *message) time(n protowire.Number, t time.Time) { m.int(n, nanos(t)) }

// encodeJob is j without its sequence, which is its key, and without its body.
func encodeJob(j *Job) []byte {
	m := message(make([]byte, 0, 384))
	m.string(fieldID, j.ID)
	m.int(fieldVersion, int64(j.Version))
	m.string(fieldSource, string(j.Source))
	m.string(fieldOwner, j.Owner)
	var sub message
	sub.int(1, int64(j.Identity.UID))
	sub.int(2, int64(j.Identity.GID))
	for _, g := range j.Identity.Groups {
		sub = protowire.AppendVarint(protowire.AppendTag(sub, 3, protowire.VarintType), protowire.EncodeZigZag(int64(g)))
	}
	sub.string(4, j.Identity.User)
	sub.int(5, int64(j.Identity.Submitter))
	sub.int(6, int64(j.Identity.PID))
	sub.string(7, j.Identity.Seal)
	m.bytes(fieldIdentity, sub)
	m.string(fieldName, j.Name)
	m.string(fieldTask, j.Task)
	m.string(fieldImage, j.Image)
	m.int(fieldPriority, int64(j.Priority))
	m.int(fieldState, int64(j.State.code()))
	m.string(fieldReason, j.Reason)
	m.bool(fieldCancelRequested, j.CancelRequested)
	m.string(fieldCancelReason, j.CancelReason)
	sub = sub[:0]
	sub.float(1, j.Needs.CPUs)
	sub.int(2, j.Needs.Memory)
	sub.int(3, int64(j.Needs.GPUs))
	sub.int(4, j.Needs.Scratch)
	sub.int(5, j.Needs.Swap)
	m.bytes(fieldNeeds, sub)
	sub = sub[:0]
	sub.int(1, int64(j.Limits.Hard))
	sub.int(2, int64(j.Limits.Soft))
	sub.int(3, int64(j.Limits.Idle))
	m.bytes(fieldLimits, sub)
	m.int(fieldAttempt, int64(j.Attempt))
	m.int(fieldFailures, int64(j.Failures))
	sub = sub[:0]
	sub.int(1, int64(j.Retry.Max))
	sub.int(2, int64(j.Retry.Delay))
	sub.bool(3, j.Retry.FailInterrupted)
	m.bytes(fieldRetry, sub)
	for _, id := range j.After {
		m.string(fieldAfter, id)
	}
	for _, id := range j.AfterAny {
		m.string(fieldAfterAny, id)
	}
	m.time(fieldNotBefore, j.NotBefore)
	m.time(fieldExpires, j.Expires)
	m.time(fieldCreated, j.Created)
	m.time(fieldQueued, j.Queued)
	m.time(fieldClaimed, j.Claimed)
	m.time(fieldStarted, j.Started)
	m.time(fieldExited, j.Exited)
	m.time(fieldFinished, j.Finished)
	if j.Result != nil {
		m = protowire.AppendBytes(protowire.AppendTag(m, fieldResult, protowire.BytesType), encodeResult(j.Result))
	}
	m.string(fieldBodyHash, j.BodyHash)
	m.string(fieldBootID, j.BootID)
	m.int(fieldReport, int64(j.Report))
	m.int(fieldPending, int64(j.pending))
	m.time(fieldPassed, j.passed)
	m.string(fieldUntold, j.Untold)
	m.bool(fieldDoubtful, j.Doubtful)
	m.bool(fieldHandedBack, j.HandedBack)
	return m
}

func encodeResult(r *Result) []byte {
	var m message
	m.string(1, r.Outcome)
	m.int(2, int64(r.Code))
	m.string(3, r.Error)
	m.bytes(4, r.Detail)
	return m
}

// field is one field of a message as it was read.
type field struct {
	num protowire.Number
	n   uint64 // varint or fixed64
	b   []byte // bytes; part of the message
}

func (f field) int() int64      { return protowire.DecodeZigZag(f.n) }
func (f field) time() time.Time { return timeFrom(f.int()) }

var errRow = errors.New("damaged row")

// fields calls each with every field of b. It keeps nothing of b.
func fields(b []byte, each func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errRow
		}
		b = b[n:]
		f := field{num: num}
		switch typ {
		case protowire.VarintType:
			f.n, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			f.n, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			f.b, n = protowire.ConsumeBytes(b)
		default:
			return errRow
		}
		if n < 0 {
			return errRow
		}
		b = b[n:]
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

// decodeJob copies everything out of row, which bbolt takes back with the transaction.
func decodeJob(seq uint64, row []byte) (Job, error) {
	j := Job{Seq: seq}
	err := fields(row, func(f field) error {
		switch f.num {
		case fieldID:
			j.ID = string(f.b)
		case fieldVersion:
			j.Version = uint64(f.int())
		case fieldSource:
			j.Source = Source(f.b)
		case fieldOwner:
			j.Owner = string(f.b)
		case fieldIdentity:
			return fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					j.Identity.UID = int(f.int())
				case 2:
					j.Identity.GID = int(f.int())
				case 3:
					j.Identity.Groups = append(j.Identity.Groups, int(f.int()))
				case 4:
					j.Identity.User = string(f.b)
				case 5:
					j.Identity.Submitter = int(f.int())
				case 6:
					j.Identity.PID = int(f.int())
				case 7:
					j.Identity.Seal = string(f.b)
				}
				return nil
			})
		case fieldName:
			j.Name = string(f.b)
		case fieldTask:
			j.Task = string(f.b)
		case fieldImage:
			j.Image = string(f.b)
		case fieldPriority:
			j.Priority = int(f.int())
		case fieldState:
			j.State = stateOf(byte(f.int()))
		case fieldReason:
			j.Reason = string(f.b)
		case fieldCancelRequested:
			j.CancelRequested = f.int() != 0
		case fieldCancelReason:
			j.CancelReason = string(f.b)
		case fieldNeeds:
			return fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					j.Needs.CPUs = math.Float64frombits(f.n)
				case 2:
					j.Needs.Memory = f.int()
				case 3:
					j.Needs.GPUs = int(f.int())
				case 4:
					j.Needs.Scratch = f.int()
				case 5:
					j.Needs.Swap = f.int()
				}
				return nil
			})
		case fieldLimits:
			return fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					j.Limits.Hard = time.Duration(f.int())
				case 2:
					j.Limits.Soft = time.Duration(f.int())
				case 3:
					j.Limits.Idle = time.Duration(f.int())
				}
				return nil
			})
		case fieldAttempt:
			j.Attempt = int(f.int())
		case fieldFailures:
			j.Failures = int(f.int())
		case fieldRetry:
			return fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					j.Retry.Max = int(f.int())
				case 2:
					j.Retry.Delay = time.Duration(f.int())
				case 3:
					j.Retry.FailInterrupted = f.int() != 0
				}
				return nil
			})
		case fieldAfter:
			j.After = append(j.After, string(f.b))
		case fieldAfterAny:
			j.AfterAny = append(j.AfterAny, string(f.b))
		case fieldNotBefore:
			j.NotBefore = f.time()
		case fieldExpires:
			j.Expires = f.time()
		case fieldCreated:
			j.Created = f.time()
		case fieldQueued:
			j.Queued = f.time()
		case fieldClaimed:
			j.Claimed = f.time()
		case fieldStarted:
			j.Started = f.time()
		case fieldExited:
			j.Exited = f.time()
		case fieldFinished:
			j.Finished = f.time()
		case fieldResult:
			r, err := decodeResult(f.b)
			j.Result = r
			return err
		case fieldBodyHash:
			j.BodyHash = string(f.b)
		case fieldBootID:
			j.BootID = string(f.b)
		case fieldReport:
			j.Report = Sinks(f.int())
		case fieldDoubtful:
			j.Doubtful = f.int() != 0
		case fieldHandedBack:
			j.HandedBack = f.int() != 0
		case fieldPending:
			j.pending = int(f.int())
		case fieldPassed:
			j.passed = f.time()
		case fieldUntold:
			j.Untold = string(f.b)
		}
		return nil
	})
	if err == nil && (j.State == "" || j.ID == "") {
		err = errRow
	}
	if err != nil {
		return Job{}, fmt.Errorf("cannot read job %d: %w", seq, err)
	}
	return j, nil
}

func decodeResult(b []byte) (*Result, error) {
	r := new(Result)
	err := fields(b, func(f field) error {
		switch f.num {
		case 1:
			r.Outcome = string(f.b)
		case 2:
			r.Code = int(f.int())
		case 3:
			r.Error = string(f.b)
		case 4:
			r.Detail = json.RawMessage(append([]byte(nil), f.b...))
		}
		return nil
	})
	return r, err
}

// encodeEvent is a row of the outbox without its sequence: 1 job, 2 attempt,
// 3 state, 4 time, 5 result, 6 the sinks that want it and do not have it.
func encodeEvent(e *Event) []byte {
	var m message
	m.string(1, e.Job)
	m.int(2, int64(e.Attempt))
	m.int(3, int64(e.State.code()))
	m.time(4, e.Time)
	if e.Result != nil {
		m = protowire.AppendBytes(protowire.AppendTag(m, 5, protowire.BytesType), encodeResult(e.Result))
	}
	m.int(6, int64(e.Left))
	return m
}

func decodeEvent(key, b []byte) (Event, error) {
	if len(key) != 16 {
		return Event{}, fmt.Errorf("cannot read event %x: %w", key, errRow)
	}
	seq := seqOf(key)
	e := Event{Seq: seq, JobSeq: binary.BigEndian.Uint64(key)}
	err := fields(b, func(f field) (err error) {
		switch f.num {
		case 1:
			e.Job = string(f.b)
		case 2:
			e.Attempt = int(f.int())
		case 3:
			e.State = stateOf(byte(f.int()))
		case 4:
			e.Time = f.time()
		case 5:
			e.Result, err = decodeResult(f.b)
		case 6:
			e.Left = Sinks(f.int())
		}
		return err
	})
	if err != nil {
		return Event{}, fmt.Errorf("cannot read event %d: %w", seq, err)
	}
	return e, nil
}
