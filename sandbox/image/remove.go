package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Tag gives the image that ref means for owner another name of owner's. A name
// that owner already uses moves.
func (s *Store) Tag(ref, name string, owner int) error {
	parsed, err := parseRef(name)
	if err != nil {
		return err
	}
	if parsed.digest != "" {
		return blame(ErrName, "%q: a digest cannot be given to an image", name)
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
	img, err := ix.resolve(ref, owner)
	if err != nil {
		return err
	}
	doc := ix.names
	doc.setName(parsed.name, owner, img.ID)
	if err := s.writeNames(doc); err != nil {
		return fmt.Errorf("cannot name image: %w", noSpace(err))
	}
	return nil
}

// setName makes name mean id for owner.
func (d *namesDocument) setName(name string, owner int, id string) {
	d.Names = slices.DeleteFunc(d.Names, func(n nameEntry) bool { return n.Name == name && n.Owner == owner })
	d.Names = append(d.Names, nameEntry{Name: name, Owner: owner, ID: id})
}

// Removed is what [Store.Remove] did.
type Removed struct {
	ID    string
	Names []Name // that are gone
	// Left counts the names that the image still has. With none, the next
	// [Store.Prune] that does not need the image frees it.
	Left int
}

// Remove takes a name from an image, or, where ref is an id or a digest, all
// names that owner gave it; [Everyone] takes those of all users. The files stay
// until [Store.Prune], because a job may still need them.
func (s *Store) Remove(ref string, owner int) (Removed, error) {
	unlock, err := s.lock()
	if err != nil {
		return Removed{}, err
	}
	defer unlock()
	ix, err := s.load()
	if err != nil {
		return Removed{}, err
	}
	img, err := ix.resolve(ref, owner)
	if err != nil {
		return Removed{}, err
	}
	if slices.Contains(ix.names.Pinned, img.ID) {
		return Removed{}, blame(ErrPinned, "%s; unpin it first", ref)
	}
	parsed, nameErr := parseRef(ref)
	byName := nameErr == nil && parsed.digest == "" && slices.ContainsFunc(ix.names.Names, func(n nameEntry) bool {
		return n.Name == parsed.name && n.ID == img.ID
	})
	out := Removed{ID: img.ID}
	doc := ix.names
	doc.Names = nil
	for _, n := range ix.names.Names {
		mine := n.Owner == owner || !byName && owner == Everyone
		switch {
		case n.ID != img.ID:
			doc.Names = append(doc.Names, n)
		case mine && (!byName || n.Name == parsed.name):
			out.Names = append(out.Names, Name{Ref: short(n.Name), Owner: n.Owner})
		default:
			doc.Names = append(doc.Names, n)
			out.Left++
		}
	}
	if len(out.Names) == 0 && out.Left > 0 {
		return Removed{}, blame(ErrNotFound, "%s is not a name of yours; who gave it can remove it", ref)
	}
	if err := s.writeNames(doc); err != nil {
		return Removed{}, fmt.Errorf("cannot remove image: %w", noSpace(err))
	}
	return out, nil
}

// Pruned is what [Store.Prune] freed.
type Pruned struct {
	Images []string // ids
	Layers int
	Bytes  int64
}

// Prune removes the images that have no name, are not pinned and are not in
// inUse, which holds ids, and the layers that no image needs any more. What it
// frees is out of the store when it returns; the files go with the next [Open]
// for writing, because that can take long.
func (s *Store) Prune(ctx context.Context, inUse []string) (Pruned, error) {
	unlock, err := s.lock()
	if err != nil {
		return Pruned{}, err
	}
	defer unlock()
	ix, err := s.load()
	if err != nil {
		return Pruned{}, fmt.Errorf("cannot prune images: %w", err)
	}
	var out Pruned
	for id := range ix.images {
		named := slices.ContainsFunc(ix.names.Names, func(n nameEntry) bool { return n.ID == id })
		if named || slices.Contains(ix.names.Pinned, id) || slices.Contains(inUse, id) {
			continue
		}
		if err := os.Remove(s.path(imagesDir, hexOf(id)+".json")); err != nil {
			return Pruned{}, fmt.Errorf("cannot prune images: %w", err)
		}
		delete(ix.images, id)
		out.Images = append(out.Images, id)
	}
	slices.Sort(out.Images)
	// The images must be gone for good before their layers go.
	if err := syncDir(s.path(imagesDir)); err != nil {
		return Pruned{}, fmt.Errorf("cannot prune images: %w", err)
	}
	if err := s.writeNames(ix.names); err != nil {
		return Pruned{}, fmt.Errorf("cannot prune images: %w", err)
	}
	out.Layers, out.Bytes, err = s.discardLayers(ix)
	if err != nil {
		return out, fmt.Errorf("cannot prune images: %w", err)
	}
	return out, nil
}

// discardLayers moves the layers that no image of ix and no import under way
// needs into staging. The caller holds the lock.
func (s *Store) discardLayers(ix *index) (layers int, bytes int64, err error) {
	needed, err := s.pinned()
	if err != nil {
		return 0, 0, err
	}
	for _, img := range ix.images {
		for _, id := range img.DiffIDs {
			needed[hexOf(id)] = true
		}
	}
	entries, err := os.ReadDir(s.path(layersDir))
	if err != nil {
		return 0, 0, err
	}
	for _, e := range entries {
		if needed[e.Name()] {
			continue
		}
		var l layerDocument
		if err := readDocument(s.path(layersDir, e.Name(), layerFile), &l); err == nil {
			bytes += l.Size
		}
		trash, err := os.MkdirTemp(s.path(stagingDir), "trash-*")
		if err != nil {
			return layers, bytes, err
		}
		if err := os.Rename(s.path(layersDir, e.Name()), filepath.Join(trash, e.Name())); err != nil {
			return layers, bytes, err
		}
		layers++
	}
	return layers, bytes, syncDir(s.path(layersDir))
}

// pinned returns the layers that live imports found in the store and count on.
// The caller holds the lock.
func (s *Store) pinned() (map[string]bool, error) {
	pins := map[string]bool{}
	entries, err := os.ReadDir(s.path(stagingDir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), importPrefix) {
			continue
		}
		live, err := isLocked(s.path(stagingDir, e.Name()))
		if err != nil {
			return nil, err
		}
		var list []string
		err = readDocument(s.path(stagingDir, e.Name(), pinsFile), &list)
		if live && err != nil && !isNotExist(err) {
			return nil, err
		}
		for _, hex := range list {
			pins[hex] = true
		}
	}
	return pins, nil
}

// sweep removes what an import or a prune that died left behind.
func (s *Store) sweep() (Pruned, error) {
	if err := s.awaitDying(); err != nil {
		return Pruned{}, err
	}
	unlock, err := s.lock()
	if err != nil {
		return Pruned{}, err
	}
	ix, err := s.load()
	if err != nil {
		unlock()
		return Pruned{}, err
	}
	var out Pruned
	out.Layers, out.Bytes, err = s.discardLayers(ix)
	unlock()
	if err == nil {
		err = s.emptyStaging(context.Background())
	}
	return out, err
}

// awaitDying waits for the imports that were killed a moment ago.
func (s *Store) awaitDying() error {
	entries, err := os.ReadDir(s.path(stagingDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), importPrefix) {
			if err := awaitUnlocked(s.path(stagingDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// emptyStaging removes all of staging but what a live import holds locked. It
// does not need the store's lock for the removal, which can take long.
func (s *Store) emptyStaging(ctx context.Context) error {
	dead, err := s.deadStaging()
	if err != nil {
		return err
	}
	for _, path := range dead {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := awaitChild(path); err != nil {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// deadStaging lists what nobody works on in staging. Names are taken and
// locked under the store's lock, so what is not locked now is dead.
func (s *Store) deadStaging() ([]string, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	entries, err := os.ReadDir(s.path(stagingDir))
	if err != nil {
		return nil, err
	}
	var dead []string
	for _, e := range entries {
		path := s.path(stagingDir, e.Name())
		if strings.HasPrefix(e.Name(), importPrefix) {
			live, err := isLocked(path)
			if err != nil {
				return nil, err
			}
			if live {
				continue
			}
		}
		dead = append(dead, path)
	}
	return dead, nil
}

func isLocked(path string) (bool, error) {
	f, err := os.Open(path)
	if isNotExist(err) {
		return true, nil // its import is just removing it
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}
