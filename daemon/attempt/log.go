package attempt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// MaxLogRecord is the most data that one record of log holds.
const MaxLogRecord = maxPayload

// flushAt is how much output may wait for a Flush.
const flushAt = 4 * MaxLogRecord

// A LogWriter appends to log. It never fails and never makes its caller wait
// for anything but the disk: what is beyond the limit, or cannot be written, is
// counted and dropped, because a container that nobody reads stands still.
type LogWriter struct {
	dir   Dir
	gid   int
	limit int64

	mu     sync.Mutex
	w      *frameWriter // nil until the file could be opened
	bytes  int64        // of output in the file
	beyond int64        // of output dropped because of the limit
	failed int64        // of output that could not be written
	untold int64        // of failed, what no marker tells yet
	err    error        // why a write failed, the latest

	// One record is open at a time: the stream and data of what is not yet a frame.
	stream  LogStream
	time    time.Time
	pending []byte
	added   int64 // output in frames that are not flushed
}

// NewLogWriter writes the log of an attempt whose lock the caller holds. limit
// is how many bytes of output are kept. The file is opened with the first
// flush, and tried again with each while that fails.
func (d Dir) NewLogWriter(limit int64, gid int) *LogWriter {
	return &LogWriter{dir: d, gid: gid, limit: limit}
}

// Append adds output that came from a stream at t. What follows from the same
// stream before the next Flush joins its record. data is copied.
func (w *LogWriter) Append(stream LogStream, t time.Time, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.open() // what a writer before this one kept counts; seal tells the error
	if room := max(0, w.limit-w.bytes-w.added-int64(len(w.pending))); int64(len(data)) > room {
		w.beyond += int64(len(data)) - room
		data = data[:room]
	}
	for len(data) > 0 {
		if w.stream != stream || len(w.pending) == MaxLogRecord {
			w.seal()
		}
		if len(w.pending) == 0 {
			w.stream, w.time = stream, t
		}
		n := min(len(data), MaxLogRecord-len(w.pending))
		w.pending = append(w.pending, data[:n]...)
		data = data[n:]
	}
	if w.added >= flushAt {
		w.flush()
	}
}

// seal makes a frame of the open record.
func (w *LogWriter) seal() {
	if len(w.pending) == 0 {
		return
	}
	n := int64(len(w.pending))
	switch {
	case w.open() != nil:
		w.lost(n)
	default:
		w.w.add(byte(w.stream), w.time, w.pending)
		w.added += n
	}
	w.pending = w.pending[:0]
}

// lost counts output that could not be written.
func (w *LogWriter) lost(n int64) {
	w.failed += n
	w.untold += n
}

// Flush hands what was appended to the kernel, so that readers see it.
func (w *LogWriter) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
}

func (w *LogWriter) flush() {
	if len(w.pending) == 0 && w.added == 0 {
		return
	}
	w.seal()
	if w.w == nil {
		return
	}
	untold := w.untold
	if untold > 0 {
		// The gap comes before what is written behind it: put its marker first.
		later := append([]byte(nil), w.w.buf...)
		w.w.buf = w.w.buf[:0]
		w.mark("%d bytes of output are missing here: %v", untold, w.err)
		w.w.buf = append(w.w.buf, later...)
	}
	if err := w.w.flush(); err != nil {
		w.err = err
		w.lost(w.added)
	} else {
		w.bytes += w.added
		w.untold -= untold
	}
	w.added = 0
}

// open opens the file if it is not.
func (w *LogWriter) open() error {
	if w.w != nil {
		return nil
	}
	var kept int64
	fw, err := createFrames(w.dir.file(logName), w.gid, func(f frame) {
		if LogStream(f.typ) != LogMarker {
			kept += int64(len(f.payload))
		}
	})
	if err != nil {
		w.err = err
		return err
	}
	w.w = fw
	w.bytes += kept
	return nil
}

// Close says in the log what is missing at its end, and syncs it. It returns
// how many bytes of output are in the file and how many are not. An error says
// why some could not be written, or may not survive a power cut.
func (w *LogWriter) Close() (kept, dropped int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flush()
	if w.w != nil {
		defer w.w.f.Close()
		if w.untold > 0 {
			w.mark("%d bytes of output are missing here: %v", w.untold, w.err)
		}
		if w.beyond > 0 {
			w.mark("the log is full at %d bytes: %d bytes of output were dropped", w.limit, w.beyond)
		}
		err = errors.Join(w.w.flush(), w.w.f.Sync())
	}
	if err == nil && w.failed > 0 {
		err = w.err
	}
	if err != nil {
		err = fmt.Errorf("cannot write the log: %w", err)
	}
	return w.bytes, w.beyond + w.failed, err
}

func (w *LogWriter) mark(format string, args ...any) {
	w.w.add(byte(LogMarker), time.Now(), fmt.Appendf(nil, "["+format+"]\n", args...))
}

// A LogReader reads log from an offset on.
type LogReader struct {
	dir Dir
	r   *frameReader
}

// Log opens log for reading. offset is one that [LogReader.Offset] returned
// for this attempt, or 0. The file need not exist yet.
func (d Dir) Log(offset int64) (*LogReader, error) {
	r, err := openFrames(d.file(logName), offset)
	if err != nil {
		return nil, fmt.Errorf("cannot open the log: %w", err)
	}
	return &LogReader{dir: d, r: r}, nil
}

// Next returns the next record, or io.EOF when there is none yet. Its Data is
// good until the call after.
func (r *LogReader) Next() (LogRecord, error) {
	f, err := r.r.next()
	if err != nil {
		return LogRecord{}, err
	}
	return LogRecord{Stream: LogStream(f.typ), Time: f.time, Data: f.payload}, nil
}

// Offset is where the next record starts.
func (r *LogReader) Offset() int64 { return r.r.offset }

// Follow yields the records that are there and then those that come, until the
// attempt has its exit.json (its log is complete then), ctx ends or
// the directory is removed. An error is the last thing it yields; the end of
// ctx is not one.
func (r *LogReader) Follow(ctx context.Context, w *Watcher) iter.Seq2[LogRecord, error] {
	return func(yield func(LogRecord, error) bool) {
		for wake := range w.wakes(ctx, r.dir.path) {
			if wake != nil {
				yield(LogRecord{}, wake)
				return
			}
			ended, err := r.dir.Ended() // before reading: nothing is written after it
			if err != nil {
				yield(LogRecord{}, err)
				return
			}
			for {
				rec, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if !yield(rec, err) || err != nil {
					return
				}
			}
			if ended {
				return
			}
		}
	}
}

// Close closes the file.
func (r *LogReader) Close() error { return r.r.close() }
