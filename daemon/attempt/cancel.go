package attempt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// maxCancel bounds the file cancel.
const maxCancel = 64 << 10

// WriteCancel asks the attempt's runner to end it. It may be called again, for
// example with less grace: the runner obeys the latest.
func (d Dir) WriteCancel(c Cancel) error {
	c.Reason = clip(c.Reason, maxErrorText)
	data, err := json.Marshal(c)
	if err == nil {
		err = replaceFile(d.file(cancelName), data, -1)
	}
	if err != nil {
		return fmt.Errorf("cannot write the cancel: %w", err)
	}
	return nil
}

// ReadCancel reads the cancel; [fs.ErrNotExist] means that none was asked for.
func (d Dir) ReadCancel() (Cancel, error) {
	var c Cancel
	data, err := readBounded(d.file(cancelName), maxCancel)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err == nil && c.Outcome != OutcomeCanceled && c.Outcome != OutcomeInterrupted {
		err = fmt.Errorf("%w: outcome %q", ErrInvalid, c.Outcome)
	}
	if err != nil {
		return c, fmt.Errorf("cannot read the cancel: %w", err)
	}
	return c, nil
}

// Cancels delivers the cancel that is there and each later one, until ctx
// ends; then the channel is closed. A cancel that cannot be read still cancels.
func (d Dir) Cancels(ctx context.Context) <-chan Cancel {
	out := make(chan Cancel)
	go func() {
		defer close(out)
		changed := d.cancelChanges(ctx)
		for {
			c, err := d.ReadCancel()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				c = Cancel{Outcome: OutcomeCanceled, Reason: err.Error()}
				err = nil
			}
			if err == nil {
				select {
				case out <- c:
				case <-ctx.Done():
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				// The watching goroutine ends with ctx; wait for it.
				for range changed {
				}
				return
			}
		}
	}()
	return out
}

// cancelChanges sends when a file was renamed into the directory, and once
// when it has begun to watch. Without inotify (its instances are limited) it
// looks once a second. The channel is closed after ctx ended.
//
// [Watcher] is not used: it would wake the runner for every write to its own log.
func (d Dir) cancelChanges(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	send := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	go func() {
		defer close(changed)
		f, err := watchRenames(d.path)
		if err != nil {
			tick := time.NewTicker(time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					send()
				case <-ctx.Done():
					return
				}
			}
		}
		stop := context.AfterFunc(ctx, func() { f.Close() })
		defer stop()
		defer f.Close()
		send()
		buf := make([]byte, 4096)
		for {
			if _, err := f.Read(buf); err != nil {
				<-ctx.Done()
				return
			}
			send()
		}
	}()
	return changed
}

// watchRenames returns an inotify descriptor that the runtime's poller waits
// for, so that waiting costs no thread.
func watchRenames(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}
