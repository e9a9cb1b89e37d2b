// Package scratch makes file systems of a fixed size, so that what a container
// writes ends with "no space left" in the container and not on the machine.
//
// Each is an ext4 without a journal in a sparse file, on a loop device: the
// portable way, since the file systems that machines have were hardly ever made
// with project quotas. An empty one is copied from a template of its size, some
// ten kilobytes, because making one anew takes several times as long.
//
// A disk whose file has no name is gone with its last mount, whoever dies when. One
// with a name can be mounted again after a crash.
package scratch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is wrapped by an error that is the machine's: no loop devices, no
// mkfs.ext4, a kernel without ext4. Trying again changes nothing.
var ErrUnavailable = errors.New("this machine cannot make file systems of a fixed size")

// MinSize is the smallest size, in bytes.
const MinSize = 1 << 20

// bytesPerInode is how much room there is for each file: a limit on their number
// that nothing useful meets.
const bytesPerInode = 32 << 10

// Disk is a file system that is not mounted or mounted once.
type Disk struct {
	loop    *os.File
	options string
	ready   *os.File // the mount, where it has no place yet
	mounted string
}

// Make makes an empty file system with room for size bytes of files. templates is
// a directory of root's that is made if need be and kept. image is the path of
// its file, which must not exist; "" makes one without a name in dir.
func Make(templates, dir, image string, size int64) (*Disk, error) {
	if size < MinSize {
		return nil, fmt.Errorf("cannot make a scratch disk of %d bytes: at least %d are needed", size, MinSize)
	}
	template, err := openTemplate(templates, size)
	if err != nil {
		return nil, err
	}
	defer template.Close()
	name, flags := dir, unix.O_TMPFILE|os.O_RDWR
	if image != "" {
		name, flags = image, os.O_RDWR|os.O_CREATE|os.O_EXCL
	}
	f, err := os.OpenFile(name, flags, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) { // a file system without O_TMPFILE
		if f, err = os.CreateTemp(dir, ".scratch-"); err == nil {
			err = os.Remove(f.Name())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot make a scratch disk: %w", err)
	}
	defer f.Close()
	if err = copySparse(f, template); err == nil {
		var d *Disk
		if d, err = attach(f); err == nil {
			if image == "" {
				// Nothing of it is read after a crash.
				d.options += ",barrier=0"
			}
			return d, nil
		}
	}
	if image != "" {
		_ = os.Remove(image)
	}
	return nil, err
}

// Open makes the disk in an image available again.
func Open(image string) (*Disk, error) {
	f, err := os.OpenFile(image, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open a scratch disk: %w", err)
	}
	defer f.Close()
	return attach(f)
}

// Ready does all of [Disk.Mount] that needs no directory. Nobody has to call it,
// and after an error Mount works as ever.
func (d *Disk) Ready() error {
	fd, err := detachedMount(d.loop.Name(), d.options)
	if err != nil {
		return fmt.Errorf("cannot mount a scratch disk ahead: %w", err)
	}
	ready := os.NewFile(uintptr(fd), "scratch")
	if err := d.tidy(ready); err != nil {
		ready.Close()
		return fmt.Errorf("cannot mount a scratch disk ahead: %w", err)
	}
	d.ready = ready
	return nil
}

// tidy makes a new mount what a scratch disk is to be.
func (d *Disk) tidy(root *os.File) error {
	// For its first block the kernel would look at every group of a flexible group,
	// of which an empty disk has one (-G): some milliseconds for nothing. Not all
	// kernels have the setting.
	_ = os.WriteFile(filepath.Join("/sys/fs/ext4", filepath.Base(d.loop.Name()), "mb_prefetch"), []byte("1"), 0)
	// It comes with the file system, for what a check of it finds.
	_ = unix.Unlinkat(int(root.Fd()), "lost+found", unix.AT_REMOVEDIR)
	return os.NewSyscallError("fchmodat", unix.Fchmodat(int(root.Fd()), ".", 0o700, 0))
}

// Mount mounts the disk on a directory, for root only: what a container leaves
// there has whatever modes it likes.
func (d *Disk) Mount(dir string) error {
	var err error
	ahead := d.ready != nil
	if ahead {
		err = unix.MoveMount(int(d.ready.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
		d.ready.Close()
		d.ready = nil
	} else {
		err = unix.Mount(d.loop.Name(), dir, "ext4", unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOATIME, d.options)
	}
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("%w: the kernel has no ext4", ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("cannot mount a scratch disk: %w", &os.PathError{Op: "mount", Path: dir, Err: err})
	}
	d.mounted = dir
	if ahead {
		return nil
	}
	root, err := os.Open(dir)
	if err == nil {
		err = d.tidy(root)
		root.Close()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot use a scratch disk: %w", err), d.Close())
	}
	return nil
}

// Full tells whether there is no room left for data or for files.
func (d *Disk) Full() bool {
	var st unix.Statfs_t
	return d.mounted != "" && unix.Statfs(d.mounted, &st) == nil && (st.Bavail < 16 || st.Ffree == 0)
}

// Sync returns when everything on the disk would survive a loss of power.
func (d *Disk) Sync() error {
	f, err := os.Open(d.mounted)
	if err != nil {
		return fmt.Errorf("cannot sync a scratch disk: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync a scratch disk: %w", os.NewSyscallError("syncfs", err))
	}
	return nil
}

// Close unmounts the disk. Its space comes free when nothing has it open any more.
func (d *Disk) Close() error {
	if d.ready != nil {
		d.ready.Close() // with which it is unmounted
		d.ready = nil
	}
	if d.mounted != "" {
		if err := unix.Unmount(d.mounted, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("cannot unmount a scratch disk: %w", &os.PathError{Op: "umount", Path: d.mounted, Err: err})
		}
		d.mounted = ""
	}
	return d.loop.Close()
}
