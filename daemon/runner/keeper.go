package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"girderworker/daemon/attempt"
	"girderworker/transforms/girder"
)

// A keeper is a process that knows the machine's API key of one server. Its
// identity is nobody else's, so that nobody's processes get at its memory: the
// transfer process is its submitter's, and only gets session tokens from it.

// startKeeper starts the keeper of a server and returns the socket at which it
// is asked. It ends with t.
func (t *transfer) startKeeper(ctx context.Context, id int, s *server, key string) (*os.File, error) {
	if id <= 0 || key == "" {
		return nil, fmt.Errorf("there is no API key of this machine for %s", s.Name)
	}
	k, err := startTransfer(attempt.Identity{UID: id, GID: id}, &attempt.Grant{})
	if err != nil {
		return nil, err
	}
	t.keepers = append(t.keepers, k)
	with := *s
	with.APIKey = key
	if err := k.tell(ctx, message{Op: opGirder, Server: &with}, nil); err != nil {
		return nil, err
	}
	theirs, ours, err := wirePair()
	if err != nil {
		return nil, err
	}
	defer theirs.close()
	if err := k.tell(ctx, message{Op: opKeep, Server: &server{Girder: s.Girder}}, theirs.f); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

// What a keeper is asked and answers: one message each, of opKeep.
//
//	Text: a token that was refused, or nothing  ──►
//	                                            ◄──  Text: a token, or Error; Op opNote: it may be asked again

// keep answers at a socket what tokens there are, until life is over.
func (m *mover) keep(life context.Context, s *server, socket *os.File) error {
	if socket == nil {
		return errors.New("there is nobody to keep tokens for")
	}
	c, err := m.client(s.Name)
	if err != nil {
		return err
	}
	w := newWire(socket)
	m.moving.Go(func() {
		defer w.close()
		defer context.AfterFunc(life, w.interrupt)()
		for {
			asked, f, err := w.receive()
			if f != nil {
				f.Close()
			}
			if err != nil {
				return // nobody asks any more
			}
			answer := message{Op: opKeep}
			if answer.Text, err = c.SessionToken(life, asked.Text); err != nil {
				answer.Text, answer.Error = "", clean(err.Error())
				if errors.Is(err, girder.ErrTemporary) {
					answer.Op = opNote
				}
			}
			if w.send(answer, nil) != nil {
				return
			}
		}
	})
	return nil
}

// keeperWire is the transfer process's end.
type keeperWire struct {
	mu   sync.Mutex
	wire *wire
}

// token asks for a token. A question that is given up is the last one: no context
// of this process ends before all of its work.
func (k *keeperWire) token(ctx context.Context, refused string) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer context.AfterFunc(ctx, k.wire.interrupt)()
	err := k.wire.send(message{Op: opKeep, Text: refused}, nil)
	var answer message
	if err == nil {
		var f *os.File
		if answer, f, err = k.wire.receive(); f != nil {
			f.Close()
		}
	}
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case err != nil:
		// The work goes on with both of them, or with neither: the runner sees to it.
		fmt.Fprintln(os.Stderr, "transfer: the process with the machine's API key died")
		os.Exit(1)
	case answer.Op == opNote:
		return "", fmt.Errorf("%w: %s", girder.ErrTemporary, clean(answer.Error))
	case answer.Error != "" || answer.Text == "":
		return "", errors.New(clean(answer.Error))
	}
	return answer.Text, nil
}
