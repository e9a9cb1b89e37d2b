package scratch

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// attach puts a file on a loop device that lets go of it when it is no longer used.
func attach(f *os.File) (*Disk, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer control.Close()
	// Another process may take the device that was free a moment ago.
	for range 100 {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("%w: there is no free loop device: %w", ErrUnavailable, err)
		}
		device, err := os.OpenFile("/dev/loop"+strconv.Itoa(n), os.O_RDWR, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd:   uint32(f.Fd()),
			Size: blockSize,
			Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			// Tables of the template that were never written are zero; nobody need do
			// that again, which would fill the file.
			return &Disk{loop: device, options: "noinit_itable"}, nil
		}
		device.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("cannot attach a scratch disk: %w", os.NewSyscallError("LOOP_CONFIGURE", err))
		}
	}
	return nil, errors.New("cannot attach a scratch disk: others are always faster to take a loop device")
}

// detachedMount mounts a device without a place in the tree.
func detachedMount(device, options string) (int, error) {
	fs, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	err = unix.FsconfigSetString(fs, "source", device)
	for option := range strings.SplitSeq(options, ",") {
		if err != nil {
			break
		}
		if name, value, ok := strings.Cut(option, "="); ok {
			err = unix.FsconfigSetString(fs, name, value)
		} else {
			err = unix.FsconfigSetFlag(fs, name)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOATIME)
	return fd, os.NewSyscallError("fsmount", err)
}
