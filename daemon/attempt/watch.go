package attempt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// A Watcher tells readers that something changed in an attempt's directory.
// One serves a whole process: the kernel gives a user 128 inotify instances,
// and a machine may have more people reading logs than that.
type Watcher struct {
	fs   *fsnotify.Watcher
	done chan struct{} // closed when the dispatching goroutine has ended

	mu    sync.Mutex
	chans map[string]map[chan struct{}]bool // directory or file to its readers
}

// NewWatcher starts a watcher; Close ends it.
func NewWatcher() (*Watcher, error) {
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("cannot watch files: %w", err)
	}
	w := &Watcher{fs: n, done: make(chan struct{}), chans: map[string]map[chan struct{}]bool{}}
	go w.dispatch()
	return w, nil
}

// Close ends the watcher. Readers that follow end with an error.
func (w *Watcher) Close() error {
	err := w.fs.Close()
	<-w.done
	return err
}

func (w *Watcher) dispatch() {
	defer close(w.done)
	events, errs := w.fs.Events, w.fs.Errors
	for events != nil || errs != nil {
		select {
		case e, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			w.mu.Lock()
			wake(w.chans[filepath.Dir(e.Name)])
			wake(w.chans[e.Name])
			w.mu.Unlock()
		case _, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			// An overflow says that something was missed, not what: all look.
			w.mu.Lock()
			for _, chans := range w.chans {
				wake(chans)
			}
			w.mu.Unlock()
		}
	}
}

func wake(chans map[chan struct{}]bool) {
	for c := range chans {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (w *Watcher) subscribe(path string) (chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.chans[path] == nil {
		if err := w.fs.Add(path); err != nil {
			return nil, fmt.Errorf("cannot watch %s: %w", path, err)
		}
		w.chans[path] = map[chan struct{}]bool{}
	}
	c := make(chan struct{}, 1)
	w.chans[path][c] = true
	return c, nil
}

func (w *Watcher) unsubscribe(path string, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.chans[path], c)
	if len(w.chans[path]) == 0 {
		delete(w.chans, path)
		// It may be gone, and the watch with it.
		_ = w.fs.Remove(path)
	}
}

// wakes yields nil at once and after every change of a file, or in a directory, until
// ctx ends or it is gone. An error is the last thing it yields.
func (w *Watcher) wakes(ctx context.Context, path string) iter.Seq[error] {
	return func(yield func(error) bool) {
		c, err := w.subscribe(path)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			yield(err)
			return
		}
		defer w.unsubscribe(path, c)
		for yield(nil) {
			select {
			case <-c:
			case <-ctx.Done():
				return
			case <-w.done:
				yield(errors.New("cannot watch files: the watcher was closed"))
				return
			}
			if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
				return
			}
		}
	}
}
