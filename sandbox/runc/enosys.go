//go:build linux && cgo && seccomp

package runc

import (
	"encoding/binary"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// A program that meets EPERM for a system call newer than the profile takes
// that for an answer, where ENOSYS would make it fall back to an older call:
// programs built for a new C library would break on every new kernel. So the
// filter begins with a stub that answers ENOSYS for every number larger than
// the largest the profile names. Numbers below it that the profile does not
// name are known and forbidden.

// x32Bit is set in the system call numbers of the x32 ABI, which shares its
// audit architecture with x86-64.
const x32Bit = 1 << 30

// Offsets into struct seccomp_data.
const (
	offsetNumber = 0
	offsetArch   = 4
)

// auditArchs are the kernel's names of the architectures.
var auditArchs = map[specs.Arch]uint32{
	specs.ArchX86:     unix.AUDIT_ARCH_I386,
	specs.ArchX86_64:  unix.AUDIT_ARCH_X86_64,
	specs.ArchX32:     unix.AUDIT_ARCH_X86_64,
	specs.ArchARM:     unix.AUDIT_ARCH_ARM,
	specs.ArchAARCH64: unix.AUDIT_ARCH_AARCH64,
}

// enosysStub compiles the stub for a profile. Its end falls through into
// whatever program follows. For each architecture it is
//
//	load the architecture
//	unless it is this one, skip the block
//	    load the number
//	    x86-64 and x32: unless bit 30 is (not) set, skip the rest of the block
//	    if it is larger than the largest, return ENOSYS
//
// which takes no long jumps, and so no fixing up.
func enosysStub(p *specs.LinuxSeccomp) ([]byte, error) {
	if p.DefaultAction != specs.ActErrno {
		return nil, nil
	}
	var program []unix.SockFilter
	for _, name := range p.Architectures {
		arch, err := libseccomp.GetArchFromString(archNames[name])
		if err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}
		audit, ok := auditArchs[name]
		if !ok {
			return nil, fmt.Errorf("architecture %s: not supported", name)
		}
		largest, err := largestSyscall(p, arch)
		if err != nil {
			return nil, fmt.Errorf("architecture %s: %w", name, err)
		}

		block := []unix.SockFilter{load(offsetNumber)}
		switch name {
		case specs.ArchX86_64:
			block = append(block, jump(unix.BPF_JSET, x32Bit, 2, 0))
		case specs.ArchX32:
			block = append(block, jump(unix.BPF_JSET, x32Bit, 0, 2))
		}
		block = append(block,
			jump(unix.BPF_JGT, largest, 0, 1),
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		)
		program = append(program, load(offsetArch), jump(unix.BPF_JEQ, audit, 0, uint8(len(block))))
		program = append(program, block...)
	}
	encoded := make([]byte, 0, len(program)*sizeofSockFilter)
	return binary.Append(encoded, binary.NativeEndian, program)
}

// largestSyscall is the largest number that the profile names on an architecture.
func largestSyscall(p *specs.LinuxSeccomp, arch libseccomp.ScmpArch) (uint32, error) {
	var largest uint32
	for _, rule := range p.Syscalls {
		for _, name := range rule.Names {
			// Calls that the architecture does not have get negative numbers.
			n, err := libseccomp.GetSyscallFromNameByArch(name, arch)
			if err == nil && n > 0 {
				largest = max(largest, uint32(n))
			}
		}
	}
	if largest == 0 {
		return 0, fmt.Errorf("the profile names no system call")
	}
	return largest, nil
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// jump compares the loaded value with k and skips so many instructions.
func jump(comparison uint16, k uint32, ifTrue, ifFalse uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | comparison, Jt: ifTrue, Jf: ifFalse, K: k}
}
