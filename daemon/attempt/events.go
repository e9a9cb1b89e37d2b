package attempt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"time"
)

// frameEvent is the type of every frame in events.
const frameEvent = 1

const (
	// eventReserve is disk space kept for the events that matter (stages, start,
	// done) on a disk that the job fills.
	eventReserve = 16 << 10
	maxNote      = 8 << 10
)

// An EventWriter appends to events. Its methods may be called concurrently.
type EventWriter struct {
	mu sync.Mutex
	w  *frameWriter
}

// CreateEvents opens events for its one writer, who holds the attempt's lock.
func (d Dir) CreateEvents(gid int) (*EventWriter, error) {
	w, err := createFrames(d.file(eventsName), gid, func(frame) {})
	if err != nil {
		return nil, fmt.Errorf("cannot open events: %w", err)
	}
	w.reserve(eventReserve)
	return &EventWriter{w: w}, nil
}

// Append adds an event; a zero Time is now. An error (a full disk) leaves the
// file as it was: the event is not told, nothing else is lost.
func (w *EventWriter) Append(e Event) error {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Note = clip(e.Note, maxNote)
	e.Doing = clip(e.Doing, maxErrorText)
	data, err := json.Marshal(e)
	if err == nil && len(data) > maxPayload {
		err = fmt.Errorf("%w: %d bytes", ErrInvalid, len(data))
	}
	if err == nil {
		w.mu.Lock()
		w.w.add(frameEvent, e.Time, data)
		err = w.w.flush()
		w.mu.Unlock()
	}
	if err != nil {
		return fmt.Errorf("cannot append an event: %w", err)
	}
	return nil
}

// Sync brings the events to the disk.
func (w *EventWriter) Sync() error { return w.w.f.Sync() }

// Size is how long events is, in bytes.
func (w *EventWriter) Size() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.end
}

// Close closes the file without a sync: what must survive is in exit.json.
func (w *EventWriter) Close() error { return w.w.f.Close() }

// An EventReader reads events from an offset on.
type EventReader struct {
	dir Dir
	r   *frameReader
}

// Events opens events for reading. offset is one that [EventReader.Offset]
// returned for this attempt, or 0. The file need not exist yet.
func (d Dir) Events(offset int64) (*EventReader, error) {
	r, err := openFrames(d.file(eventsName), offset)
	if err != nil {
		return nil, fmt.Errorf("cannot open events: %w", err)
	}
	return &EventReader{dir: d, r: r}, nil
}

// Next returns the next event, or io.EOF when there is none yet. An event of a
// newer release that says nothing this one knows comes with only its Time.
func (r *EventReader) Next() (Event, error) {
	f, err := r.r.next()
	if err != nil {
		return Event{}, err
	}
	var e Event
	if err := json.Unmarshal(f.payload, &e); err != nil {
		return Event{}, fmt.Errorf("%w: event before byte %d: %w", ErrCorrupt, r.r.offset, err)
	}
	return e, nil
}

// Offset is where the next event starts.
func (r *EventReader) Offset() int64 { return r.r.offset }

// Follow yields the events that are there and then those that come, until the
// attempt's Done, the end of ctx, or the directory's removal. An error is the
// last thing it yields; the end of ctx is not one. The death of a runner is
// not seen here: it says nothing any more.
func (r *EventReader) Follow(ctx context.Context, w *Watcher) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		path := r.dir.path
		if r.r.f != nil { // then nothing else in the directory matters
			path = r.r.path
		}
		for wake := range w.wakes(ctx, path) {
			if wake != nil {
				yield(Event{}, wake)
				return
			}
			for {
				e, err := r.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				if !yield(e, err) || err != nil || e.Done != nil {
					return
				}
			}
		}
	}
}

// Close closes the file.
func (r *EventReader) Close() error { return r.r.close() }
