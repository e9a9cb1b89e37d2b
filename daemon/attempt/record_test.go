package attempt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// readLog reads what is there now; text has the streams marked.
func readLog(t testing.TB, d Dir) (text string, err error) {
	t.Helper()
	r, err := d.Log(0)
	if err != nil {
		return "", err
	}
	defer r.Close()
	var b strings.Builder
	for {
		rec, err := r.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return b.String(), err
		}
		fmt.Fprintf(&b, "%d:%s|", rec.Stream, rec.Data)
	}
}

func TestLogOrder(t *testing.T) {
	d := newDir(t)
	w := d.NewLogWriter(1<<20, os.Getgid())
	now := time.Now()
	w.Append(LogStdout, now, []byte("a"))
	w.Append(LogStdout, now, []byte("b"))
	w.Append(LogStderr, now, []byte("c"))
	w.Append(LogStdout, now, []byte("d"))
	w.Flush()
	w.Append(LogStdout, now, []byte("e"))
	kept, dropped, err := w.Close()
	if kept != 5 || dropped != 0 || err != nil {
		t.Errorf("Close() = %d, %d, %v", kept, dropped, err)
	}
	if got, err := readLog(t, d); got != "1:ab|2:c|1:d|1:e|" || err != nil {
		t.Errorf("log is %q, %v", got, err)
	}
}

func TestLogRecordSize(t *testing.T) {
	d := newDir(t)
	w := d.NewLogWriter(1<<30, os.Getgid())
	want := bytes.Repeat([]byte("0123456789"), 30000)
	w.Append(LogStdout, time.Now(), want)
	w.Close()
	r, err := d.Log(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []byte
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(rec.Data) > MaxLogRecord {
			t.Errorf("record of %d bytes", len(rec.Data))
		}
		got = append(got, rec.Data...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, not what was written", len(got))
	}
}

func TestLogCap(t *testing.T) {
	d := newDir(t)
	w := d.NewLogWriter(10, os.Getgid())
	for range 5 {
		w.Append(LogStdout, time.Now(), []byte("abcd"))
		w.Flush()
	}
	kept, dropped, err := w.Close()
	if kept != 10 || dropped != 10 || err != nil {
		t.Errorf("Close() = %d, %d, %v, want 10, 10, nil", kept, dropped, err)
	}
	want := "1:abcd|1:abcd|1:ab|3:[the log is full at 10 bytes: 10 bytes of output were dropped]\n|"
	if got, err := readLog(t, d); got != want || err != nil {
		t.Errorf("log is %q, %v", got, err)
	}
}

func TestLogOnAFullDisk(t *testing.T) {
	state := tinyDisk(t, 1<<20)
	d := newDirIn(t, state)
	w := d.NewLogWriter(64<<20, os.Getgid())
	w.Append(LogStdout, time.Now(), []byte("before"))
	w.Flush()
	fill(t, state)
	var lost int64
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	for range 20 {
		w.Append(LogStderr, time.Now(), chunk)
		w.Flush()
		lost += int64(len(chunk))
	}
	if err := os.Remove(filepath.Join(state, "fill")); err != nil {
		t.Fatal(err)
	}
	w.Append(LogStdout, time.Now(), []byte("after"))
	kept, dropped, err := w.Close()
	if kept != 11 || dropped != lost || err == nil {
		t.Errorf("Close() = %d, %d, %v, want 11, %d and the reason", kept, dropped, err, lost)
	}
	want := fmt.Sprintf("1:before|3:[%d bytes of output are missing here: write %s: no space left on device]\n|1:after|", lost, d.file(logName))
	if got, err := readLog(t, d); got != want || err != nil {
		t.Errorf("log is %q, %v", got, err)
	}
}

func TestLogThatCannotBeOpened(t *testing.T) {
	d := newDir(t)
	if err := os.Mkdir(d.file(logName), 0o700); err != nil {
		t.Fatal(err)
	}
	w := d.NewLogWriter(100, os.Getgid())
	w.Append(LogStdout, time.Now(), []byte("lost"))
	w.Flush()
	if kept, dropped, err := w.Close(); kept != 0 || dropped != 4 || err == nil {
		t.Errorf("Close() = %d, %d, %v, want 0, 4 and the reason", kept, dropped, err)
	}
}

// TestTorn cuts a log at every byte: a reader sees exactly the whole records,
// and a writer goes on behind them.
func TestTorn(t *testing.T) {
	d := newDir(t)
	w := d.NewLogWriter(1<<20, os.Getgid())
	texts := []string{"one", "", "three and more", "4"}
	ends := []int64{0}
	for _, s := range texts {
		if s != "" {
			w.Append(LogStdout, time.Now(), []byte(s))
			w.Flush()
			ends = append(ends, w.w.end)
		}
	}
	w.Close()
	whole, err := os.ReadFile(d.file(logName))
	if err != nil {
		t.Fatal(err)
	}
	for _, padding := range []int{0, 4096} {
		for cut := range len(whole) + 1 {
			d := newDir(t)
			content := append(bytes.Clone(whole[:cut]), make([]byte, padding)...)
			complete := 0
			for complete+1 < len(ends) && ends[complete+1] <= int64(cut) {
				complete++
			}
			if padding > 0 && cut != 0 && (complete == 0 && cut != len(preamble) || complete > 0 && ends[complete] != int64(cut)) {
				continue // zeros inside a frame are corruption, which TestCorrupt covers
			}
			if err := os.WriteFile(d.file(logName), content, 0o600); err != nil {
				t.Fatal(err)
			}
			want := []string{"", "1:one|", "1:one|1:three and more|", "1:one|1:three and more|1:4|"}[complete]
			if got, err := readLog(t, d); got != want || err != nil {
				t.Fatalf("cut at %d+%d: %q, %v, want %q", cut, padding, got, err, want)
			}
			w := d.NewLogWriter(1<<20, os.Getgid())
			w.Append(LogStderr, time.Now(), []byte("next"))
			if _, _, err := w.Close(); err != nil {
				t.Fatalf("cut at %d+%d: cannot resume: %v", cut, padding, err)
			}
			if got, err := readLog(t, d); got != want+"2:next|" || err != nil {
				t.Fatalf("cut at %d+%d, resumed: %q, %v", cut, padding, got, err)
			}
		}
	}
}

// TestResumeKeepsTheCap: what a first writer kept counts for the second.
func TestResumeKeepsTheCap(t *testing.T) {
	d := newDir(t)
	for range 2 {
		w := d.NewLogWriter(6, os.Getgid())
		w.Append(LogStdout, time.Now(), []byte("abcd"))
		w.Flush()
		w.w.f.Close()
	}
	if got, err := readLog(t, d); got != "1:abcd|1:ab|" || err != nil {
		t.Errorf("log is %q, %v", got, err)
	}
}

// TestCorrupt flips every byte of a frame that others follow: the reader says
// so, stops there, and never returns other data than was written.
func TestCorrupt(t *testing.T) {
	d := newDir(t)
	w := d.NewLogWriter(1<<20, os.Getgid())
	for _, s := range []string{"one", "two", "three"} {
		w.Append(LogStdout, time.Now(), []byte(s))
		w.Flush()
	}
	w.Close()
	whole, err := os.ReadFile(d.file(logName))
	if err != nil {
		t.Fatal(err)
	}
	first := len(preamble) + frameHeader + len("one")
	for i := first; i < first+frameHeader+len("two"); i++ {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x40
		if err := os.WriteFile(d.file(logName), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readLog(t, d)
		// A length that points behind the end of the file looks like a frame
		// that is still being written.
		torn := err == nil && i-first < 4
		if got != "1:one|" || !errors.Is(err, ErrCorrupt) && !torn {
			t.Errorf("byte %d flipped: %q, %v", i, got, err)
		}
		if !torn {
			if _, err := createFrames(d.file(logName), -1, func(frame) {}); !errors.Is(err, ErrCorrupt) {
				t.Errorf("byte %d flipped: a writer resumed: %v", i, err)
			}
		}
	}
}

func TestForeignFile(t *testing.T) {
	d := newDir(t)
	if err := os.WriteFile(d.file(logName), []byte("plain text log\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLog(t, d); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a foreign file: %v, want ErrCorrupt", err)
	}
	if err := os.WriteFile(d.file(logName), []byte("gwframe\x02 and more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readLog(t, d); !errors.Is(err, ErrVersion) {
		t.Errorf("a newer file: %v, want ErrVersion", err)
	}
}

func TestOffsets(t *testing.T) {
	d := newDir(t)
	w := d.NewLogWriter(1<<20, os.Getgid())
	for i := range 100 {
		w.Append(LogStdout, time.Now(), fmt.Append(nil, i))
		w.Flush()
	}
	w.Close()
	r, err := d.Log(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 100 {
		at := r.Offset()
		again, err := d.Log(at)
		if err != nil {
			t.Fatal(err)
		}
		a, err1 := r.Next()
		b, err2 := again.Next()
		again.Close()
		if err1 != nil || err2 != nil || string(a.Data) != string(b.Data) || string(a.Data) != fmt.Sprint(i) {
			t.Fatalf("record %d at %d: %q %v, %q %v", i, at, a.Data, err1, b.Data, err2)
		}
	}
	if _, err := d.Log(-1); !errors.Is(err, ErrInvalid) {
		t.Errorf("negative offset: %v", err)
	}
}

func TestFollowLog(t *testing.T) {
	d := newDir(t)
	watcher, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	r, err := d.Log(0) // the file does not exist yet
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	exit, err := d.ReserveExit(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	const records = 500
	written := make(chan error, 1)
	go func() {
		w := d.NewLogWriter(1<<20, os.Getgid())
		for i := range records {
			w.Append(LogStdout, time.Now(), fmt.Appendf(nil, "%d\n", i))
			w.Flush()
		}
		_, _, err := w.Close()
		if err == nil {
			err = exit.Commit(Exit{Outcome: OutcomeExited})
		}
		written <- err
	}()
	n := 0
	for rec, err := range r.Follow(t.Context(), watcher) {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%d\n", n); string(rec.Data) != want {
			t.Fatalf("record %d is %q", n, rec.Data)
		}
		n++
	}
	if n != records {
		t.Errorf("followed %d records, want %d", n, records)
	}
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestFollowEvents(t *testing.T) {
	d := newDir(t)
	watcher, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	const readers = 5
	got := make(chan string, readers)
	for range readers {
		go func() {
			r, err := d.Events(0)
			if err != nil {
				got <- err.Error()
				return
			}
			defer r.Close()
			var b strings.Builder
			for e, err := range r.Follow(t.Context(), watcher) {
				if err != nil {
					fmt.Fprintf(&b, "error %v", err)
				}
				b.WriteString(e.Stage)
				if e.Progress != nil {
					fmt.Fprintf(&b, " %v/%v", e.Progress.Current, e.Progress.Total)
				}
				if e.Done != nil {
					b.WriteString(" done")
				}
			}
			got <- b.String()
		}()
	}
	w, err := d.CreateEvents(os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, e := range []Event{{Stage: "running"}, {Progress: &Progress{Total: 10, Current: 2.5}}, {Done: &Done{}}} {
		if err := w.Append(e); err != nil {
			t.Fatal(err)
		}
	}
	for range readers {
		if s := <-got; s != "running 2.5/10 done" {
			t.Errorf("followed %q", s)
		}
	}
}

func TestFollowEnds(t *testing.T) {
	watcher, err := NewWatcher()
	if err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(Dir, context.CancelFunc){
		"context":           func(_ Dir, cancel context.CancelFunc) { cancel() },
		"directory removed": func(d Dir, _ context.CancelFunc) { os.RemoveAll(d.Path()) },
	} {
		t.Run(name, func(t *testing.T) {
			d := newDir(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			r, err := d.Log(0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			w := d.NewLogWriter(100, os.Getgid())
			w.Append(LogStdout, time.Now(), []byte("x"))
			w.Close()
			n := 0
			for _, err := range r.Follow(ctx, watcher) {
				if err != nil {
					t.Fatal(err)
				}
				n++
				end(d, cancel) // while it follows
			}
			if n != 1 {
				t.Errorf("%d records, want 1", n)
			}
		})
		t.Run("events, "+name, func(t *testing.T) {
			d := newDir(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w, err := d.CreateEvents(os.Getgid())
			if err != nil {
				t.Fatal(err)
			}
			r, err := d.Events(0) // of a file that is there, nothing else is watched
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if err := w.Append(Event{Stage: "preparing"}); err != nil {
				t.Fatal(err)
			}
			n := 0
			told := make(chan error, 1)
			for _, err := range r.Follow(ctx, watcher) {
				if err != nil {
					t.Fatal(err)
				}
				if n++; n == 2 {
					end(d, cancel)
				}
				if n == 1 {
					go func() { told <- w.Append(Event{Stage: "running"}) }()
				}
			}
			if n != 2 {
				t.Errorf("%d events, want 2", n)
			}
			if err := errors.Join(<-told, w.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	// Closing the watcher ends who follows, with an error.
	d := newDir(t)
	r, err := d.Log(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ended := make(chan error, 1)
	go func() {
		var last error
		for _, err := range r.Follow(t.Context(), watcher) {
			last = err
		}
		ended <- last
	}()
	watcher.Close()
	if err := <-ended; err == nil {
		t.Error("following went on, or ended well, without a watcher")
	}
}

func TestUnknownEvent(t *testing.T) {
	d := newDir(t)
	w, err := createFrames(d.file(eventsName), os.Getgid(), func(frame) {})
	if err != nil {
		t.Fatal(err)
	}
	w.add(frameEvent, time.Now(), []byte(`{"time":"2026-01-02T03:04:05Z","uploaded":{"id":"x"}}`))
	w.add(frameEvent, time.Now(), []byte(`{"time":"2026-01-02T03:04:05Z","stage":"running"}`))
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	w.f.Close()
	r, err := d.Events(0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if e, err := r.Next(); err != nil || e.Time.IsZero() || e.Stage != "" {
		t.Errorf("unknown event = %+v, %v", e, err)
	}
	if e, err := r.Next(); err != nil || e.Stage != "running" {
		t.Errorf("event behind it = %+v, %v", e, err)
	}
}

func BenchmarkLogWriter(b *testing.B) {
	for _, size := range []int{80, 4096, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			d := newDir(b)
			w := d.NewLogWriter(1<<62, os.Getgid())
			line := bytes.Repeat([]byte("x"), size)
			now := time.Now()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				w.Append(LogStdout, now, line)
				w.Flush()
				if w.w.end > 1<<30 {
					w.w.end = 0
				}
			}
			w.w.f.Close()
		})
	}
}
