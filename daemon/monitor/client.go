package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
)

// Client is the front's side of the socket. It is safe for concurrent use.
type Client struct {
	conn *conn

	mu      sync.Mutex
	nextID  uint64
	waiting map[uint64]chan reply
	watched map[Attempt]context.CancelFunc // called when the attempt has ended
	ended   map[Attempt]bool               // told before anyone watched
	err     error                          // why it ended

	rulesChanged chan struct{} // capacity 1
	done         chan struct{}
}

// Connect takes over the descriptor that the monitor passed to the front.
func Connect(f *os.File) (*Client, error) {
	c, err := newConn(f)
	if err != nil {
		return nil, err
	}
	client := &Client{
		conn:    c,
		waiting: map[uint64]chan reply{},
		watched: map[Attempt]context.CancelFunc{},
		ended:   map[Attempt]bool{},
		done:    make(chan struct{}),

		rulesChanged: make(chan struct{}, 1),
	}
	go client.receive()
	return client, nil
}

// Close ends the connection, and with it the monitor. It waits for the receiving goroutine.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.done
	return err
}

// Done is closed when the monitor is gone.
func (c *Client) Done() <-chan struct{} { return c.done }

func (c *Client) receive() {
	defer close(c.done)
	for {
		var r reply
		f, err := c.conn.receive(&r)
		if f != nil {
			f.Close() // the monitor sends none
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		switch {
		case r.RulesChanged:
			select {
			case c.rulesChanged <- struct{}{}:
			default: // it will look anyway
			}
		case r.Ended != nil:
			if end, ok := c.watched[*r.Ended]; ok {
				end()
				delete(c.watched, *r.Ended)
			} else {
				c.ended[*r.Ended] = true
			}
		case c.waiting[r.ID] != nil:
			c.waiting[r.ID] <- r // has room for one, and gets one
			delete(c.waiting, r.ID)
		}
		c.mu.Unlock()
	}
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = ErrGone
	if !errors.Is(err, io.EOF) {
		c.err = fmt.Errorf("%w: %w", ErrGone, err)
	}
	for id, ch := range c.waiting {
		close(ch)
		delete(c.waiting, id)
	}
}

// call sends a request and waits for its reply. A request that was sent takes
// effect although ctx ends.
func (c *Client) call(ctx context.Context, r request, file *os.File) (reply, error) {
	ch := make(chan reply, 1)
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return reply{}, c.err
	}
	c.nextID++
	r.ID = c.nextID
	c.waiting[r.ID] = ch
	c.mu.Unlock()
	if err := c.conn.send(r, file); err != nil {
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		// That it is gone may show here before it shows to receive.
		if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			err = fmt.Errorf("%w: %w", ErrGone, err)
		}
		return reply{}, err
	}
	select {
	case answer, ok := <-ch:
		if !ok {
			c.mu.Lock()
			defer c.mu.Unlock()
			return reply{}, c.err
		}
		return answer, answer.Error.err()
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		return reply{}, fmt.Errorf("cannot wait for the monitor: %w", ctx.Err())
	}
}

// Ping returns when the monitor has answered.
func (c *Client) Ping(ctx context.Context) error {
	_, err := c.call(ctx, request{Op: opPing}, nil)
	return err
}

// Notify has the monitor tell the service manager. The message is one of
// package systemd's.
func (c *Client) Notify(ctx context.Context, message string) error {
	_, err := c.call(ctx, request{Op: opNotify, Notify: message}, nil)
	return err
}

// Start starts an attempt. Its Grant is the monitor's to fill in.
func (c *Client) Start(ctx context.Context, r attempt.Request, secrets transforms.Secrets) error {
	r.Grant = attempt.Grant{}
	f, err := sealedJSON("request", start{r, secrets})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	defer f.Close()
	_, err = c.call(ctx, request{Op: opStart, Job: r.Job, Attempt: r.Attempt}, f)
	return err
}

// Expect says that a start may follow in some milliseconds. It waits for nothing.
func (c *Client) Expect() error {
	return c.conn.send(request{Op: opExpect}, nil)
}

// Cancel asks the runner of a live attempt to end it early. It returns when the
// runner can see the request, not when it has obeyed.
func (c *Client) Cancel(ctx context.Context, a Attempt, how attempt.Cancel) error {
	_, err := c.call(ctx, request{Op: opCancel, Job: a.Job, Attempt: a.Attempt, Cancel: &how}, nil)
	return err
}

// List returns the attempts whose runners live.
func (c *Client) List(ctx context.Context) ([]Attempt, error) {
	r, err := c.call(ctx, request{Op: opList}, nil)
	return r.Attempts, err
}

// Kill ends an attempt by force, whatever its runner does. It returns when
// nothing of it is left but its directory.
func (c *Client) Kill(ctx context.Context, a Attempt) error {
	_, err := c.call(ctx, request{Op: opKill, Job: a.Job, Attempt: a.Attempt}, nil)
	return err
}

// RemoveJob removes the directories of a job none of whose attempts is alive.
// A job that has none is removed already.
func (c *Client) RemoveJob(ctx context.Context, job string) error {
	_, err := c.call(ctx, request{Op: opRemove, Job: job}, nil)
	return err
}

// Image runs one operation of the image store in a helper process, and decodes
// its answer into result. The archive is for imports, and stays the caller's.
func (c *Client) Image(ctx context.Context, r ImageRequest, archive *os.File, result any) error {
	answer, err := c.call(ctx, request{Op: opImage, Image: &r}, archive)
	if err != nil {
		return err
	}
	if result == nil || len(answer.Result) == 0 {
		return nil
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		return fmt.Errorf("cannot understand the image helper: %w", err)
	}
	return nil
}

// Ended returns a context that ends when the runner of an attempt is gone and
// nothing of it is left but its directory. It is asked once for an attempt that
// was started or listed.
func (c *Client) Ended(a Attempt) context.Context {
	ctx, end := context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended[a] {
		delete(c.ended, a)
		end()
	} else {
		c.watched[a] = end
	}
	return ctx
}
