package attempt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

const (
	finishName = "finish.json"
	maxFinish  = 1 << 20
)

// Finish is finish.json: how far the work after the exit has come. It is there
// from just before exit.json until that work is done, so an attempt that has
// both and no runner is to be resumed, see [Dir.Unfinished]. Where volumes are
// made in directories of the submitter, it is there from before the first.
type Finish struct {
	Version int `json:"version"`
	// Hook is the index of the first of Plan.Hooks that is not over.
	Hook int `json:"hook"`
	// State is how far that one is, in its own words; nil: not begun.
	State json.RawMessage `json:"state,omitempty"`
	// Waited is how long Girder was out of reach for it since it last got on.
	Waited time.Duration `json:"waited,omitempty"`
	// Turns counts the runners that ended in order before all was done, to make
	// room for those of other attempts.
	Turns int `json:"turns,omitempty"`
	// Error is of the first hook that failed.
	Error string `json:"error,omitempty"`
	// Volumes are those that were made in a directory of the submitter.
	Volumes []HostVolume `json:"volumes,omitempty"`
}

// HostVolume is a volume that was made in a directory of the submitter, and the
// inode that it was made as: none where it was about to be made, and so is empty
// if it is there at all.
type HostVolume struct {
	Name string `json:"name"`
	Path string `json:"path"`
	Dev  uint64 `json:"dev"`
	Ino  uint64 `json:"ino"`
}

// WriteFinish replaces finish.json. When it returns nil, it is on the disk.
func (d Dir) WriteFinish(f Finish) (err error) {
	f.Version = Version
	f.Error = clip(f.Error, maxErrorText)
	data, err := json.Marshal(f)
	if err == nil && len(data) > maxFinish {
		err = fmt.Errorf("%w: %d bytes", ErrInvalid, len(data))
	}
	if err == nil {
		err = replaceSynced(d.path, finishName, data)
	}
	if err != nil {
		return fmt.Errorf("cannot record how far the uploads are: %w", err)
	}
	return nil
}

func replaceSynced(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), dir+"/"+name); err != nil {
		return err
	}
	return syncDir(dir)
}

// ReadFinish reads finish.json; [fs.ErrNotExist]: there is nothing to be done.
func (d Dir) ReadFinish() (Finish, error) {
	var f Finish
	data, err := readBounded(d.file(finishName), maxFinish)
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err == nil && f.Version > Version {
		err = fmt.Errorf("version %d, this program knows %d: %w", f.Version, Version, ErrVersion)
	}
	if err != nil {
		return f, fmt.Errorf("cannot read how far the uploads are: %w", err)
	}
	return f, nil
}

// RemoveFinish says that nothing is left to be done.
func (d Dir) RemoveFinish() error {
	err := os.Remove(d.file(finishName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot end the uploads' record: %w", err)
	}
	return nil
}

// Abandoned tells whether the attempt has no exit, but work to be done after it:
// with no runner, it was lost, and another runner must do that work alone.
func (d Dir) Abandoned() (bool, error) {
	over, err := d.Ended()
	if err != nil || over {
		return false, err
	}
	return d.hasFinish()
}

func (d Dir) hasFinish() (bool, error) {
	_, err := os.Lstat(d.file(finishName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Unfinished tells whether the attempt's exit is recorded and work after it is
// not done: with no runner, another one must go on with it, and its work
// directory must stay.
func (d Dir) Unfinished() (bool, error) {
	over, err := d.Ended()
	if err != nil || !over {
		return false, err
	}
	return d.hasFinish()
}
