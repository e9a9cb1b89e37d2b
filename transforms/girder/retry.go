package girder

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// Retry says how often a call is tried, and how long the pauses are: from First
// on twice as long each time, at most Max, less up to half of it by chance. A
// pause that the server asks for takes their place, within five minutes. A zero
// field means the default.
type Retry struct {
	Attempts int           // 8
	First    time.Duration // 500 ms
	Max      time.Duration // 30 s
}

const maxRetryAfter = 5 * time.Minute

// maxNonsense is how often a call is tried that is answered, and not as Girder
// answers, however long a silent server is waited for.
const maxNonsense = 8

func (r Retry) withDefaults() Retry {
	if r.Attempts <= 0 {
		r.Attempts = 8
	}
	if r.First <= 0 {
		r.First = 500 * time.Millisecond
	}
	if r.Max <= 0 {
		r.Max = 30 * time.Second
	}
	return r
}

// pause is the wait before try n, n = 1 being the first repetition.
func (r Retry) pause(n int, err error) time.Duration {
	if e := (*StatusError)(nil); errors.As(err, &e) && e.RetryAfter > 0 {
		return min(e.RetryAfter, maxRetryAfter)
	}
	d := r.Max
	if n < 32 {
		d = min(r.First<<(n-1), r.Max)
	}
	return d - rand.N(d/2+1)
}

// again runs try until it succeeds, fails for good, or has failed often enough.
func (c *Client) again(ctx context.Context, repeatable bool, try func() error) error {
	for n := 1; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil {
			return contextual(ctx, err, repeatable)
		}
		temporary, uncertain := judge(err)
		if uncertain && !repeatable {
			return fmt.Errorf("%w: %w", ErrUncertain, err)
		}
		most := c.retry.Attempts
		if errors.Is(err, ErrAnswer) {
			most = min(most, maxNonsense)
		}
		if !temporary || n >= most {
			return err
		}
		if slept := c.rest(ctx, n, err); slept != nil {
			return fmt.Errorf("%w (after %w)", slept, err)
		}
	}
}

// rest waits before try n, which follows a failure.
func (c *Client) rest(ctx context.Context, n int, err error) error {
	d := c.retry.pause(n, err)
	c.waiting(err, d)
	return c.sleep(ctx, d)
}

// For is the number of attempts that last for about a time, however short each is.
func (r Retry) For(d time.Duration) Retry {
	r = r.withDefaults()
	r.Attempts = 2
	for n, sum := 1, time.Duration(0); ; n++ {
		pause := r.Max
		if n < 32 {
			pause = min(r.First<<(n-1), r.Max)
		}
		if sum += pause * 3 / 4; sum >= d {
			return r
		}
		if pause == r.Max { // they do not grow any more
			r.Attempts += int((d - sum) / (pause * 3 / 4))
			return r
		}
		r.Attempts++
	}
}

// contextual keeps it known that a call was cut off by its context half way.
func contextual(ctx context.Context, err error, repeatable bool) error {
	if err == nil {
		return nil
	}
	if _, uncertain := judge(err); uncertain && !repeatable {
		err = fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	if c := context.Cause(ctx); !errors.Is(err, c) {
		return fmt.Errorf("%w: %w", c, err)
	}
	return err
}

// judge says whether an error may go away by itself, and whether the server may
// have carried out the call that it ended.
func judge(err error) (temporary, uncertain bool) {
	var (
		status    *StatusError
		transport *transportError
		answer    *answerError
	)
	if t := (*tokenError)(nil); errors.As(err, &t) {
		temporary, _ = judge(t.err)
		return temporary, false // the call itself was not made
	}
	switch {
	case errors.Is(err, ErrTemporary):
		return true, false
	case errors.Is(err, ErrRedirect), errors.Is(err, ErrAddress), permanentTLS(err):
		return false, false
	case errors.As(err, &status):
		switch status.Status {
		case http.StatusTooManyRequests, http.StatusServiceUnavailable:
			return true, false // both say that the call was not taken
		case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
			return false, false
		}
		return status.Status >= 500, status.Status >= 500
	case errors.As(err, &transport):
		return true, transport.sent
	case errors.As(err, &answer):
		return true, true
	}
	return false, false
}

// Away tells whether an error is that the server could not be reached, or said
// that it cannot answer, until the tries were used up.
func Away(err error) bool {
	temporary, _ := judge(err)
	return temporary && !errors.Is(err, ErrAnswer) && !errors.Is(err, ErrUncertain)
}

// permanentTLS reports errors that no repetition mends: a certificate that is not
// trusted, or a server that does not speak TLS.
func permanentTLS(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		hostname     x509.HostnameError
		record       tls.RecordHeaderError
	)
	return errors.As(err, &verification) || errors.As(err, &hostname) || errors.As(err, &record)
}
