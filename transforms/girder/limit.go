package girder

import (
	"context"
	"errors"
	"io"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// timer cancels the context of a request that takes, or stands still, too long.
type timer struct {
	t      *time.Timer
	limit  atomic.Int64 // a time.Duration
	cancel context.CancelCauseFunc
}

func withTimer(ctx context.Context, limit time.Duration) (context.Context, *timer) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := &timer{t: time.AfterFunc(limit, func() { cancel(ErrTimeout) }), cancel: cancel}
	t.limit.Store(int64(limit))
	return ctx, t
}

// progress starts the time anew. Contents may still be read for a moment after an
// answer that did not wait for them, hence the atomic limit.
func (t *timer) progress() { t.t.Reset(time.Duration(t.limit.Load())) }

func (t *timer) reset(limit time.Duration) {
	t.limit.Store(int64(limit))
	t.t.Reset(limit)
}

func (t *timer) end() {
	t.t.Stop()
	t.cancel(context.Canceled)
}

// timedReader is contents on their way out: whenever some are taken, time starts anew.
type timedReader struct {
	r     io.Reader
	timer *timer
}

func (r *timedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.timer.progress()
	return n, err
}

// cause makes of a request's error what ended it, without the URL that net/http
// puts in front: the caller's context, our timer, or the network.
func cause(callers, requests context.Context, err error) error {
	if callers.Err() != nil {
		return context.Cause(callers)
	}
	if errors.Is(context.Cause(requests), ErrTimeout) {
		return ErrTimeout
	}
	if e := (*url.Error)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// errorBox passes an error from the goroutine that sends a request to the one that
// waits for its answer. The first one stays.
type errorBox struct {
	mu  sync.Mutex
	err error
}

func (b *errorBox) set(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

func (b *errorBox) get() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}
