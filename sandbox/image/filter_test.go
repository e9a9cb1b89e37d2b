package image_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image"
)

// filterCommand makes the test binary a process that tries system calls before
// and after it has the worker's filter.
const filterCommand = "test-filter"

// attempt is a call that fails in the kernel for a reason of its own, wherever it
// is let through to it; want is 0 where the filter lets it.
type attemptedCall struct {
	name   string
	number uintptr
	args   [6]uintptr
	want   unix.Errno
}

const badAddress = 1 // of a page that nobody has

func attemptedCalls() []attemptedCall {
	none := ^uintptr(0)
	var flags = uintptr(unix.CLONE_NEWUSER | unix.CLONE_THREAD | unix.CLONE_SIGHAND | unix.CLONE_VM)
	return []attemptedCall{
		{"socket", unix.SYS_SOCKET, [6]uintptr{none}, unix.EPERM},
		{"connect", unix.SYS_CONNECT, [6]uintptr{none}, unix.EPERM},
		{"sendto", unix.SYS_SENDTO, [6]uintptr{none}, unix.EPERM},
		{"mount", unix.SYS_MOUNT, [6]uintptr{badAddress, badAddress, badAddress}, unix.EPERM},
		{"umount2", unix.SYS_UMOUNT2, [6]uintptr{badAddress}, unix.EPERM},
		{"open_tree", unix.SYS_OPEN_TREE, [6]uintptr{none, badAddress}, unix.EPERM},
		{"move_mount", unix.SYS_MOVE_MOUNT, [6]uintptr{none, badAddress, none, badAddress}, unix.EPERM},
		{"fsopen", unix.SYS_FSOPEN, [6]uintptr{badAddress}, unix.EPERM},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, [6]uintptr{none, badAddress}, unix.EPERM},
		{"pivot_root", unix.SYS_PIVOT_ROOT, [6]uintptr{badAddress, badAddress}, unix.EPERM},
		{"chroot", unix.SYS_CHROOT, [6]uintptr{badAddress}, unix.EPERM},
		{"execve", unix.SYS_EXECVE, [6]uintptr{badAddress}, unix.EPERM},
		{"execveat", unix.SYS_EXECVEAT, [6]uintptr{none, badAddress}, unix.EPERM},
		{"ptrace", unix.SYS_PTRACE, [6]uintptr{none, none}, unix.EPERM},
		{"process_vm_writev", unix.SYS_PROCESS_VM_WRITEV, [6]uintptr{none, badAddress, 1, badAddress, 1}, unix.EPERM},
		{"pidfd_open", unix.SYS_PIDFD_OPEN, [6]uintptr{none}, unix.EPERM},
		{"unshare", unix.SYS_UNSHARE, [6]uintptr{1}, unix.EPERM},
		{"setns", unix.SYS_SETNS, [6]uintptr{none}, unix.EPERM},
		{"keyctl", unix.SYS_KEYCTL, [6]uintptr{none}, unix.EPERM},
		{"add_key", unix.SYS_ADD_KEY, [6]uintptr{badAddress}, unix.EPERM},
		{"bpf", unix.SYS_BPF, [6]uintptr{9999}, unix.EPERM},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [6]uintptr{badAddress}, unix.EPERM},
		{"userfaultfd", unix.SYS_USERFAULTFD, [6]uintptr{none}, unix.EPERM},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [6]uintptr{1, badAddress}, unix.EPERM},
		{"memfd_create", unix.SYS_MEMFD_CREATE, [6]uintptr{badAddress}, unix.EPERM},
		{"seccomp", unix.SYS_SECCOMP, [6]uintptr{9999}, unix.EPERM},
		{"prctl", unix.SYS_PRCTL, [6]uintptr{9999}, unix.EPERM},
		{"setuid", unix.SYS_SETUID, [6]uintptr{none}, unix.EPERM},
		{"capset", unix.SYS_CAPSET, [6]uintptr{badAddress}, unix.EPERM},
		{"kill", unix.SYS_KILL, [6]uintptr{1, 9999}, unix.EPERM},
		{"ioctl", unix.SYS_IOCTL, [6]uintptr{none}, unix.EPERM},
		{"name_to_handle_at", unix.SYS_NAME_TO_HANDLE_AT, [6]uintptr{none, badAddress}, unix.EPERM},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [6]uintptr{none, badAddress}, unix.EPERM},
		{"init_module", unix.SYS_INIT_MODULE, [6]uintptr{badAddress}, unix.EPERM},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, [6]uintptr{none}, unix.EPERM},
		{"personality", unix.SYS_PERSONALITY, [6]uintptr{0xffffffff}, unix.EPERM},
		{"renameat2", unix.SYS_RENAMEAT2, [6]uintptr{none, badAddress, none, badAddress}, unix.EPERM},
		{"setxattr by path", unix.SYS_SETXATTR, [6]uintptr{badAddress}, unix.EPERM},
		{"setrlimit", unix.SYS_SETRLIMIT, [6]uintptr{9999}, unix.EPERM},
		// Calls of which some are let through.
		{"clone of a process", unix.SYS_CLONE, [6]uintptr{unix.CLONE_SIGHAND}, unix.EPERM},
		{"clone with a namespace", unix.SYS_CLONE, [6]uintptr{flags}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [6]uintptr{badAddress, 64}, unix.ENOSYS},
		{"a fifo", unix.SYS_MKNODAT, [6]uintptr{none, badAddress, unix.S_IFIFO}, unix.EPERM},
		{"a device", unix.SYS_MKNODAT, [6]uintptr{none, badAddress, unix.S_IFCHR, 0x103}, unix.EPERM},
		{"a whiteout", unix.SYS_MKNODAT, [6]uintptr{none, badAddress, unix.S_IFCHR, 0}, 0},
		{"a signal to another", unix.SYS_TGKILL, [6]uintptr{1, 1, 9999}, unix.EPERM},
		{"a signal to itself", unix.SYS_TGKILL, [6]uintptr{uintptr(os.Getpid()), uintptr(os.Getpid()), 9999}, 0},
		{"code in memory", unix.SYS_MMAP, [6]uintptr{0, 0, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE, none}, unix.EPERM},
		{"memory made code", unix.SYS_MPROTECT, [6]uintptr{badAddress, 1, unix.PROT_EXEC}, unix.EPERM},
		{"memory without code", unix.SYS_MMAP, [6]uintptr{0, 0, unix.PROT_READ, unix.MAP_PRIVATE, none}, 0},
		{"a limit set", unix.SYS_PRLIMIT64, [6]uintptr{0, 9999, badAddress, 0}, unix.EPERM},
		{"a limit set high up", unix.SYS_PRLIMIT64, [6]uintptr{0, 9999, 1 << 32, 0}, unix.EPERM},
		{"a limit read", unix.SYS_PRLIMIT64, [6]uintptr{0, 9999, 0, badAddress}, 0},
		{"a file", unix.SYS_OPENAT, [6]uintptr{none, badAddress}, 0},
	}
}

func filterMain() int {
	runtime.LockOSThread()
	calls := attemptedCalls()
	var got [2][]unix.Errno
	for i := range got {
		for _, c := range calls {
			_, _, errno := unix.Syscall6(c.number, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
			got[i] = append(got[i], errno)
		}
		if i > 0 {
			break
		}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := image.FilterCalls(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		// Threads made later have it, too.
		done := make(chan bool)
		go func() {
			runtime.LockOSThread()
			_, _, errno := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0)
			done <- errno == unix.EPERM
		}()
		if !<-done {
			fmt.Fprintln(os.Stderr, "another thread may make sockets")
			return 1
		}
	}
	if json.NewEncoder(os.Stdout).Encode(got) != nil {
		return 1
	}
	// Another architecture's or ABI's calls end it.
	x32()
	return 0
}

func x32() { unix.RawSyscall(0x40000000|39, uintptr(unsafe.Pointer(nil)), 0, 0) }

func TestFilter(t *testing.T) {
	var stderr strings.Builder
	cmd := exec.Command("/proc/self/exe", filterCommand)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var got [2][]unix.Errno
	if jsonErr := json.Unmarshal(out, &got); jsonErr != nil {
		t.Fatalf("%v, %v: %s", err, jsonErr, stderr.String())
	}
	if killed := err != nil && strings.Contains(err.Error(), "bad system call"); killed != (runtime.GOARCH == "amd64") {
		t.Errorf("a call of x32: %v: %s", err, stderr.String())
	}
	tried, refused := 0, 0
	for i, c := range attemptedCalls() {
		before, after := got[0][i], got[1][i]
		if c.want == 0 {
			if after != before {
				t.Errorf("%s: %v, without the filter %v", c.name, after, before)
			}
			continue
		}
		if before == c.want {
			t.Logf("not told apart on this kernel: %s fails with %v without the filter, too", c.name, before)
			continue
		}
		tried++
		if after != c.want {
			t.Errorf("%s: %v, want %v; without the filter %v", c.name, after, c.want, before)
			continue
		}
		refused++
	}
	t.Logf("hostile: %d system calls tried in the worker, %d refused", tried, refused)
}
