package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Options of [Open].
type Options struct {
	// Writable is for the one who imports and removes: root. It makes the store
	// where there is none and sweeps what dead imports left.
	Writable bool
	// GID is the group that may read the index, 0 for root's alone.
	GID int
	// Log tells what no caller waits for. Nil discards it.
	Log *slog.Logger
}

// Store is an open store. All its methods are safe for concurrent use, and any
// number of processes may have the same store open, for writing too.
type Store struct {
	dir      string
	writable bool
	gid      int
	log      *slog.Logger

	loading sync.Mutex // held by the one goroutine that reads the index anew
	index   atomic.Pointer[index]
}

const (
	lockFile    = "lock"
	namesFile   = "names.json"
	imagesDir   = "images"
	layersDir   = "layers"
	stagingDir  = "staging"
	layerFile   = "layer.json"
	diffDir     = "diff"
	layoutNow   = 1
	maxDocument = 64 << 20 // bytes of one index file
)

// namesDocument is names.json.
type namesDocument struct {
	Layout int `json:"layout"`
	// Generation grows with every change of the store.
	Generation int64       `json:"generation"`
	Names      []nameEntry `json:"names"`
	Pinned     []string    `json:"pinned,omitempty"` // ids
}

type nameEntry struct {
	Name  string `json:"name"` // complete
	Owner int    `json:"owner"`
	ID    string `json:"id"`
}

// index is names.json and all of images/ as they were at one generation.
type index struct {
	stamp  stamp
	names  namesDocument
	images map[string]Image // by ID, without Names
}

// stamp tells two versions of names.json apart.
type stamp struct {
	ino   uint64
	mtime unix.Timespec
	size  int64
}

// Open opens the store in dir. For reading, the store must exist and permission
// to read it is enough: layers are out of reach then, all else works.
func Open(dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open image store: %w", err)
	}
	s := &Store{dir: dir, writable: o.Writable, gid: o.GID, log: o.Log}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Writable {
		if err := s.create(); err != nil {
			return nil, fmt.Errorf("cannot open image store %s for writing: %w", dir, noSpace(err))
		}
		if _, err := s.sweep(); err != nil {
			return nil, fmt.Errorf("cannot clean image store %s: %w", dir, err)
		}
	}
	if _, err := s.current(); err != nil {
		return nil, fmt.Errorf("cannot open image store %s: %w", dir, err)
	}
	return s, nil
}

// create makes what is missing of the store's directories and its empty index.
func (s *Store) create() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o755); err != nil {
		return err
	}
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{{".", 0o750}, {imagesDir, 0o750}, {layersDir, 0o700}, {stagingDir, 0o700}} {
		path := s.path(d.path)
		if err := os.Mkdir(path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// The mode is enforced on a store that exists: were layers open, its
		// setuid files would be in reach of everyone.
		if err := os.Chown(path, 0, s.groupOf(d.mode)); err != nil {
			return err
		}
		if err := os.Chmod(path, d.mode); err != nil {
			return err
		}
	}
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(s.path(namesFile)); !isNotExist(err) {
		return err
	}
	return s.writeNames(namesDocument{})
}

func (s *Store) groupOf(mode fs.FileMode) int {
	if mode&0o070 == 0 {
		return 0
	}
	return s.gid
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// layerPath is the directory of a layer, given its diff id.
func (s *Store) layerPath(diffID string, elem ...string) string {
	return s.path(append([]string{layersDir, hexOf(diffID)}, elem...)...)
}

// isDigest is what digestForm matches. Compiling that takes as long as anything
// else that a runner does with an image.
func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

func hexOf(digest string) string { return strings.TrimPrefix(digest, "sha256:") }

// lock waits for the store's lock, which every change of the index holds.
func (s *Store) lock() (unlock func(), err error) {
	if !s.writable {
		return nil, ErrReadOnly
	}
	f, err := os.OpenFile(s.path(lockFile), os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock image store: %w", err)
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock image store: %w", err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// current returns the index as it is on disk now. It costs one stat while
// nothing changes.
func (s *Store) current() (*index, error) {
	now, err := s.stat()
	if err != nil {
		return nil, err
	}
	if ix := s.index.Load(); ix != nil && ix.stamp == now {
		return ix, nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	// A change in the middle of reading is seen by its new names.json.
	for range 100 {
		before, err := s.stat()
		if err != nil {
			return nil, err
		}
		if ix := s.index.Load(); ix != nil && ix.stamp == before {
			return ix, nil
		}
		ix, err := s.load()
		if err != nil {
			return nil, err
		}
		after, err := s.stat()
		if err != nil {
			return nil, err
		}
		if before == after {
			ix.stamp = after
			s.index.Store(ix)
			return ix, nil
		}
	}
	return nil, errors.New("image index changes faster than it can be read")
}

func (s *Store) stat() (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(s.path(namesFile), &st); err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: s.path(namesFile), Err: err}
	}
	return stamp{st.Ino, st.Mtim, st.Size}, nil
}

// load reads names.json and the images.
func (s *Store) load() (*index, error) {
	ix := &index{images: map[string]Image{}}
	if err := readDocument(s.path(namesFile), &ix.names); err != nil {
		return nil, err
	}
	if ix.names.Layout != layoutNow {
		return nil, fmt.Errorf("image store has layout %d, this version knows %d: use the version that wrote it", ix.names.Layout, layoutNow)
	}
	entries, err := os.ReadDir(s.path(imagesDir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		hex, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		img, err := s.read("sha256:" + hex)
		if isNotExist(err) {
			continue // a stranger, or removed since the directory was listed
		}
		if err != nil {
			return nil, err
		}
		ix.images[img.ID] = img
	}
	ix.names.Names = slices.DeleteFunc(ix.names.Names, func(n nameEntry) bool {
		_, ok := ix.images[n.ID]
		return !ok
	})
	ix.names.Pinned = slices.DeleteFunc(ix.names.Pinned, func(id string) bool {
		_, ok := ix.images[id]
		return !ok
	})
	return ix, nil
}

func readDocument(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() > maxDocument {
		return blame(ErrCorrupt, "%s has %d bytes", path, st.Size())
	}
	if err := json.NewDecoder(f).Decode(into); err != nil {
		return blame(ErrCorrupt, "the index file %s cannot be read (%v); restore it, or move it away and import again what has lost its name or is missing then", path, err)
	}
	return nil
}

// writeNames replaces names.json, which makes a change visible. The caller
// holds the lock.
func (s *Store) writeNames(doc namesDocument) error {
	doc.Layout = layoutNow
	doc.Generation++
	slices.SortFunc(doc.Names, func(a, b nameEntry) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return a.Owner - b.Owner
	})
	return s.writeDocument(s.path(namesFile), doc)
}

// writeDocument writes a file of the index: aside in staging, synced, renamed,
// its directory synced. The caller holds the lock, or else another process
// takes the file for rubbish.
func (s *Store) writeDocument(path string, doc any) error {
	return s.writeVia(s.path(stagingDir), path, doc)
}

// writeVia is writeDocument with a directory of the caller's for what is aside.
func (s *Store) writeVia(aside, path string, doc any) (err error) {
	data, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(aside, "index-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(append(data, '\n')); err != nil {
		return err
	}
	if err := f.Chown(0, s.gid); err != nil {
		return err
	}
	if err := f.Chmod(0o640); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// sees tells whether uid may use an image by a name of owner. Root sees all.
func sees(uid, owner int) bool {
	return owner == Everyone || owner == uid || uid <= 0
}

// view is img with the names that uid may see.
func (ix *index) view(img Image, uid int) Image {
	img.Names = nil
	img.Pinned = slices.Contains(ix.names.Pinned, img.ID)
	for _, n := range ix.names.Names {
		if n.ID == img.ID && sees(uid, n.Owner) {
			img.Names = append(img.Names, Name{Ref: short(n.Name), Owner: n.Owner})
		}
	}
	return img
}

// List returns all images with all their names, in the order of their first
// names, the nameless last.
func (s *Store) List() ([]Image, error) {
	ix, err := s.current()
	if err != nil {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	var out []Image
	for _, img := range ix.images {
		out = append(out, ix.view(img, Everyone))
	}
	slices.SortFunc(out, func(a, b Image) int {
		switch {
		case len(a.Names) > 0 && len(b.Names) > 0:
			return strings.Compare(a.Names[0].Ref+a.ID, b.Names[0].Ref+b.ID)
		case len(a.Names) != len(b.Names):
			return len(b.Names) - len(a.Names)
		}
		return strings.Compare(a.ID, b.ID)
	})
	return out, nil
}

// Get returns the image with exactly this ID and all its names.
func (s *Store) Get(id string) (Image, error) {
	ix, err := s.current()
	if err != nil {
		return Image{}, fmt.Errorf("cannot look up image: %w", err)
	}
	img, ok := ix.images[id]
	if !ok {
		return Image{}, blame(ErrNotFound, "%s; `images ls` shows what there is", printable(id))
	}
	return ix.view(img, Everyone), nil
}

// Resolve finds the image that ref means for uid: a name (uid's own before
// everyone's), an id or at least 12 digits of one, or the digest of a manifest,
// alone or behind a name and @. Root, 0, and [Everyone] also find other users'
// images by id and digest.
func (s *Store) Resolve(ref string, uid int) (Image, error) {
	ix, err := s.current()
	if err != nil {
		return Image{}, fmt.Errorf("cannot look up image: %w", err)
	}
	img, err := ix.resolve(ref, uid)
	if err != nil {
		return Image{}, err
	}
	return ix.view(img, uid), nil
}

func (ix *index) resolve(ref string, uid int) (Image, error) {
	parsed, nameErr := parseRef(ref)
	if nameErr == nil && parsed.digest == "" {
		if img, ok := ix.named(parsed.name, uid); ok {
			return img, nil
		}
	}
	var found []Image
	switch {
	case nameErr == nil && parsed.digest != "":
		found = ix.visible(uid, func(img Image) bool { return img.hasDigest(parsed.digest) })
	case prefixForm().MatchString(ref):
		prefix := "sha256:" + hexOf(ref)
		found = ix.visible(uid, func(img Image) bool {
			return strings.HasPrefix(img.ID, prefix) || img.hasDigest(prefix)
		})
	case nameErr != nil:
		return Image{}, nameErr
	}
	if len(found) > 1 {
		return Image{}, blame(ErrNotFound, "%s fits %d images; give more digits", ref, len(found))
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var names []string
	for _, n := range ix.names.Names {
		if sees(uid, n.Owner) {
			names = append(names, short(n.Name))
		}
	}
	for _, n := range ix.names.Names {
		if nameErr == nil && n.Name == parsed.name && sees(uid, n.Owner) {
			return Image{}, blame(ErrNotFound, "%s is a name that user %d alone uses; write %.12s, the image's id", ref, n.Owner, hexOf(n.ID))
		}
	}
	switch close := near(ref, names); {
	case len(close) > 0:
		return Image{}, blame(ErrNotFound, "%s; is %s meant?", ref, strings.Join(close, " or "))
	case len(names) == 0:
		return Image{}, blame(ErrNotFound, "%s; there are none yet, see `images import`", ref)
	}
	return Image{}, blame(ErrNotFound, "%s; `images ls` shows what there is", ref)
}

// named finds the image that uid calls name: by uid's own name, else by
// everyone's.
func (ix *index) named(name string, uid int) (Image, bool) {
	for _, owner := range []int{uid, Everyone} {
		for _, n := range ix.names.Names {
			if n.Name == name && n.Owner == owner {
				return ix.images[n.ID], true
			}
		}
	}
	return Image{}, false
}

// visible returns the images that match and that uid may use.
func (ix *index) visible(uid int, match func(Image) bool) []Image {
	var out []Image
	for _, img := range ix.images {
		if match(img) && (uid <= 0 || len(ix.view(img, uid).Names) > 0) {
			out = append(out, img)
		}
	}
	return out
}

// LayersOf returns the diff ids of the layers that owner may use already: those
// of images with a name that is owner's or everyone's. Who names one of them
// learns nothing new.
func (s *Store) LayersOf(owner int) ([]string, error) {
	ix, err := s.current()
	if err != nil {
		return nil, fmt.Errorf("cannot list layers: %w", err)
	}
	var out []string
	for id, img := range ix.images {
		if slices.ContainsFunc(ix.names.Names, func(n nameEntry) bool {
			return n.ID == id && (n.Owner == Everyone || n.Owner == owner)
		}) {
			out = append(out, img.DiffIDs...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Layers returns the directories that make up img's root file system, lowest
// first. Each was seen to exist; only root can see that. A layer that the image
// lists twice appears once, where it is highest, which gives the same tree and
// is what overlayfs can mount.
func (s *Store) Layers(img Image) ([]string, error) {
	dirs := make([]string, 0, len(img.DiffIDs))
	for _, id := range topmost(img.DiffIDs) {
		dir := s.layerPath(id, diffDir)
		st, err := os.Lstat(dir)
		switch {
		case isNotExist(err) || err == nil && !st.IsDir():
			return nil, blame(ErrCorrupt, "layer %s of %s is not in the store; import the image again", id, img.ID)
		case err != nil:
			return nil, fmt.Errorf("cannot find layers of image %s: %w", img.ID, err)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// Use returns the image of that id, without names, and its layers as
// [Store.Layers] does. It reads nothing else of the store in dir, which may have
// hundreds of images: that is for who uses one and is gone.
func Use(dir, id string) (Image, []string, error) {
	s := &Store{dir: dir}
	img, err := s.read(id)
	if isNotExist(err) {
		err = blame(ErrNotFound, "%s; `images ls` shows what there is", printable(id))
	}
	if err != nil {
		return Image{}, nil, fmt.Errorf("cannot look up image: %w", err)
	}
	layers, err := s.Layers(img)
	return img, layers, err
}

// read reads the description of one image.
func (s *Store) read(id string) (img Image, err error) {
	if !isDigest(id) {
		return Image{}, fs.ErrNotExist
	}
	name := s.path(imagesDir, hexOf(id)+".json")
	if err := readDocument(name, &img); err != nil {
		return Image{}, err
	}
	if img.ID != id {
		return Image{}, blame(ErrCorrupt, "the index file %s describes %s; remove the file and import the image again", name, printable(img.ID))
	}
	return img, nil
}

// topmost drops all but the last of equal ids.
func topmost(ids []string) []string {
	var out []string
	for i, id := range ids {
		if !slices.Contains(ids[i+1:], id) {
			out = append(out, id)
		}
	}
	return out
}
