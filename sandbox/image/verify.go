package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
)

// Verify reads every file of the image again and compares with what was there
// after the import, where all digests were checked. It must be called as root.
//
// The signatures that came with the image are held against keys, and the index
// tells from then on which of these made one.
func (s *Store) Verify(ctx context.Context, id string, keys []Key) error {
	img, err := s.Get(id)
	if err != nil {
		return err
	}
	if _, err := s.Layers(img); err != nil {
		return err
	}
	for _, layer := range topmost(img.DiffIDs) {
		var doc layerDocument
		if err := readDocument(s.layerPath(layer, layerFile), &doc); err != nil {
			return fmt.Errorf("cannot verify image: %w", err)
		}
		tree := ""
		req := request{Task: taskVerify, Root: s.layerPath(layer, diffDir)}
		err := s.confine(ctx, req, nil, nil, func(m message) (any, error) {
			tree = m.Tree
			return nil, nil
		})
		if err != nil {
			return fmt.Errorf("cannot verify image: %w", err)
		}
		if tree != doc.Tree {
			return blame(ErrCorrupt, "files of layer %s in %s were changed after the import (%s then, %s now); remove the image, prune, and import it again",
				layer, s.dir, doc.Tree, printable(tree))
		}
	}
	return s.verifySignatures(ctx, img, keys)
}

func (s *Store) verifySignatures(ctx context.Context, img Image, keys []Key) error {
	if len(img.Signatures) == 0 {
		return nil
	}
	root, err := s.newStaging() // an empty directory to be confined in
	if err != nil {
		return err
	}
	defer root.remove()
	req := request{Task: taskSigned, Root: root.path(workDir), Signatures: img.Signatures}
	for _, k := range keys {
		req.Keys = append(req.Keys, k.PEM)
	}
	var checked []Signature
	err = s.confine(ctx, req, nil, nil, func(m message) (any, error) {
		checked = m.Signatures
		return nil, nil
	})
	if err != nil {
		return fmt.Errorf("cannot verify signatures: %w", err)
	}
	if err := checkSigned(Image{Signatures: checked}, append(keysOf(img), keys...)); err != nil || len(checked) != len(img.Signatures) {
		return errors.Join(errors.New("the unpacker lost signatures"), err)
	}
	changed := false
	for i := range checked {
		changed = changed || checked[i].Key != img.Signatures[i].Key
	}
	if !changed {
		return nil
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	ix, err := s.load()
	if err != nil {
		return err
	}
	now, ok := ix.images[img.ID]
	if !ok {
		return blame(ErrNotFound, "%s was removed meanwhile", img.ID)
	}
	for i := range now.Signatures {
		sig := &now.Signatures[i]
		for _, c := range checked {
			if c.Digest == sig.Digest && bytes.Equal(c.Value, sig.Value) {
				sig.Key = c.Key
			}
		}
	}
	if err := s.writeDocument(s.path(imagesDir, hexOf(img.ID)+".json"), now); err != nil {
		return err
	}
	return s.writeNames(ix.names) // or else readers keep what they know
}

// keysOf are the keys that are on record for an image.
func keysOf(img Image) []Key {
	var keys []Key
	for _, sig := range img.Signatures {
		if sig.Key != "" {
			keys = append(keys, Key{ID: sig.Key})
		}
	}
	return keys
}
