package runner

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/scratch"
)

// Where a job writes: a disk of its own, as large as its scratch space, mounted
// in its work directory by this process alone. A job whose outputs are uploaded
// has it in a file with a name, because another runner may have to go on; any
// other job's is gone with this process.

// space is the directory where the container's writable layer and its volumes are.
func (a *attemptRun) space() string { return filepath.Join(a.workDir(), "space") }

// workDir is where all that is on the disk of this attempt, and not its record.
func (a *attemptRun) workDir() string { return cmp.Or(a.work, a.request.Grant.WorkDir) }

func (a *attemptRun) spaceImage() string { return filepath.Join(a.request.Grant.WorkDir, "space.img") }

// makeSpace makes the space. On a machine that has no such disks there is no
// limit, which the job's owner is told.
func (a *attemptRun) makeSpace() error {
	r := a.request
	if err := os.Mkdir(a.space(), 0o700); err != nil {
		return fmt.Errorf("cannot make the job's scratch space: %w", err)
	}
	image := ""
	if len(r.Plan.Hooks) > 0 {
		image = a.spaceImage()
	}
	want := diskAhead{cache: r.Grant.CacheDir, work: filepath.Dir(r.Grant.WorkDir), size: max(r.Resources.Scratch, scratch.MinSize)}
	disk := a.ahead.take(want, image == "")
	var err error
	if disk == nil {
		disk, err = scratch.Make(want.templates(), a.workDir(), image, want.size)
	}
	if err == nil {
		a.disk = disk
		err = disk.Mount(a.space())
	}
	if errors.Is(err, scratch.ErrUnavailable) {
		a.logger.Warn("Jobs are not held to their scratch space", "error", err)
		a.note("the job is not held to its scratch space: " + err.Error())
		return a.dropDisk()
	}
	if err != nil {
		return fmt.Errorf("cannot make the job's scratch space: %w", err)
	}
	return nil
}

// diskAhead is a disk that a runner has ready before it has an attempt, as the
// attempt before it had one. The zero value and nil are none.
type diskAhead struct {
	cache, work string
	size        int64
	disk        *scratch.Disk
}

func (d *diskAhead) templates() string { return filepath.Join(d.cache, "scratch") }

// make makes it. Where that fails, the attempt that comes makes its own, and
// tells of what is wrong.
func (d *diskAhead) make() {
	if d.size < scratch.MinSize {
		return
	}
	disk, err := scratch.Make(d.templates(), d.work, "", d.size)
	if err != nil {
		return
	}
	d.disk = disk
	// What is not done now is done by Mount.
	_ = disk.Ready()
}

// take returns the disk if it is what is wanted, and lets go of any other.
func (d *diskAhead) take(want diskAhead, nameless bool) *scratch.Disk {
	if d == nil || d.disk == nil {
		return nil
	}
	disk := d.disk
	d.disk = nil
	if nameless && d.cache == want.cache && d.work == want.work && d.size == want.size {
		return disk
	}
	// It has never been anywhere: closing its descriptors is all there is to do.
	_ = disk.Close()
	return nil
}

func (a *attemptRun) dropDisk() error {
	if a.disk == nil {
		return nil
	}
	disk := a.disk
	a.disk = nil
	if err := disk.Close(); err != nil {
		return err
	}
	if err := os.Remove(a.spaceImage()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the job's scratch space: %w", err)
	}
	return nil
}

// reopenSpace mounts the disk that the runner before this one had.
func (a *attemptRun) reopenSpace() error {
	disk, err := scratch.Open(a.spaceImage())
	if errors.Is(err, os.ErrNotExist) {
		return nil // the space is a plain directory, or there never was any
	}
	if err != nil {
		return err
	}
	a.disk = disk
	return disk.Mount(a.space())
}

// syncSpace returns when what the container wrote would survive a loss of power.
func (a *attemptRun) syncSpace() error {
	if a.disk != nil {
		return a.disk.Sync()
	}
	dir, err := os.Open(a.space())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return os.NewSyscallError("syncfs", unix.Syncfs(int(dir.Fd())))
}
