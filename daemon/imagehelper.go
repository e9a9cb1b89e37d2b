package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"girderworker/daemon/apitype"
	"girderworker/daemon/monitor"
	"girderworker/sandbox/image"
)

// errBrokenPipe is what a writer sees whose reader has gone.
const errBrokenPipe = unix.EPIPE

// HelperImages is the helper's answer to an import.
type HelperImages struct {
	Images []HelperImage `json:"images"`
}

// HelperImage is an image that came in, with the names that it came in under.
type HelperImage struct {
	ID    string   `json:"id"`
	Names []string `json:"names"`
}

// helperArchive is the descriptor of an archive.
const helperArchive = 3

// ImageHelper is the hidden sub-command images-helper: one operation of the
// image store, as root, in a process of its own. It reads one
// [monitor.HelperRequest] and writes one [monitor.HelperAnswer]. An archive is
// read by a confined child of it.
func ImageHelper(ctx context.Context, in io.Reader, out io.Writer) error {
	data, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return fmt.Errorf("cannot read the request: %w", err)
	}
	var r monitor.HelperRequest
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("cannot understand the request: %w", err)
	}
	result, err := operate(ctx, &r)
	answer, err := monitor.NewHelperAnswer(result, blame(err))
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(answer)
}

// blame puts the store's errors into the monitor's words.
func blame(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, image.ErrNoSpace):
		return told{err, monitor.ErrNoSpace}
	case errors.Is(err, image.ErrPinned):
		return told{err, monitor.ErrPinned}
	case errors.Is(err, image.ErrNotFound):
		return told{err, monitor.ErrNoImage}
	}
	for _, bad := range []error{image.ErrName, image.ErrCorrupt, image.ErrTooLarge, image.ErrUnsupported, image.ErrHostile, image.ErrUnsigned} {
		if errors.Is(err, bad) {
			return told{err, monitor.ErrBadImage}
		}
	}
	return err
}

// maxPruned bounds the ids that a prune tells of; the counts are whole.
const maxPruned = 500

func operate(ctx context.Context, r *monitor.HelperRequest) (any, error) {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("part", "images")
	store, err := image.Open(r.Dir, image.Options{Writable: true, GID: r.GID, Log: logger})
	if err != nil {
		return nil, err
	}
	switch r.Op {
	case monitor.ImagePrepare:
		return struct{}{}, nil // opening it was all
	case monitor.ImageImport:
		found, err := store.Import(ctx, os.NewFile(helperArchive, "archive"), image.ImportOptions{
			Name: r.Name, Owner: r.Owner, Pulled: r.Pulled, Keys: r.Keys, Signature: r.Signature, Quota: r.Quota,
		})
		if err != nil {
			return nil, err
		}
		result := HelperImages{Images: make([]HelperImage, len(found))}
		for i, img := range found {
			result.Images[i].ID = img.ID
			for _, n := range img.Names {
				result.Images[i].Names = append(result.Images[i].Names, n.Ref)
			}
		}
		return result, nil
	case monitor.ImageRemove:
		_, err := store.Remove(r.Name, r.Owner)
		return struct{}{}, err
	case monitor.ImagePrune:
		pruned, err := store.Prune(ctx, r.Keep)
		ids := pruned.Images[:min(len(pruned.Images), maxPruned)]
		return apitype.Pruned{Images: append([]string{}, ids...), Layers: pruned.Layers, Bytes: pruned.Bytes}, err
	case monitor.ImageVerify:
		return struct{}{}, store.Verify(ctx, r.Name, r.Keys)
	case monitor.ImagePin:
		return struct{}{}, store.Pin(r.Name, r.Owner)
	case monitor.ImageUnpin:
		return struct{}{}, store.Unpin(r.Name, r.Owner)
	}
	return nil, fmt.Errorf("unknown operation %q", r.Op)
}
