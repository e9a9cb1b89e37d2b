package scratch

import (
	"errors"
	"fmt"
	"os"
	"strconv"

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
