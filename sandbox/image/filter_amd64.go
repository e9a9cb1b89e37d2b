package image

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	// firstForeign is the first number of x32, which has the same architecture and
	// other calls.
	firstForeign = 0x40000000
)

// archAllowed are calls that this architecture names otherwise, or has besides.
var archAllowed = []uint32{unix.SYS_NEWFSTATAT, unix.SYS_EPOLL_WAIT}
