//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "userns.h"

int fork_userns(void)
{
	sigset_t all, before;
	long pid;

	/* Go's signal handlers are not for the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	/* Not with CLONE_VM: the child would share the caller's errno. */
	pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		/*
		 * Only system calls from here: the parent has other threads. What
		 * the child inherited must not stay open longer than the parent
		 * means it to.
		 */
		syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
		syscall(SYS_close_range, 0, ~0U, 0);
		for (;;)
			syscall(SYS_rt_sigsuspend, &all, sizeof(unsigned long));
	}
	int err = errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return pid < 0 ? -err : pid;
}
