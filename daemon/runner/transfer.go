package runner

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/fifo"
	"girderworker/transforms"
)

const (
	// finishPatience is how long the outputs may take to reach the disk when the
	// container has ended.
	finishPatience = 15 * time.Minute
	maxMessageText = 1 << 10
)

// transfer is the runner's side of the transfer process.
type transfer struct {
	wire    *wire
	streams []transforms.Stream // those that were opened
	process *unprivileged
	keepers []*transfer // those that it asks for tokens

	// What the process tells beside an answer.
	onDoing  func(text string)
	onNote   func(text string)
	onCommit func(state []byte) error

	// What the process reports while the container runs, by listen.
	onProgress func(attempt.Progress)
	onActivity func()
	onBroken   func(stream, text string)
	onLost     func()        // it died before its work was done
	ending     atomic.Bool   // its end is expected
	heard      chan struct{} // closed when listen has ended
	// Valid when heard is closed.
	results  map[string]attempt.StreamResult
	skipped  int64
	finished bool
	lost     bool // it ended before it said what became of every stream; of finish
}

// startTransfer starts the process. The caller must call end.
func startTransfer(id attempt.Identity, grant *attempt.Grant) (*transfer, error) {
	ours, theirs, err := wirePair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	process, err := startAs(id, TransferCommand, theirs)
	if err != nil {
		ours.close()
		return nil, fmt.Errorf("cannot start the process for the job's files: %w", err)
	}
	t := &transfer{wire: ours, process: process, heard: make(chan struct{})}
	t.onDoing, t.onNote = func(string) {}, func(string) {}
	t.onCommit = func([]byte) error { return errors.New("nothing is uploaded now") }
	if err := t.wire.send(message{Op: opRoots, Roots: grant.Roots, Closed: grant.Closed, Reach: grant.Transfers}, nil); err != nil {
		t.end()
		return nil, fmt.Errorf("cannot start the process for the job's files: %w", asEnd(err))
	}
	return t, nil
}

// ask sends a question and returns the answer, whose descriptor, if it has one, is
// the caller's. The answer may take as long as a dead file server; ctx ends the
// wait. What the process tells meanwhile is passed on.
func (t *transfer) ask(ctx context.Context, m message, with *os.File, want string) (message, *os.File, error) {
	stop := context.AfterFunc(ctx, t.wire.interrupt)
	defer stop()
	err := t.wire.send(m, with)
	var answer message
	var f *os.File
	for err == nil {
		answer, f, err = t.wire.receive()
		if err != nil || !t.aside(answer) {
			break
		}
		if f != nil {
			f.Close()
			f = nil
		}
		if answer.Op == opCommit {
			reply := message{Op: opDone}
			if failed := t.onCommit(answer.State); failed != nil {
				reply.Error = failed.Error()
			}
			err = t.wire.send(reply, nil)
		}
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	} else if err != nil {
		err = asEnd(err)
	} else if answer.Error != "" {
		err = errors.New(clean(answer.Error))
		if answer.Away {
			err = &awayError{err}
		}
	} else if answer.Op != want {
		err = fmt.Errorf("the process for the job's files answered %q to %q", clean(answer.Op), m.Op)
	}
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return answer, f, err
}

// errEndedEarly: the process died, which says nothing about what it did.
var errEndedEarly = errors.New("the process for the job's files died")

// asEnd puts what its socket says of the process's death as that.
func asEnd(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return errEndedEarly
	}
	return err
}

// awayError: Girder was out of reach for as long as it was to be waited for.
type awayError struct{ error }

// aside takes what is told beside the answer, and tells whether it was that.
func (t *transfer) aside(m message) bool {
	switch m.Op {
	case opDoing:
		t.onDoing(clean(m.Text))
	case opNote:
		t.onNote(clean(m.Text))
	case opCommit:
	default:
		return false
	}
	return true
}

// tell asks for something whose answer is that it is done.
func (t *transfer) tell(ctx context.Context, m message, with *os.File) error {
	_, f, err := t.ask(ctx, m, with, opOpened)
	if f != nil {
		f.Close()
	}
	return err
}

// openBind returns the descriptor of a bind's source.
func (t *transfer) openBind(ctx context.Context, b transforms.Bind) (*os.File, error) {
	_, f, err := t.ask(ctx, message{Op: opBind, Bind: &b}, nil, opOpened)
	if err == nil && f == nil {
		err = fmt.Errorf("cannot open %s: no descriptor came", b.Source)
	}
	return f, err
}

// makeVolume has a volume made in a directory of the submitter, at a path there.
func (t *transfer) makeVolume(ctx context.Context, v transforms.Volume, at string) (*os.File, *attempt.HostVolume, error) {
	answer, f, err := t.ask(ctx, message{Op: opVolume, Volume: &v, Path: at}, nil, opOpened)
	if err == nil && (f == nil || answer.Made == nil || answer.Made.Path != at) {
		if f != nil {
			f.Close()
		}
		err = fmt.Errorf("cannot make a volume in %s: no descriptor came", v.HostDir)
	}
	return f, answer.Made, err
}

// fetch has something fetched, and returns where it is in its volume. The
// descriptor, where there is one, is of the file itself, to be mounted there.
func (t *transfer) fetch(ctx context.Context, f transforms.Fetch) (string, *os.File, error) {
	answer, direct, err := t.ask(ctx, message{Op: opFetch, Fetch: &f}, nil, opOpened)
	if err == nil && !cleanBelow(answer.Path) {
		err = fmt.Errorf("cannot fetch %s: it came to lie at %q", f.ID, clean(answer.Path))
		if direct != nil {
			direct.Close()
		}
	}
	return answer.Path, direct, err
}

func cleanBelow(p string) bool {
	return p != "" && p[0] != '/' && len(p) <= 4096 && path.Clean(p) == p && p != ".." && !strings.HasPrefix(p, "../") && strings.IndexByte(p, 0) < 0
}

// connect hands over the pipes; when it returns the container may start.
func (t *transfer) connect(ctx context.Context, dir *fifo.Dir, pipes map[string]fifo.Pipe) error {
	_, f, err := t.ask(ctx, message{Op: opPipes, Pipes: pipes}, dir.File(), opReady)
	if f != nil {
		f.Close()
	}
	return err
}

// listen takes what the process reports from now on, in a goroutine that ends
// with the process. crashed gets a panic.
func (t *transfer) listen(crashed func()) {
	t.results = map[string]attempt.StreamResult{}
	go func() {
		defer close(t.heard)
		defer crashed()
		for !t.finished {
			m, f, err := t.wire.receive()
			if f != nil {
				f.Close()
			}
			if err != nil {
				if !t.ending.Load() {
					t.onLost()
				}
				return
			}
			t.hear(m)
		}
	}()
}

func (t *transfer) hear(m message) {
	switch m.Op {
	case opDoing, opNote:
		t.aside(m)
	case opProgress:
		if p := m.Progress; p != nil && finite(p.Total) && finite(p.Current) {
			t.onProgress(attempt.Progress{Total: p.Total, Current: p.Current, Message: clean(p.Message)})
		}
	case opActivity:
		t.onActivity()
	case opBroken:
		if m.Result != nil {
			t.onBroken(clean(m.Result.Name), clean(m.Error))
		}
	case opResult:
		if r := m.Result; r != nil && r.Bytes >= 0 && validSum(r.SHA256) {
			for _, s := range t.streams {
				if s.Name == r.Name {
					r.Kind, r.Error = s.Kind, clean(r.Error)
					t.results[r.Name] = *r
				}
			}
			t.skipped += max(0, m.Skipped)
		}
	case opFinished:
		t.finished = true
	}
}

// finish says that no process of the container is left, and returns what went
// through each stream when all of it is on the disk. ctx ends the wait.
func (t *transfer) finish(ctx context.Context) []attempt.StreamResult {
	t.ending.Store(true)
	// If it fails, the process is gone, and heard tells.
	_ = t.wire.send(message{Op: opEnded}, nil)
	patience := time.NewTimer(finishPatience)
	defer patience.Stop()
	missing, died := errEndedEarly.Error(), false
	select {
	case <-t.heard:
		died = true
	case <-patience.C:
		missing = fmt.Sprintf("not all of it was on the disk %v after the container's end", finishPatience)
	case <-ctx.Done():
		missing = "the attempt was ended before all of it was on the disk"
	}
	t.wire.interrupt()
	<-t.heard
	var out []attempt.StreamResult
	for _, s := range t.streams {
		r, ok := t.results[s.Name]
		if !ok {
			t.lost = died
			r = attempt.StreamResult{Name: s.Name, Kind: s.Kind, Partial: true, Error: missing}
		}
		out = append(out, r)
	}
	return out
}

// end ends the process, if it still runs. It holds nothing of the container's.
func (t *transfer) end() {
	for _, k := range t.keepers {
		defer k.end()
	}
	t.ending.Store(true)
	t.wire.interrupt()
	t.process.end()
	if t.results != nil {
		<-t.heard
	}
	t.wire.close()
}

// clean bounds a text of the submitter's.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) > maxMessageText {
		cut := maxMessageText
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut]
	}
	return s
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

func validSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}
