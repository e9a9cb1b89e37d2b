package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"girderworker/transforms"
	"girderworker/transforms/girder"
)

// hookState is how far a hook is. It is committed before what cannot be asked
// about afterwards.
type hookState struct {
	// File counts the files that are with Girder.
	File int `json:"file"`
	// Upload is the one under way. Without an id it is of an empty file, which
	// comes to be with the call that begins it, or of an artifact.
	Upload *girder.Upload `json:"upload,omitempty"`
	// Over: all files are there, and what is left is to delete them here.
	Over bool `json:"over,omitempty"`
}

// uploading is one hook under way.
type uploading struct {
	m     *mover
	c     *girder.Client
	hook  *transforms.Hook
	from  *tree
	state hookState
	next  int // number of the file that is at turn
	// skipped are things that are not regular files.
	skipped int
}

// run does what a hook says, from where state stands. Nothing at its path is no
// error where the hook does not want it to be one, and never for an artifact.
func (m *mover) run(ctx context.Context, h *transforms.Hook, state json.RawMessage) error {
	c, err := m.client(h.Girder)
	if err != nil {
		return err
	}
	find := m.place
	if h.DeleteFile {
		find = m.writable
	}
	from, err := find(h.From)
	if err != nil {
		return err
	}
	u := &uploading{m: m, c: c, hook: h, from: from}
	if len(state) > 0 {
		if err := json.Unmarshal(state, &u.state); err != nil {
			return fmt.Errorf("cannot read how far the upload was: %w", err)
		}
	}
	if err := u.run(ctx); err != nil {
		return fmt.Errorf("cannot upload %s: %w", path.Join(from.name, h.Path), why(err))
	}
	return nil
}

func (u *uploading) run(ctx context.Context) error {
	h := u.hook
	if !u.state.Over {
		f, st, err := u.open(u.from, h.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !h.MustExist:
			u.m.note("nothing to upload: %s is not there", path.Join(u.from.name, h.Path))
			return nil
		case err != nil:
			return err
		}
		defer f.Close()
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			err = u.file(ctx, f, st.Size, u.nameOf(path.Base(h.Path)), h.ID)
		case unix.S_IFDIR:
			err = u.directory(ctx, &tree{dir: f, name: path.Join(u.from.name, h.Path)}, h.ID, 0)
		}
		if err != nil {
			return err
		}
		if u.skipped > 0 {
			u.m.note("uploading %s: %d things were not regular files and were left out", path.Join(u.from.name, h.Path), u.skipped)
		}
		u.state.Over = true
		if h.DeleteFile {
			if err := u.commit(); err != nil {
				return err
			}
		}
	}
	if h.DeleteFile {
		return u.from.remove(h.Path)
	}
	return nil
}

func (u *uploading) nameOf(name string) string {
	switch {
	case u.hook.Kind == transforms.HookArtifact && u.hook.ArtifactName != "":
		return u.hook.ArtifactName
	case u.hook.FileName != "":
		return u.hook.FileName
	case name == ".": // the volume itself
		return path.Base(u.from.name)
	}
	return name
}

// open opens a regular file or a directory that a container may have left, and
// refuses everything else. A pipe does not hold it up.
func (u *uploading) open(t *tree, p string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	f, err := t.open(p, unix.O_RDONLY, 0)
	if err != nil {
		if errors.Is(err, unix.ENXIO) { // a socket
			err = fmt.Errorf("%s is not a regular file", p)
		}
		return nil, st, err
	}
	if err = unix.Fstat(int(f.Fd()), &st); err == nil {
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFDIR {
			err = fmt.Errorf("%s is not a regular file", p)
		}
	}
	if err != nil {
		f.Close()
		return nil, st, err
	}
	return f, st, nil
}

// directory uploads what is in a directory: into a folder with everything below
// it, else its plain files. The order is that of the names, so that a process
// that goes on counts the same files.
func (u *uploading) directory(ctx context.Context, t *tree, parent string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s is deeper than %d directories", t.name, maxDepth)
	}
	names, err := t.names(0)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		f, st, err := u.open(t, name)
		if errors.Is(err, unix.ELOOP) || err != nil && f == nil && !errors.Is(err, fs.ErrPermission) {
			u.skipped++ // a link, a pipe, a socket: nothing of the job's
			continue
		}
		if err != nil {
			return err
		}
		below := &tree{dir: f, name: path.Join(t.name, name)}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFREG:
			err = u.file(ctx, f, st.Size, name, parent)
		case u.hook.Kind == transforms.HookFolder:
			var folder girder.Folder
			if folder, err = u.c.MakeFolder(ctx, parent, name); err == nil {
				err = u.directory(ctx, below, folder.ID, depth+1)
			}
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// file uploads one file, unless that was done before.
func (u *uploading) file(ctx context.Context, f *os.File, size int64, name, parent string) error {
	number := u.next
	u.next++
	if number < u.state.File {
		return nil
	}
	u.m.doing("uploading %s", name)
	var err error
	if u.hook.Kind == transforms.HookArtifact {
		err = u.artifact(ctx, f, size, name)
	} else {
		err = u.upload(ctx, f, size, name, parent)
	}
	if err != nil {
		return err
	}
	u.state.File, u.state.Upload = number+1, nil
	return u.commit()
}

// commit brings the state to the disk.
func (u *uploading) commit() error {
	state, err := json.Marshal(u.state)
	if err != nil {
		return err
	}
	return u.m.commit(state)
}

// upload makes a file in an item or a folder. Its upload is on record before
// the first byte, and so exists once however often the sending breaks off.
func (u *uploading) upload(ctx context.Context, f *os.File, size int64, name, parent string) error {
	meter := u.m.meter(size, "uploading %s", name)
	if up := u.state.Upload; up != nil && up.ID == "" {
		_, found, err := u.c.Uploaded(ctx, *up)
		if found || err != nil {
			return err
		}
	} else if up != nil {
		_, err := u.c.SendUpload(ctx, *up, f, meter.reach)
		return err
	}
	var up girder.Upload
	var whole *girder.File
	var err error
	old, err := u.sameName(ctx, name, parent)
	switch {
	case err != nil:
		return err
	case old != nil && old.Size != nil && *old.Size == size:
		u.m.note("%s is in the item already, with the same size: not uploaded", name)
		return nil
	case old != nil:
		up, whole, err = u.c.BeginReplacement(ctx, *old, size, u.hook.Reference)
	default:
		file := girder.NewFile{ParentType: "item", ParentID: parent, Name: name, Size: size, MimeType: u.mime(name), Reference: u.hook.Reference}
		if u.hook.Kind == transforms.HookFolder {
			file.ParentType = "folder"
		}
		if size == 0 {
			since, err := u.c.ServerTime(ctx)
			if err != nil {
				return err
			}
			u.state.Upload = &girder.Upload{ParentType: file.ParentType, ParentID: parent, Name: name, Since: since}
			if err := u.commit(); err != nil {
				return err
			}
		}
		up, whole, err = u.c.BeginUpload(ctx, file)
	}
	if err != nil || whole != nil {
		return err
	}
	u.state.Upload = &up
	if err := u.commit(); err != nil {
		return err
	}
	_, err = u.c.SendUpload(ctx, up, f, meter.reach)
	return err
}

// sameName is the file of an item that has the name; nil: none, or a folder,
// where each upload makes an item of its own.
func (u *uploading) sameName(ctx context.Context, name, item string) (*girder.File, error) {
	if u.hook.Kind != transforms.HookItem {
		return nil, nil
	}
	for file, err := range u.c.ItemFiles(ctx, item) {
		if err != nil {
			return nil, err
		}
		if file.Name == name {
			return &file, nil
		}
	}
	return nil, nil
}

// artifact attaches a file to a job. That is one call, which may have been carried
// out when its end is not known: then the job's artifacts tell, and where the
// server cannot list them, it is sent again: twice rather than not.
func (u *uploading) artifact(ctx context.Context, f *os.File, size int64, name string) error {
	up := u.state.Upload
	if up == nil {
		since, err := u.c.ServerTime(ctx)
		if err != nil {
			return err
		}
		up = &girder.Upload{ParentType: "job", ParentID: u.hook.ID, Name: name, Size: size, Since: since}
		u.state.Upload = up
		if err := u.commit(); err != nil {
			return err
		}
	} else if u.arrived(ctx, up) {
		return nil
	}
	for try := 1; ; try++ {
		_, err := u.c.AddArtifact(ctx, u.hook.ID, name, u.mime(name), f, size)
		if !errors.Is(err, girder.ErrUncertain) || try == artifactTries || ctx.Err() != nil {
			return err
		}
		if u.arrived(ctx, up) {
			return nil
		}
	}
}

// arrived tells whether an artifact is there, as far as the server tells.
func (u *uploading) arrived(ctx context.Context, up *girder.Upload) bool {
	_, found, err := u.c.Uploaded(ctx, *up)
	if !found {
		u.m.note("the artifact %s may have arrived when its connection broke; sending it again", up.Name)
		if err != nil {
			u.m.note("the job's artifacts cannot be listed: %v", err)
		}
	}
	return found
}

const artifactTries = 5

func (u *uploading) mime(name string) string {
	if u.hook.MimeType != "" {
		return u.hook.MimeType
	}
	return mimeType(name)
}
