package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/transforms"
	"girderworker/transforms/girder"
)

// maxFetched bounds how many files one fetch brings, whatever the server says.
const maxFetched = 1_000_000

// volume makes a volume at a path in a directory of the submitter, or takes over
// the one that the runner made.
func (m *mover) volume(v *transforms.Volume, at string, made *os.File) (give *os.File, where *attempt.HostVolume, err error) {
	if made != nil {
		m.addPlace(v.Name, &tree{dir: made, name: v.Target})
		return nil, nil, nil
	}
	fail := func(err error) (*os.File, *attempt.HostVolume, error) {
		return nil, nil, fmt.Errorf("cannot make a volume in %s: %w", v.HostDir, reason(err))
	}
	mode := volumeMode(*v)
	// One that is new has the mode that was asked for, as Girder Worker does it.
	if err := m.opener.makeDirectory(v.HostDir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fail(err)
	}
	parent, err := m.opener.open(v.HostDir, true)
	if err != nil {
		return fail(err)
	}
	defer parent.Close()
	name := path.Base(at)
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
		return fail(err)
	}
	fd, err := unix.Openat2(int(parent.Fd()), name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath})
	if err != nil {
		return fail(err)
	}
	dir := os.NewFile(uintptr(fd), v.HostDir)
	var st unix.Stat_t
	if err = dir.Chmod(mode); err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil {
		return fail(err)
	}
	m.addPlace(v.Name, &tree{dir: dir, name: v.Target})
	where = &attempt.HostVolume{Name: v.Name, Path: at, Dev: st.Dev, Ino: st.Ino}
	fd, err = unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	return os.NewFile(uintptr(fd), v.HostDir), where, err
}

// findVolume opens a volume that was made in a directory of the submitter by a
// process before this one.
func (m *mover) findVolume(v *attempt.HostVolume) error {
	f, err := m.opener.open(v.Path, true)
	if err == nil && (f.stat.Dev != v.Dev || f.stat.Ino != v.Ino) {
		f.Close()
		err = errors.New("it is not the directory that was made")
	}
	if err != nil {
		return fmt.Errorf("cannot find the volume %s: %w", v.Path, reason(err))
	}
	m.addPlace(v.Name, &tree{dir: f.File, name: v.Path})
	return nil
}

// removeVolume removes a volume that was made in a directory of the submitter.
func (m *mover) removeVolume(v *attempt.HostVolume) error {
	var err error
	if v.Ino != 0 {
		var t *tree
		if t, err = m.place(v.Name); err == nil {
			err = t.empty()
		}
	}
	if err == nil {
		err = m.opener.removeDirectory(v.Path)
	}
	if v.Ino == 0 && !errors.Is(err, unix.ENOTEMPTY) {
		return nil // it was never made
	}
	if err != nil {
		return fmt.Errorf("cannot remove the volume %s: %w", v.Path, err)
	}
	return nil
}

func volumeMode(v transforms.Volume) os.FileMode {
	if v.Mode == 0 {
		return 0o777 | os.ModeSetgid
	}
	mode := v.Mode.Perm()
	if v.Mode&(os.ModeSetgid|unix.S_ISGID) != 0 {
		mode |= os.ModeSetgid
	}
	if v.Mode&(os.ModeSticky|unix.S_ISVTX) != 0 {
		mode |= os.ModeSticky
	}
	return mode
}

// fetching is one fetch under way.
type fetching struct {
	m     *mover
	c     *girder.Client
	into  *tree
	files int
	// direct is the file itself, found on this machine, in place of a copy.
	direct *os.File
}

// fetch brings what a fetch names into its volume, and returns where it is, in
// the volume. The paths are Girder Worker's.
func (m *mover) fetch(ctx context.Context, f *transforms.Fetch) (at string, direct *os.File, err error) {
	c, err := m.client(f.Girder)
	if err != nil {
		return "", nil, err
	}
	into, err := m.writable(f.Into)
	if err != nil {
		return "", nil, err
	}
	g := &fetching{m: m, c: c, into: into}
	m.doing("fetching %s %s", f.Kind, f.ID)
	if at, err = g.fetch(ctx, f); err != nil {
		return "", nil, fmt.Errorf("cannot fetch %s %s from Girder: %w", f.Kind, f.ID, why(err))
	}
	return at, g.direct, nil
}

// openDirect opens a file of Girder's own storage, if the submitter may read it
// and it has the size that Girder says.
func (m *mover) openDirect(p string, file girder.File) *os.File {
	f, err := m.opener.openRegular(p, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || file.Size == nil || st.Size != *file.Size {
		f.Close()
		return nil
	}
	return f
}

func (g *fetching) fetch(ctx context.Context, f *transforms.Fetch) (string, error) {
	switch f.Kind {
	case transforms.FetchFile:
		file, err := g.c.File(ctx, f.ID)
		if err != nil {
			return "", err
		}
		at := f.Rename
		if at == "" {
			at = path.Join(f.ID, girder.CleanName(file.Name))
		}
		if f.Direct != "" {
			if g.direct = g.m.openDirect(f.Direct, file); g.direct != nil {
				return at, g.into.mkdirs(path.Dir(at))
			}
		}
		return g.file(ctx, file, at)
	case transforms.FetchItem:
		item, err := g.c.Item(ctx, f.ID)
		if err != nil {
			return "", err
		}
		name := f.Rename
		if name == "" {
			name = girder.CleanName(item.Name)
		}
		return g.item(ctx, item, path.Join(f.ID, name))
	case transforms.FetchFolder:
		name := f.Rename
		if name == "" {
			folder, err := g.c.Folder(ctx, f.ID)
			if err != nil {
				return "", err
			}
			name = girder.CleanName(folder.Name)
		}
		at := path.Join(f.ID, name)
		return at, g.folder(ctx, f.ID, at, 0)
	}
	return "", fmt.Errorf("unknown kind of fetch %q", f.Kind)
}

// item: a file, if the item has one and that has its name, else a directory.
func (g *fetching) item(ctx context.Context, item girder.Item, at string) (string, error) {
	var files []girder.File
	for file, err := range g.c.ItemFiles(ctx, item.ID) {
		if err != nil {
			return "", err
		}
		if files = append(files, file); len(files) > maxFetched {
			return "", fmt.Errorf("it has more than %d files", maxFetched)
		}
	}
	if len(files) == 1 && files[0].Name == item.Name {
		return g.file(ctx, files[0], at)
	}
	at, err := g.directory(at, item.ID)
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if _, err := g.file(ctx, file, path.Join(at, girder.CleanName(file.Name))); err != nil {
			return "", err
		}
	}
	return at, nil
}

func (g *fetching) folder(ctx context.Context, id, at string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("its folders are deeper than %d", maxDepth)
	}
	if err := g.into.mkdirs(at); err != nil {
		return err
	}
	for sub, err := range g.c.Subfolders(ctx, id) {
		if err != nil {
			return err
		}
		below, err := g.directory(path.Join(at, girder.CleanName(sub.Name)), sub.ID)
		if err != nil {
			return err
		}
		if err := g.folder(ctx, sub.ID, below, depth+1); err != nil {
			return err
		}
	}
	for item, err := range g.c.FolderItems(ctx, id) {
		if err != nil {
			return err
		}
		if _, err := g.item(ctx, item, path.Join(at, girder.CleanName(item.Name))); err != nil {
			return err
		}
	}
	return nil
}

// directory makes a directory, under another name where two of the server's
// names come to the same.
func (g *fetching) directory(at, id string) (string, error) {
	parent, name, err := g.into.parent(at, true)
	if err != nil {
		return "", err
	}
	defer parent.Close()
	err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	if errors.Is(err, unix.EEXIST) && !g.into.kept {
		name = girder.CleanName(id + "_" + name)
		err = unix.Mkdirat(int(parent.Fd()), name, 0o755)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return "", &fs.PathError{Op: "mkdir", Path: at, Err: err}
	}
	return path.Join(path.Dir(at), name), nil
}

// file downloads one file, checked for its size and, where the server tells it,
// its hash. What does not become whole is removed.
func (g *fetching) file(ctx context.Context, file girder.File, at string) (string, error) {
	if g.files++; g.files > maxFetched {
		return "", fmt.Errorf("there are more than %d files", maxFetched)
	}
	f, err := g.into.create(at)
	if errors.Is(err, fs.ErrExist) {
		at = path.Join(path.Dir(at), girder.CleanName(file.ID+"_"+path.Base(at)))
		f, err = g.into.create(at)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	err = g.download(ctx, file, f)
	if err != nil {
		return "", errors.Join(err, g.into.remove(at))
	}
	return at, nil
}

func (g *fetching) download(ctx context.Context, file girder.File, f *os.File) error {
	d, err := g.c.Download(ctx, file)
	if err != nil {
		return err
	}
	defer d.Close()
	meter := g.m.meter(d.Size(), "fetching %s", file.Name)
	// A file takes any mode but a fetched one's, whatever the umask.
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	_, err = io.CopyBuffer(io.MultiWriter(f, meter), onlyReader{d}, buf)
	return err
}

// onlyReader hides other methods, so that io.Copy uses the buffer.
type onlyReader struct{ io.Reader }
