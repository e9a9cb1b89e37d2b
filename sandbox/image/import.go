package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	importPrefix = "import-"
	pinsFile     = "pins.json"
	workDir      = "work" // the confined child's root
	readyDir     = "ready"
	viewDir      = "view"
	ownerFile    = "owner" // who imports
	childFile    = "child" // the first process of its confined child

	maxImages = 256 // in one archive
)

// ImportOptions of [Store.Import].
type ImportOptions struct {
	// Name replaces the names in the archive, which must then hold one image.
	// An archive that names nothing needs it.
	Name string
	// Owner of the names: a user id, or [Everyone].
	Owner  int
	Limits Limits
	// Pulled archives are made by a pull: layers of images that Owner may use
	// already can be missing, and the name of a pinned image does not move.
	Pulled bool
	// Keys are whose signatures count.
	Keys []Key
	// Signature, when set, is a detached one, base64 or as it is, over all bytes
	// of the archive. One that no key made refuses the import.
	Signature []byte
	// Quota is how many bytes the files of all layers in the store may have, 0
	// for any number.
	Quota int64
	// Progress, when set, is called now and then by the importing goroutine.
	Progress func(Progress)
}

// layerDocument is layer.json.
type layerDocument struct {
	Size    int64 `json:"size"` // bytes of files
	Entries int64 `json:"entries"`
	// Tree is the digest of the unpacked tree, which [Store.Verify] makes again.
	Tree string `json:"tree"`
}

// Import takes in every image of an archive that this machine can run: a
// docker-archive, an oci-archive or the tar of an OCI layout directory, plain,
// gzip or zstd. The archive may be a pipe; of a regular file all is read, from
// its beginning, wherever its offset is. All of it is taken in or nothing, and
// an Import that dies half-way changes nothing. It must be called as root; ctx
// is its time limit.
func (s *Store) Import(ctx context.Context, archive *os.File, o ImportOptions) ([]Image, error) {
	images, err := s.importArchive(ctx, archive, o)
	return images, noSpace(err)
}

func (s *Store) importArchive(ctx context.Context, archive *os.File, o ImportOptions) ([]Image, error) {
	if o.Name != "" {
		if _, err := CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	st, err := s.newStaging()
	if err != nil {
		return nil, err
	}
	defer st.remove()

	o.Limits = o.Limits.withDefaults()
	if err := st.budget(&o); err != nil {
		return nil, err
	}
	if err := st.unpack(ctx, archive, o); err != nil {
		return nil, err
	}
	for i := range st.images {
		if err := st.inspect(ctx, &st.images[i].Image); err != nil {
			return nil, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	return st.commit(o)
}

// staging is one import under way. Its directory is locked for as long as it
// lives.
type staging struct {
	store  *Store
	dir    string
	locked *os.File

	images   []plannedImage
	finished bool                     // the child said so
	used     int64                    // bytes of the store's quota, when it has one
	tight    bool                     // the quota is what limits the size
	layers   map[string]layerDocument // unpacked here, by hex
	have     map[string]bool          // needed and in the store, by hex
}

// plannedImage is an image of the archive with the complete names that it gets.
type plannedImage struct {
	Image
	refs []string
}

func (s *Store) newStaging() (*staging, error) {
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(s.path(stagingDir), importPrefix)
	if err != nil {
		return nil, err
	}
	st := &staging{store: s, dir: dir, layers: map[string]layerDocument{}, have: map[string]bool{}}
	if st.locked, err = os.Open(dir); err == nil {
		err = flock(st.locked, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = noteProcess(st.path(ownerFile), os.Getpid())
	}
	for _, sub := range []string{workDir, readyDir, viewDir} {
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, sub), 0o700)
		}
	}
	if err != nil {
		st.remove()
		return nil, err
	}
	return st, nil
}

func (st *staging) path(elem ...string) string {
	return filepath.Join(append([]string{st.dir}, elem...)...)
}

func (st *staging) noteChild(pid int) error { return noteProcess(st.path(childFile), pid) }

// remove takes the staging directory away, with whatever was not committed.
func (st *staging) remove() {
	if err := os.RemoveAll(st.dir); err != nil {
		st.store.log.Warn("Cannot remove what an import left; the next start tries again", "path", st.dir, "error", err)
	}
	if st.locked != nil {
		st.locked.Close()
	}
}

// unpack lets the confined child read the archive. After it, every layer that
// the images need is in the work directory or in the store.
func (st *staging) unpack(ctx context.Context, archive *os.File, o ImportOptions) error {
	req := request{Task: taskUnpack, Root: st.path(workDir), Limits: o.Limits, Signature: o.Signature}
	for _, k := range o.Keys {
		req.Keys = append(req.Keys, k.PEM)
	}
	if o.Pulled {
		have, err := st.store.LayersOf(o.Owner)
		if err != nil {
			return err
		}
		req.Absent = have
	}
	err := st.store.confine(ctx, req, archive, st.noteChild, func(m message) (any, error) {
		if err := st.hear(m, o); err != nil || m.Plan == nil {
			return nil, err
		}
		return st.pin()
	})
	if st.tight && errors.Is(err, ErrTooLarge) {
		return overQuota(o.Quota, st.used)
	}
	if err != nil {
		return err
	}
	if !st.finished || st.images == nil {
		return errors.New("the unpacker ended before its work was done")
	}
	for _, img := range st.images {
		for _, id := range img.DiffIDs {
			if _, ok := st.layers[hexOf(id)]; !ok && !st.have[hexOf(id)] {
				return fmt.Errorf("the unpacker left out layer %s", id)
			}
		}
	}
	return nil
}

// hear takes in one message of the unpacking child.
func (st *staging) hear(m message, o ImportOptions) error {
	switch {
	case m.Plan != nil && st.images == nil:
		return st.accept(m.Plan, o)
	case m.Progress != nil:
		if o.Progress != nil {
			o.Progress(*m.Progress)
		}
	case m.Layer != nil:
		return st.take(*m.Layer)
	case m.Skipped != nil:
		st.store.log.Info("Image has device nodes or named pipes that were left out",
			"count", m.Skipped.Count, "first", printable(m.Skipped.First))
	case m.Done:
		st.finished = true
	default:
		return errors.New("the unpacker sent an unexpected message")
	}
	return nil
}

// accept checks what the child says is in the archive and decides on names.
func (st *staging) accept(plan []foundImage, o ImportOptions) error {
	if len(plan) == 0 || len(plan) > maxImages {
		return blame(ErrUnsupported, "the archive holds %d images, 1 to %d can be imported at once", len(plan), maxImages)
	}
	if o.Name != "" && len(plan) > 1 {
		return blame(ErrName, "the archive holds %d images, one name cannot be given to all; leave the name out", len(plan))
	}
	limits := o.Limits
	now := time.Now().UTC()
	for _, found := range plan {
		img := plannedImage{Image: found.Image}
		img.Added = now
		img.Size = 0
		if !digestForm().MatchString(img.ID) || img.Digest != "" && !digestForm().MatchString(img.Digest) {
			return errors.New("the unpacker sent a malformed image id")
		}
		if len(img.DiffIDs) == 0 || len(img.DiffIDs) > limits.Layers {
			return errors.New("the unpacker sent an image with too few or too many layers")
		}
		for _, id := range img.DiffIDs {
			if !digestForm().MatchString(id) {
				return errors.New("the unpacker sent a malformed layer id")
			}
		}
		if err := checkSigned(img.Image, o.Keys); err != nil {
			return err
		}
		names := found.Refs
		if o.Name != "" {
			names = []string{o.Name}
		}
		for _, name := range names {
			ref, err := parseRef(name)
			if err != nil {
				return fmt.Errorf("the archive's own name does not fit, give another: %w", err)
			}
			if !slices.Contains(img.refs, ref.name) {
				img.refs = append(img.refs, ref.name)
			}
		}
		if len(img.refs) == 0 {
			return blame(ErrName, "the archive does not name its image %s; give it a name with --name", img.ID[:len("sha256:")+12])
		}
		st.images = append(st.images, img)
	}
	return nil
}

// answer is what the child gets back for its plan.
type answer struct {
	// Have are the layers, in hex, that need no unpacking. They are read and
	// checked all the same: who names a layer must also have it.
	Have []string `json:"have"`
}

// pin finds out which layers are in the store already and keeps them there.
func (st *staging) pin() (answer, error) {
	unlock, err := st.store.lock()
	if err != nil {
		return answer{}, err
	}
	defer unlock()
	var a answer
	for _, img := range st.images {
		for _, id := range img.DiffIDs {
			hex := hexOf(id)
			if st.have[hex] {
				continue
			}
			_, err := os.Lstat(st.store.layerPath(id))
			if isNotExist(err) {
				continue
			}
			if err != nil {
				return answer{}, err
			}
			st.have[hex] = true
			a.Have = append(a.Have, hex)
		}
	}
	if err := st.store.writeVia(st.dir, st.path(pinsFile), a.Have); err != nil {
		return answer{}, err
	}
	return a, nil
}

// take notes a layer that the child says is unpacked; settle moves it once the
// child is dead.
func (st *staging) take(l unpackedLayer) error {
	wanted := slices.ContainsFunc(st.images, func(img plannedImage) bool { return slices.Contains(img.DiffIDs, l.DiffID) })
	if !wanted || !digestForm().MatchString(l.Tree) || l.Size < 0 || l.Entries < 0 {
		return errors.New("the unpacker reported a layer that nobody asked for")
	}
	st.layers[hexOf(l.DiffID)] = layerDocument{Size: l.Size, Entries: l.Entries, Tree: l.Tree}
	return nil
}

// inspect looks at the image as a whole, again from a confined child: it reads
// the accounts and refuses an image that must not become a root file system.
func (st *staging) inspect(ctx context.Context, img *Image) error {
	var dirs []string
	for _, id := range topmost(img.DiffIDs) {
		if _, ok := st.layers[hexOf(id)]; ok {
			dirs = append(dirs, st.path(workDir, hexOf(id)))
			continue
		}
		dirs = append(dirs, st.store.layerPath(id, diffDir))
	}
	for _, dir := range dirs {
		if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
			return fmt.Errorf("the unpacker left no directory for layer %s", filepath.Base(dir))
		}
	}
	view, err := os.MkdirTemp(st.path(viewDir), "")
	if err != nil {
		return err
	}
	var seen *accounts
	err = st.store.confine(ctx, request{Task: taskInspect, Root: view, Lowers: dirs}, nil, st.noteChild, func(m message) (any, error) {
		if m.Accounts == nil || seen != nil {
			return nil, errors.New("the unpacker sent an unexpected message")
		}
		seen = m.Accounts
		return nil, nil
	})
	if err != nil {
		return err
	}
	if seen == nil || len(seen.Users) > maxAccounts || len(seen.Groups) > maxAccounts {
		return errors.New("the unpacker did not tell the image's accounts")
	}
	img.Config.Users, img.Config.Groups = seen.Users, seen.Groups
	return nil
}

// commit puts layers, images and names into place, in the order in which each
// needs the one before.
func (st *staging) commit(o ImportOptions) ([]Image, error) {
	owner := o.Owner
	for hex, doc := range st.layers {
		if err := st.settle(hex, doc); err != nil {
			return nil, err
		}
	}
	if len(st.layers) > 0 {
		// One sync of the file system is far cheaper than one of every file.
		if err := unix.Syncfs(int(st.locked.Fd())); err != nil {
			return nil, fmt.Errorf("cannot sync %s: %w", st.dir, err)
		}
	}
	s := st.store
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := st.withinQuota(o.Quota); err != nil {
		return nil, err
	}
	ix, err := s.load()
	if err != nil {
		return nil, err
	}
	if o.Pulled {
		if err := ix.movesPinned(st.images, owner); err != nil {
			return nil, err
		}
	}
	for hex := range st.layers {
		err := os.Rename(st.path(readyDir, hex), s.path(layersDir, hex))
		// Another import may have brought the same layer meanwhile.
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return nil, err
		}
	}
	if err := syncDir(s.path(layersDir)); err != nil {
		return nil, err
	}
	doc := ix.names
	for i := range st.images {
		img := &st.images[i]
		for _, id := range img.DiffIDs {
			var l layerDocument
			if err := readDocument(s.layerPath(id, layerFile), &l); err != nil {
				return nil, fmt.Errorf("cannot find layer %s: %w", id, err)
			}
			img.Size += l.Size
		}
		if known, ok := ix.images[img.ID]; ok {
			img.Added = known.Added
			if img.Digest == "" {
				img.Digest = known.Digest
			}
			img.Indexes = union(img.Indexes, known.Indexes)
			img.Signatures = mergeSignatures(img.Signatures, known.Signatures)
		}
		if err := s.writeDocument(s.path(imagesDir, hexOf(img.ID)+".json"), img.Image); err != nil {
			return nil, err
		}
		ix.images[img.ID] = img.Image
		for _, ref := range img.refs {
			doc.setName(ref, owner, img.ID)
		}
	}
	if err := s.writeNames(doc); err != nil {
		return nil, err
	}
	ix.names = doc
	var out []Image
	for _, img := range st.images {
		named := img.Image
		for _, ref := range img.refs {
			named.Names = append(named.Names, Name{Ref: short(ref), Owner: owner})
		}
		out = append(out, named)
	}
	return out, nil
}

func union(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

// settle gives an unpacked layer the shape that it has in the store.
func (st *staging) settle(hex string, doc layerDocument) error {
	dir := st.path(readyDir, hex)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Rename(st.path(workDir, hex), filepath.Join(dir, diffDir)); err != nil {
		return err
	}
	return st.store.writeVia(st.dir, filepath.Join(dir, layerFile), doc)
}
