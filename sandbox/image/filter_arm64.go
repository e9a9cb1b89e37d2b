package image

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_AARCH64
	// firstForeign is above all numbers: nothing but AArch64 has this architecture.
	firstForeign = 0xffffffff
)

// archAllowed are calls that this architecture names otherwise, or has besides.
var archAllowed = []uint32{unix.SYS_FSTATAT}
