package api

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"time"

	"girderworker/daemon/apitype"
)

// stall is how long an archive may stop arriving. A person may have to change
// a medium; a client that is dead closes its socket.
const stall = 10 * time.Minute

// everyone is the owner of the images that an admin imports.
const everyone = -1

// listImages shows everyone's images and one's own, to an admin all.
func (s *Server) listImages(w http.ResponseWriter, r *http.Request, c *call) error {
	uid := c.peer.UID
	if c.admin {
		uid = everyone
	}
	images, err := s.images.List(uid)
	if err != nil {
		return err
	}
	if images == nil {
		images = []apitype.Image{}
	}
	s.answer(w, http.StatusOK, apitype.Images{Images: images})
	return nil
}

// importImage reads an archive from the body. It takes name: how to call an
// image that has no name of its own. What an admin imports is everyone's, but
// with private=1.
func (s *Server) importImage(w http.ResponseWriter, r *http.Request, c *call) error {
	owner := c.peer.UID
	if c.admin && r.URL.Query().Get("private") == "" {
		owner = everyone
	}
	ctx, end := s.lasting(w, r)
	defer end()
	body := &patientReader{r: r.Body, extend: http.NewResponseController(w).SetReadDeadline}
	images, err := s.images.Import(ctx, body, r.URL.Query().Get("name"), owner)
	if err != nil {
		// The answer is read only by a client that could send everything.
		_, _ = io.Copy(io.Discard, body)
		return err
	}
	s.answer(w, http.StatusCreated, apitype.Images{Images: images})
	return nil
}

// A patientReader moves the deadline on with every read.
type patientReader struct {
	r      io.Reader
	extend func(time.Time) error
}

func (p *patientReader) Read(b []byte) (int, error) {
	if err := p.extend(time.Now().Add(stall)); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

// removeImage takes ref, in the query because a reference has slashes.
func (s *Server) removeImage(w http.ResponseWriter, r *http.Request, c *call) error {
	ref, err := imageRef(r)
	if err != nil {
		return err
	}
	err = asOwner(c, func(owner int) error { return s.images.Remove(r.Context(), ref, owner) })
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pullImage takes ref, private=1 as importImage does, and missing=1 to leave an
// image that is here as it is. It answers with lines of JSON, [apitype.PullEvent]:
// progress, and last the image or an error.
func (s *Server) pullImage(w http.ResponseWriter, r *http.Request, c *call) error {
	ref, err := imageRef(r)
	if err != nil {
		return err
	}
	owner := c.peer.UID
	if c.admin && r.URL.Query().Get("private") == "" {
		owner = everyone
	}
	ctx, end := s.lasting(w, r)
	defer end()
	w.Header().Set("Content-Type", "application/x-ndjson")
	enc, control := json.NewEncoder(w), http.NewResponseController(w)
	write := func(e apitype.PullEvent) {
		// A client that is gone ends the request's context, and so the pull.
		if enc.Encode(e) == nil {
			_ = control.Flush()
		}
	}
	img, note, err := s.images.Pull(ctx, c.peer, ref, owner, r.URL.Query().Get("missing") == "", func(p apitype.Progress) {
		write(apitype.PullEvent{Progress: &p})
	})
	if err != nil {
		told := explain(err)
		if told.Kind == apitype.KindInternal {
			s.logger.Error("Cannot pull an image", slog.Any("error", err))
		}
		write(apitype.PullEvent{Error: &told})
		return nil
	}
	write(apitype.PullEvent{Image: &img, Note: note})
	return nil
}

func (s *Server) pinImage(w http.ResponseWriter, r *http.Request, c *call) error {
	return s.setPin(w, r, c, true)
}

func (s *Server) unpinImage(w http.ResponseWriter, r *http.Request, c *call) error {
	return s.setPin(w, r, c, false)
}

// setPin takes ref.
func (s *Server) setPin(w http.ResponseWriter, r *http.Request, c *call, pinned bool) error {
	ref, err := imageRef(r)
	if err != nil {
		return err
	}
	if err := asOwner(c, func(owner int) error { return s.images.Pin(r.Context(), ref, owner, pinned) }); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) pruneImages(w http.ResponseWriter, r *http.Request, _ *call) error {
	ctx, end := s.lasting(w, r)
	defer end()
	pruned, err := s.images.Prune(ctx)
	if err != nil {
		return err
	}
	s.answer(w, http.StatusOK, pruned)
	return nil
}

// verifyImage takes ref: it reads every byte of the image again.
func (s *Server) verifyImage(w http.ResponseWriter, r *http.Request, c *call) error {
	ref, err := imageRef(r)
	if err != nil {
		return err
	}
	ctx, end := s.lasting(w, r)
	defer end()
	if err := asOwner(c, func(uid int) error { return s.images.Verify(ctx, ref, uid) }); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// asOwner does something to the image that the caller means: to an admin what
// is everyone's, by id also other users', and else the admin's own.
func asOwner(c *call, do func(owner int) error) error {
	if !c.admin {
		return do(c.peer.UID)
	}
	err := do(everyone)
	if errors.Is(err, ErrNoImage) {
		return do(c.peer.UID)
	}
	return err
}

func imageRef(r *http.Request) (string, error) {
	ref := r.URL.Query().Get("ref")
	if ref == "" {
		return "", failure(apitype.KindBadRequest, "ref: no image was named")
	}
	return ref, nil
}
