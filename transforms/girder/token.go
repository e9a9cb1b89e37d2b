package girder

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// tokenSource gives calls their token: the one that was configured, or session
// tokens, that an API key is changed into or that somebody else has.
type tokenSource struct {
	fixed, key string
	ask        func(ctx context.Context, refused string) (string, error)

	lock    chan struct{} // holds one element while nobody uses what follows
	token   string
	refused string    // the last token that the server did not take
	renewAt time.Time // zero: the server did not say when the token ends
}

func newTokenSource(fixed, key string, ask func(context.Context, string) (string, error)) *tokenSource {
	t := &tokenSource{fixed: fixed, lock: make(chan struct{}, 1)}
	if fixed == "" {
		t.key, t.ask = key, ask
	}
	t.lock <- struct{}{}
	return t
}

// tokenError is that no session token could be had: the call was not made.
type tokenError struct{ err error }

func (e *tokenError) Error() string {
	return fmt.Sprintf("cannot get a session token for the API key: %v", e.err)
}

func (e *tokenError) Unwrap() error { return e.err }

func (t *tokenSource) get(ctx context.Context, c *Client) (string, error) {
	if !t.renewable() {
		return t.fixed, nil
	}
	select {
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-t.lock:
	}
	defer func() { t.lock <- struct{}{} }()
	now := c.now()
	if t.token != "" && (t.renewAt.IsZero() || now.Before(t.renewAt)) {
		return t.token, nil
	}
	if t.ask != nil {
		token, err := t.ask(ctx, t.refused)
		if err != nil {
			return "", &tokenError{err}
		}
		t.token = token
		return token, nil
	}
	var answer struct {
		AuthToken struct {
			Token   string
			Expires time.Time
		}
	}
	err := c.try(ctx, call{
		method: http.MethodPost, path: "api_key/token", anonymous: true,
		form: url.Values{"key": {t.key}}, // not in the query, which servers log
	}, "", &answer)
	if err == nil && answer.AuthToken.Token == "" {
		err = fmt.Errorf("%w: no token in it", ErrAnswer)
	}
	if err != nil {
		return "", &tokenError{err}
	}
	t.token, t.renewAt = answer.AuthToken.Token, time.Time{}
	// By a clock that is ahead it may be over: then it is used until it is refused.
	if end := answer.AuthToken.Expires; end.After(now) {
		t.renewAt = now.Add(end.Sub(now) * 9 / 10)
	}
	return t.token, nil
}

// drop forgets a session token that was refused, and reports whether there can be another.
func (t *tokenSource) drop(token string) bool {
	if !t.renewable() {
		return false
	}
	<-t.lock
	defer func() { t.lock <- struct{}{} }()
	if t.token == token {
		t.token, t.refused = "", token
	}
	return true
}

func (t *tokenSource) renewable() bool { return t.key != "" || t.ask != nil }

// SessionToken returns a token of the client's API key, another one than the one
// that was refused. One try: the error wraps [ErrTemporary] where a later one may
// do better. It is what the Tokens of another client's [Config] may call.
func (c *Client) SessionToken(ctx context.Context, refused string) (string, error) {
	if refused != "" {
		c.token.drop(refused)
	}
	token, err := c.token.get(ctx, c)
	if t := (*tokenError)(nil); errors.As(err, &t) {
		err = t.err // whoever asks says the rest
	}
	if temporary, _ := judge(err); temporary {
		err = fmt.Errorf("%w: %w", ErrTemporary, err)
	}
	return token, err
}
