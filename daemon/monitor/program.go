package monitor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// useProgram has runners started from a sealed file in memory that holds the
// program. A container's first process is its runner's program, too, and no job
// can write to a sealed one, so that libcontainer needs no copy for each start.
func (s *sessions) useProgram(program string) error {
	// The init that a container may have is mounted, which a file in memory cannot be.
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	s.init = strings.TrimSuffix(self, " (deleted)")
	// Whoever looks at the process shall see whose it is.
	if s.program, err = sealedFile(s.init, program); err != nil {
		return err
	}
	// By our number, because in the process that executes it other descriptors may
	// have taken the place of ours.
	s.self = []string{fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.program.Fd())}
	return nil
}

// sealedFile makes an executable file that is in memory alone and that nobody can change.
func sealedFile(name, content string) (_ *os.File, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot keep a program in memory: %w", err)
		}
	}()
	const longest = 200 // the kernel takes 249 bytes
	name = name[max(0, len(name)-longest):]
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, where all can be executed
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err = f.WriteString(content); err == nil {
		err = f.Chmod(0o555) // a transfer process is not root
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
