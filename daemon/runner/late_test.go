package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// TestLateTransfer: where progress is all that could be moved there is no process for
// it before there is some, and from then on it is as with any other.
func TestLateTransfer(t *testing.T) {
	w := newWorld(t, sh(`trap 'echo "{\"current\":1}" > "$GIRDER_WORKER_PROGRESS"' USR1; echo up; while :; do usleep 10000; echo; done`)...)
	w.stream(transforms.StreamProgress, "progress", "")
	w.request.Limits.Hard = time.Minute // lest the test wait for ever
	p := w.start()
	w.waitLog("up")
	if pid := childOf(t, p.Process.Pid, TransferCommand); pid != 0 {
		t.Errorf("process %d is there before it is needed", pid)
	}
	event := func(is func(attempt.Event) bool) attempt.Event {
		var found attempt.Event
		w.follow(func() bool {
			events := w.events()
			i := slices.IndexFunc(events, is)
			if i >= 0 {
				found = events[i]
			}
			return i >= 0
		})
		return found
	}
	started := event(func(e attempt.Event) bool { return e.Started != nil }).Started
	if err := unix.Kill(started.PID, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	event(func(e attempt.Event) bool { return e.Progress != nil })
	if err := unix.Kill(transferOf(t, p.Process.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit := w.end(p)
	w.want(exit, attempt.OutcomeInterrupted, attempt.CodeError, "the process for the job's files died")
	if !exit.Lost {
		t.Error("it does not count as lost")
	}
}

// TestLateTransferUnused: a stream that nothing went through is on record all the same.
func TestLateTransferUnused(t *testing.T) {
	w := newWorld(t, sh("true")...)
	w.stream(transforms.StreamProgress, "progress", "")
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 0, "")
	none := sha256.Sum256(nil)
	want := attempt.StreamResult{Name: "progress", Kind: transforms.StreamProgress, SHA256: hex.EncodeToString(none[:])}
	if got := streamNamed(t, exit, "progress"); got != want {
		t.Errorf("stream %+v, want %+v", got, want)
	}
}

// TestLateTransferLast: what a container writes as it ends is told.
func TestLateTransferLast(t *testing.T) {
	w := newWorld(t, sh(`echo '{"current":7}' > "$GIRDER_WORKER_PROGRESS"; kill -9 $$`)...)
	w.stream(transforms.StreamProgress, "progress", "")
	exit := w.run()
	if s := streamNamed(t, exit, "progress"); s.Bytes != 14 || s.Error != "" {
		t.Errorf("stream %+v", s)
	}
	if !slices.ContainsFunc(w.events(), func(e attempt.Event) bool { return e.Progress != nil && e.Progress.Current == 7 }) {
		t.Error("the progress is lost")
	}
}
