package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/fifo"
	"girderworker/transforms"
)

// A lateTransfer stands for the transfer process of an attempt that may never need
// one: all that could be moved is progress, and most functions tell none. This process
// sees when there is some, of which it reads nothing, and has the other started then.
type lateTransfer struct {
	pipes     map[string]fifo.Pipe
	streams   []transforms.Stream
	receivers []*fifo.Receiver
	stop      context.CancelFunc // nil: nobody waits yet
	waiting   sync.WaitGroup
	started   sync.Once
}

// onlyProgress tells whether progress is all that there may be to move.
func onlyProgress(p *transforms.Plan) bool {
	return len(p.Streams) > 0 && len(p.Binds)+len(p.Volumes)+len(p.Inserts)+len(p.Fetches) == 0 && !p.SlicerProgress &&
		!slices.ContainsFunc(p.Streams, func(s transforms.Stream) bool { return s.Kind != transforms.StreamProgress })
}

// newLateTransfer opens the pipes, so that the container can. The caller closes it, also
// after an error.
func newLateTransfer(dir *fifo.Dir, streams []transforms.Stream, pipes map[string]fifo.Pipe) (*lateTransfer, error) {
	l := &lateTransfer{pipes: pipes, streams: streams}
	for _, s := range streams {
		r, err := dir.Receiver(pipes[s.Name])
		if err != nil {
			return l, err
		}
		l.receivers = append(l.receivers, r)
	}
	return l, nil
}

// await has the process started with the first progress.
func (l *lateTransfer) await(a *attemptRun) {
	ctx, stop := context.WithCancel(a.stop.alive)
	l.stop = stop
	for _, r := range l.receivers {
		l.waiting.Go(func() {
			defer a.crashed()
			if r.Await(ctx) != nil {
				return
			}
			l.started.Do(func() {
				if err := l.start(a); err != nil {
					// As when it dies later: the container would wait for ever at a full pipe.
					a.stop.stop(&stopReason{outcome: attempt.OutcomeInterrupted, text: err.Error(), grace: -1, lost: true})
				}
			})
		})
	}
}

// start starts the process. What was written is in the pipes until then.
func (l *lateTransfer) start(a *attemptRun) error {
	err := a.newTransfer()
	for _, s := range l.streams {
		if err == nil {
			err = a.openStream(a.stop.ctx, s)
		}
	}
	if err == nil {
		err = a.transfer.connect(a.stop.ctx, a.pipes, l.pipes)
	}
	if err != nil {
		a.endTransfer()
		return fmt.Errorf("cannot read progress: %w", err)
	}
	a.hear()
	return nil
}

// end is for when no process of the container is left, or none will send anything. It returns what became of the
// streams where no process was needed.
func (l *lateTransfer) end(a *attemptRun) (untouched []attempt.StreamResult) {
	l.settle()
	if a.transfer == nil && slices.ContainsFunc(l.receivers, (*fifo.Receiver).Ready) {
		if err := l.start(a); err != nil {
			a.note(err.Error())
		}
	}
	l.close()
	if a.transfer != nil {
		return nil
	}
	none := sha256.Sum256(nil)
	for _, s := range l.streams {
		untouched = append(untouched, attempt.StreamResult{Name: s.Name, Kind: s.Kind, SHA256: hex.EncodeToString(none[:])})
	}
	return untouched
}

// untouched tells, when the container will write no more, whether it wrote nothing; no
// process is started any more.
func (l *lateTransfer) untouched() bool {
	l.settle()
	return !slices.ContainsFunc(l.receivers, (*fifo.Receiver).Ready)
}

// settle returns when none will be started any more.
func (l *lateTransfer) settle() {
	if l.stop != nil {
		l.stop()
		l.waiting.Wait()
	}
}

func (l *lateTransfer) close() {
	l.settle()
	for _, r := range l.receivers {
		r.Close()
	}
	l.receivers = nil
}
