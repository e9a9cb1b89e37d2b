package jobsync

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"girderworker/daemon/attempt"
	"girderworker/transforms/girder"
)

const (
	// pieceSize is the most text that one call carries, in bytes. Girder trims a
	// log by whole pieces.
	pieceSize = 64 << 10
	// logEvery is the least time between two flushes of a running job's log;
	// a silent one is looked at less often, down to logSeldom.
	logEvery, logSeldom = 500 * time.Millisecond, 2 * time.Second
	// flushAtOnce is how many pieces a flush of a running job has at most;
	// drainAtOnce how many are sent of an ended one before others have their turn.
	flushAtOnce, drainAtOnce = 16, 64
	// keepRecent is how many hashes of pieces are kept to find the log's end by.
	keepRecent = 8
)

// cursor is a place in the logs of a job's attempts.
type cursor struct {
	Attempt int   `json:"attempt"`
	Offset  int64 `json:"offset"` // of a record, as [attempt.LogReader.Offset] counts
	Within  int   `json:"within,omitempty"`
}

// intent is a piece of log before it is known to have arrived.
type intent struct {
	Next    cursor `json:"next"`
	Length  int    `json:"length"`
	Hash    string `json:"hash"`
	Open    bool   `json:"open,omitempty"`
	Failure bool   `json:"failure,omitempty"` // it is the error, not output

	// uncertain: it may have arrived; cause is why that is not known.
	uncertain bool
	cause     error
}

// piece is the next text of a log.
type piece struct {
	text string
	next cursor
}

// follow sends what a live attempt has written since the last time.
func (s *Syncer) follow(ctx context.Context, r *report, now time.Time) error {
	if err := s.readProgress(r); err != nil {
		return err
	}
	sent := false
	for range flushAtOnce {
		p, err := s.piece(r)
		if err != nil {
			return err
		}
		if p.text == "" {
			break
		}
		sent = true
		if err := s.send(ctx, r, p, false); err != nil {
			return err
		}
	}
	if r.live.unsent() || r.live.stageDue(now) {
		sent = true
		if err := s.tell(ctx, r, r.withProgress(girder.JobReport{}, now)); err != nil {
			return err
		}
	}
	if sent {
		r.look = logEvery
	} else {
		r.look = min(r.look*5/4, logSeldom)
	}
	return nil
}

// drain sends the log to its end. more: there is some left after that many pieces.
func (s *Syncer) drain(ctx context.Context, r *report, pieces int) (more bool, err error) {
	for range pieces {
		p, err := s.piece(r)
		if err != nil {
			return false, err
		}
		if p.text == "" {
			return false, nil
		}
		if err := s.send(ctx, r, p, false); err != nil {
			return false, err
		}
	}
	return true, nil
}

// sendFailure appends why the job failed.
func (s *Syncer) sendFailure(ctx context.Context, r *report) error {
	if r.state.Failure || r.state.NoLog || r.target.Silent {
		return nil
	}
	failure := FailureOf(&r.job)
	if failure.Traceback != "" {
		return nil // it has told of it itself
	}
	text := failure.String() + "\n"
	if len(text) > pieceSize {
		text = strings.ToValidUTF8(text[:pieceSize-1], "") + "\n"
	}
	if r.state.Open {
		text = "\n" + text
	}
	return s.send(ctx, r, piece{strings.ToValidUTF8(text, "\ufffd"), r.state.Cursor}, true)
}

// piece reads the next text, empty when there is none yet or no more.
func (s *Syncer) piece(r *report) (piece, error) {
	at := r.state.Cursor
	if r.state.NoLog || r.target.Silent {
		return piece{next: at}, nil
	}
	for at.Attempt = max(at.Attempt, 1); at.Attempt <= r.job.Attempt; at = (cursor{Attempt: at.Attempt + 1}) {
		dir, err := attempt.NewDir(s.stateDir, r.job.ID, at.Attempt)
		if err != nil {
			return piece{}, &localError{err}
		}
		ended := at.Attempt < r.job.Attempt || !r.job.State.Active()
		if !ended {
			if ended, err = dir.Ended(); err != nil { // before reading: nothing is written after it
				if !errors.Is(err, fs.ErrNotExist) {
					return piece{}, &localError{err}
				}
			}
		}
		p, err := readPiece(dir, at, ended)
		if errors.Is(err, attempt.ErrCorrupt) {
			// What is behind the damage cannot be found.
			s.log.Error("A log is damaged; what follows in it is not sent", "job", r.job.ID, "attempt", at.Attempt, "error", err)
			err = nil
			if p.text == "" && !ended {
				return p, nil
			}
		}
		if err != nil {
			return piece{}, &localError{err}
		}
		if p.text != "" || !ended {
			return p, nil
		}
	}
	return piece{next: at}, nil
}

// readPiece reads at most pieceSize bytes of text from a place in a log. ended:
// nothing will be written any more, so that half a character at its end is one.
func readPiece(dir attempt.Dir, at cursor, ended bool) (p piece, err error) {
	p.next = at
	log, err := dir.Log(at.Offset)
	if err != nil {
		return p, err
	}
	defer log.Close()
	type record struct {
		offset int64 // where it begins
		start  int   // in raw, of its first byte, which may have been sent
	}
	var raw []byte
	var records []record
	skip := at.Within
	var broken error
	for len(raw) < pieceSize {
		offset := log.Offset()
		rec, err := log.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			broken = err
			ended = true
			break
		}
		data := rec.Data[min(skip, len(rec.Data)):]
		records = append(records, record{offset, len(raw) - skip})
		raw = append(raw, data...)
		skip = 0
	}
	text, used := mend(raw, ended && len(raw) < pieceSize)
	p.text = text
	switch {
	case used == 0:
	case used == len(raw):
		p.next = cursor{Attempt: at.Attempt, Offset: log.Offset()}
	default:
		for _, rec := range records {
			if rec.start <= used {
				p.next = cursor{Attempt: at.Attempt, Offset: rec.offset, Within: used - rec.start}
			}
		}
	}
	if p.text != "" {
		return p, nil // what is broken is met again by the next
	}
	return p, broken
}

// mend makes text of at most pieceSize bytes of what a container wrote, and tells
// how much of it that is. What is no UTF-8 becomes U+FFFD. The beginning of a
// character at the end is left for later, unless that is all that ever comes.
func mend(raw []byte, all bool) (text string, used int) {
	head := raw[:min(len(raw), pieceSize)]
	for n := 1; n < utf8.UTFMax && n <= len(head); n++ {
		if last := head[len(head)-n:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				head = head[:len(head)-n]
			}
			break
		}
	}
	if (len(head) == len(raw) || len(head) > 0 && !all) && utf8.Valid(head) { // most output is
		return string(head), len(head)
	}
	var b strings.Builder
	for used < len(raw) {
		rest := raw[used:]
		r, n := utf8.DecodeRune(rest)
		if r == utf8.RuneError && n <= 1 {
			if !all && !utf8.FullRune(rest) {
				break
			}
			if b.Len()+len("\ufffd") > pieceSize {
				break
			}
			b.WriteString("\ufffd")
			used++
			continue
		}
		if b.Len()+n > pieceSize {
			break
		}
		b.Write(rest[:n])
		used += n
	}
	return b.String(), used
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// send appends a piece to Girder's log. What is about to be sent is on disk
// before, so that whatever happens can be found out afterwards.
func (s *Syncer) send(ctx context.Context, r *report, p piece, failure bool) error {
	r.state.Intent = &intent{
		Next: p.next, Length: len(p.text), Hash: hashOf(p.text), Open: !strings.HasSuffix(p.text, "\n"), Failure: failure,
	}
	if err := s.save(ctx, r); err != nil {
		return err
	}
	err := s.tell(ctx, r, r.withProgress(girder.JobReport{Log: p.text}, s.clock.Now()))
	if err == nil {
		s.arrived(r)
		return nil
	}
	r.state.Intent.uncertain = errors.Is(err, girder.ErrUncertain) || ctx.Err() != nil
	if !r.state.Intent.uncertain {
		if status := (*girder.StatusError)(nil); errors.As(err, &status) && !errors.Is(err, girder.ErrDenied) && !errors.Is(err, girder.ErrNoSuch) &&
			status.Status >= 400 && status.Status < 500 && status.Status != 429 {
			return s.refusedLog(ctx, r, err)
		}
		return err
	}
	r.state.Intent.cause = err
	return err
}

// arrived notes that the piece of the intent is in Girder's log.
func (s *Syncer) arrived(r *report) {
	i := r.state.Intent
	st := &r.state
	r.dirty = true
	st.Cursor, st.Open, st.Intent = i.Next, i.Open, nil
	st.Failure = st.Failure || i.Failure
	st.Sent++
	st.Recent = append(st.Recent, i.Hash)
	if len(st.Recent) > keepRecent {
		st.Recent = slices.Clone(st.Recent[len(st.Recent)-keepRecent:])
	}
	r.failed.log = 0
	s.count.logBytes.Add(uint64(i.Length))
}

// resolve finds out whether a piece has arrived, by the end of Girder's log.
func (s *Syncer) resolve(ctx context.Context, r *report) error {
	job, err := r.client.Job(ctx, r.id)
	err = s.tally(ctx, err)
	i := r.state.Intent
	if errors.Is(err, girder.ErrTooLong) {
		s.count.duplicates.Add(1)
		r.state.Intent = nil
		return nil
	}
	if err != nil {
		return err
	}
	yes, known := found(job.Log, r.state.Recent, r.state.Sent, i)
	if yes {
		s.arrived(r)
	} else {
		if !known {
			s.count.duplicates.Add(1)
		}
		r.state.Intent = nil
		// Girder answers, and yet it failed on this piece.
		if i.cause != nil {
			if err := s.refusedLog(ctx, r, i.cause); err != nil {
				return err
			}
		}
	}
	s.seen(ctx, r, job.Status)
	return nil
}

// refusedLog counts a piece that Girder did not take while it takes other calls,
// and gives the rest of the log up when that goes on: the status must be told.
func (s *Syncer) refusedLog(ctx context.Context, r *report, cause error) error {
	status := (*girder.StatusError)(nil)
	if !errors.As(cause, &status) {
		return nil // the connection broke, which says nothing of the piece
	}
	if r.failed.log++; r.failed.log < logTries {
		return &pieceError{cause}
	}
	s.count.refused.Add(1)
	reason := fmt.Sprintf("the rest of its log: %v", cause)
	s.log.Warn("Giving up the log of a job to Girder", "job", r.job.ID, "girder", r.target, "error", cause)
	if err := s.store.SetUntold(ctx, r.job.Seq, reason); err != nil {
		return err
	}
	r.state.NoLog, r.state.Intent = true, nil
	return s.save(ctx, r)
}

// pieceError is a piece of log that Girder failed on.
type pieceError struct{ err error }

func (e *pieceError) Error() string { return e.err.Error() }
func (e *pieceError) Unwrap() error { return e.err }

// found tells whether a log ends with the piece of an intent, after the pieces
// that arrived before. known is false when that cannot be told: the piece is
// counted as missing then, because nothing may be lost.
func found(log, recent []string, sent int, i *intent) (yes, known bool) {
	is := func(back int, hash string) bool {
		n := len(log) - 1 - back
		return n >= 0 && hashOf(log[n]) == hash
	}
	ends := func(shift int) bool { // with what arrived, shift pieces before the end
		for k := range recent {
			if len(log)-1-k-shift < 0 {
				break // Girder has trimmed it
			}
			if !is(k+shift, recent[len(recent)-1-k]) {
				return false
			}
		}
		return true
	}
	after := is(0, i.Hash) && len(log[len(log)-1]) == i.Length && ends(1)
	before := len(recent) > 0 && ends(0)
	switch {
	case after && !before:
		return true, true
	case after: // it looks like what came before: only the number can tell
		return len(log) == sent+1, len(log) == sent+1 || len(log) == sent
	case before, len(recent) == 0 && len(log) == 0:
		return false, true
	}
	// Somebody else writes into this log as well.
	for back := range min(keepRecent, len(log)) {
		if len(recent) > 0 && is(back, recent[len(recent)-1]) {
			return false, recent[len(recent)-1] != i.Hash
		}
		if is(back, i.Hash) {
			return true, true
		}
	}
	return false, len(recent) == 0
}
