//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "userns.h"

int fork_userns(int *release)
{
	int p[2];
	long pid;
	char c;

	if (pipe2(p, O_CLOEXEC) < 0)
		return -errno;
	/* Not clone(CLONE_VM): the child would share the caller's errno. */
	pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0) {
		int err = errno;
		close(p[0]);
		close(p[1]);
		return -err;
	}
	if (pid == 0) {
		/* Only system calls from here: the parent has other threads. */
		syscall(SYS_close, p[1]);
		syscall(SYS_read, p[0], &c, 1);
		syscall(SYS_exit_group, 0);
	}
	close(p[0]);
	*release = p[1];
	return pid;
}
