package image

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The worker's filter of system calls: what Go's runtime and the unpacking of
// files need, and nothing else. It is what is left to an attacker who has taken
// over the parser of an archive: beneath a root that holds one directory, without
// a network, these calls.
//
// What is not listed fails with EPERM. Killing the process instead would tell of
// an attack, but also make every newer kernel or Go, whose runtime merely asks
// for something, one on which nothing can be imported. Another architecture's
// calls, whose numbers mean something else, do kill.

// allowed are the calls that both architectures have; see archAllowed.
var allowed = []uint32{
	// Memory, threads, signals and time of the Go runtime, and of the C library
	// beneath it where the race detector is in.
	unix.SYS_BRK, unix.SYS_MADVISE, unix.SYS_MUNMAP, unix.SYS_MINCORE,
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_RSEQ, unix.SYS_SET_ROBUST_LIST,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_UNAME, unix.SYS_GETRANDOM,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2, unix.SYS_FCNTL,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
	// Reading the archive, writing files.
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_LSEEK, unix.SYS_CLOSE,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_FTRUNCATE, unix.SYS_GETDENTS64, unix.SYS_READLINKAT,
	unix.SYS_FSTAT, unix.SYS_STATX, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2,
	unix.SYS_MKDIRAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT, unix.SYS_CHDIR, unix.SYS_UMASK,
	unix.SYS_FCHMOD, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
	unix.SYS_FSETXATTR, unix.SYS_FGETXATTR, unix.SYS_FLISTXATTR,
}

// newNamespaces are the flags of clone that make any namespace.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// Where struct seccomp_data has what is looked at; both architectures are
// little-endian.
const (
	dataNumber = 0
	dataArch   = 4
)

func argLow(n uint32) uint32  { return 16 + 8*n }
func argHigh(n uint32) uint32 { return argLow(n) + 4 }

const (
	refuseCall = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	noSuchCall = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// jump tests the loaded word against k, and skips so many instructions.
func jump(test uint16, k uint32, yes, no uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | test, Jt: yes, Jf: no, K: k}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// filter is the program, for the process pid.
func filter(pid int) []unix.SockFilter {
	f := []unix.SockFilter{
		load(dataArch), jump(unix.BPF_JEQ, auditArch, 1, 0), ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(dataNumber), jump(unix.BPF_JGE, firstForeign, 0, 1), ret(unix.SECCOMP_RET_KILL_PROCESS),
	}
	for _, list := range [][]uint32{allowed, archAllowed} {
		for _, number := range list {
			f = append(f, jump(unix.BPF_JEQ, number, 0, 1), ret(unix.SECCOMP_RET_ALLOW))
		}
	}
	// checked passes a call whose arguments pass the tests, which jump over the
	// rest of them to the second last instruction where they do not.
	checked := func(number uint32, tests ...unix.SockFilter) {
		f = append(f, jump(unix.BPF_JEQ, number, 0, uint8(len(tests)+2)))
		f = append(f, tests...)
		f = append(f, ret(unix.SECCOMP_RET_ALLOW), ret(refuseCall))
	}
	// Threads, no processes and no namespaces. clone3 has its flags in memory, where
	// no filter can look; who is told that there is none uses clone.
	checked(unix.SYS_CLONE,
		load(argLow(0)), jump(unix.BPF_JSET, unix.CLONE_THREAD, 0, 2), jump(unix.BPF_JSET, newNamespaces, 1, 0))
	f = append(f, jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), ret(noSuchCall))
	// No memory whose content is executed.
	for _, number := range []uint32{unix.SYS_MMAP, unix.SYS_MPROTECT} {
		checked(number, load(argLow(2)), jump(unix.BPF_JSET, unix.PROT_EXEC, 1, 0))
	}
	// Signals to its own threads, with which the runtime preempts goroutines.
	checked(unix.SYS_TGKILL, load(argLow(0)), jump(unix.BPF_JEQ, uint32(pid), 0, 1))
	// The whiteouts of overlayfs.
	checked(unix.SYS_MKNODAT,
		load(argLow(2)), jump(unix.BPF_JEQ, unix.S_IFCHR, 0, 3), load(argLow(3)), jump(unix.BPF_JEQ, 0, 0, 1))
	// Limits are read, not set.
	checked(unix.SYS_PRLIMIT64,
		load(argLow(2)), jump(unix.BPF_JEQ, 0, 0, 3), load(argHigh(2)), jump(unix.BPF_JEQ, 0, 0, 1))
	return append(f, ret(refuseCall))
}

// filterCalls puts the filter upon every thread of this process, for good. It
// needs no_new_privs.
func filterCalls() error {
	program := filter(os.Getpid())
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("cannot filter system calls: %w", errno)
	}
	if thread != 0 {
		return fmt.Errorf("cannot filter system calls: thread %d has another filter", thread)
	}
	return nil
}
