package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"girderworker/sandbox/image/provenance"
)

// HelperRequest is what the image helper reads from its standard input. An
// archive is its descriptor 3.
type HelperRequest struct {
	Dir string `json:"dir"` // the image store
	GID int    `json:"gid"` // that may read its index
	// Keys are those of the policy, Quota the bytes that the layers of the store
	// may have, 0 for any number.
	Keys  []provenance.Key `json:"keys,omitempty"`
	Quota int64            `json:"quota,omitempty"`
	// Signature is a detached one of the archive.
	Signature []byte `json:"signature,omitempty"`
	ImageRequest
}

// HelperAnswer is what it writes to its standard output.
type HelperAnswer struct {
	// Kind is one of the kinds of [ErrNoImage], [ErrBadImage] and [ErrNoSpace], or empty.
	Kind   string          `json:"kind,omitempty"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// NewHelperAnswer is the answer for a result or an error.
func NewHelperAnswer(result any, err error) (HelperAnswer, error) {
	if f := toFault(err); f != nil {
		return HelperAnswer{Kind: f.Kind, Error: f.Message}, nil
	}
	data, err := json.Marshal(result)
	return HelperAnswer{Result: data}, err
}

// The operations of the image helper.
const (
	ImagePrepare = "prepare" // make the store if need be, and sweep it
	ImageImport  = "import"
	ImageRemove  = "rm"
	ImagePrune   = "prune"
	ImageVerify  = "verify"
	ImagePin     = "pin"
	ImageUnpin   = "unpin"
)

// maxAnswer is what fits into a message with what is around it.
const maxAnswer = maxMessage - 8<<10

// image runs the helper, which is the only one to touch the store.
func (m *Monitor) image(ctx context.Context, r ImageRequest, archive *os.File) (json.RawMessage, error) {
	return m.signedImage(ctx, r, archive, nil)
}

// signedImage is image with a detached signature of the archive.
func (m *Monitor) signedImage(ctx context.Context, r ImageRequest, archive *os.File, signature []byte) (json.RawMessage, error) {
	switch r.Op {
	case ImageImport:
		if archive == nil {
			return nil, fmt.Errorf("%w: an import without an archive", ErrRefused)
		}
	case ImageRemove, ImagePrune, ImageVerify, ImagePrepare, ImagePin, ImageUnpin:
	default:
		return nil, fmt.Errorf("%w: unknown image operation %q", ErrRefused, r.Op)
	}
	input, err := json.Marshal(HelperRequest{m.files.image(), m.options.GID, m.rules.Load().keys, m.options.Quota, signature, r})
	if err != nil {
		return nil, fmt.Errorf("cannot encode an image operation: %w", err)
	}
	self := m.options.Self
	cmd := exec.CommandContext(ctx, self[0], append(self[1:len(self):len(self)], "images-helper")...)
	cmd.Env = runnerEnvironment()
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	var stdout bounded
	cmd.Stdout, cmd.Stderr = &stdout, os.Stderr
	if archive != nil {
		cmd.ExtraFiles = []*os.File{archive}
	}
	runErr := cmd.Run()
	var answer HelperAnswer
	if err := strict(stdout.data, &answer); err != nil {
		return nil, fmt.Errorf("cannot understand the image helper: %w", errors.Join(runErr, stdout.err, err))
	}
	if answer.Error != "" {
		return nil, (&fault{answer.Kind, answer.Error}).err()
	}
	if runErr != nil {
		return nil, fmt.Errorf("cannot finish the image operation: %w", runErr)
	}
	return answer.Result, nil
}

// bounded keeps what fits and refuses more.
type bounded struct {
	data []byte
	err  error
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.data)+len(p) > maxAnswer {
		b.err = fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
		return 0, b.err
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// prepareImages has a new store made before the front opens it; one that is
// there is swept in the background, because a dead import may have left much.
func (m *Monitor) prepareImages() error {
	_, err := os.Lstat(filepath.Join(m.files.image(), "names.json"))
	if errors.Is(err, os.ErrNotExist) {
		if _, err := m.image(m.ctx, ImageRequest{Op: ImagePrepare}, nil); err != nil {
			return fmt.Errorf("cannot make the image store: %w", err)
		}
		return nil
	}
	m.wg.Go(func() {
		if _, err := m.image(m.ctx, ImageRequest{Op: ImagePrepare}, nil); err != nil && m.ctx.Err() == nil {
			m.logger.Error("Cannot sweep the image store", "error", err)
		}
	})
	return nil
}
