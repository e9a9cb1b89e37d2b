package image

import (
	"fmt"
	"slices"
)

// Pin keeps the image that ref means for owner: it can be neither removed nor
// pruned, and no pull moves its names. The image's names go on meaning it.
func (s *Store) Pin(ref string, owner int) error { return s.setPin(ref, owner, true) }

// Unpin ends a [Store.Pin]. It is no error where there was none.
func (s *Store) Unpin(ref string, owner int) error { return s.setPin(ref, owner, false) }

func (s *Store) setPin(ref string, owner int, pinned bool) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	ix, err := s.load()
	if err != nil {
		return err
	}
	img, err := ix.resolve(ref, owner)
	if err != nil {
		return err
	}
	doc := ix.names
	if slices.Contains(doc.Pinned, img.ID) == pinned {
		return nil
	}
	doc.Pinned = slices.DeleteFunc(slices.Clone(doc.Pinned), func(id string) bool { return id == img.ID })
	if pinned {
		doc.Pinned = append(doc.Pinned, img.ID)
		slices.Sort(doc.Pinned)
	}
	if err := s.writeNames(doc); err != nil {
		return fmt.Errorf("cannot change the pin of an image: %w", noSpace(err))
	}
	return nil
}

// movesPinned refuses to let a pull change what a name of a pinned image means.
func (ix *index) movesPinned(images []plannedImage, owner int) error {
	for _, img := range images {
		for _, ref := range img.refs {
			for _, n := range ix.names.Names {
				if n.Name == ref && n.Owner == owner && n.ID != img.ID && slices.Contains(ix.names.Pinned, n.ID) {
					return blame(ErrPinned, "%s means an image that is to stay; unpin it to pull another", short(ref))
				}
			}
		}
	}
	return nil
}
