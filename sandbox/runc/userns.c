//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "userns.h"

/*
 * hold does nothing until it is killed. It has the caller's memory, its thread's
 * errno among it: so only system calls that do not fail.
 */
static int hold(void *caller)
{
	syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* One that died before that would leave us with its descriptors. */
	while (syscall(SYS_getppid) == (intptr_t)caller)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
	return 0;
}

static int write_map(pid_t pid, const char *name, const char *mappings)
{
	char path[64];
	int fd, err = 0;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (write(fd, mappings, strlen(mappings)) < 0) /* one write is all that it takes */
		err = -errno;
	close(fd);
	return err;
}

static int open_ns(pid_t pid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/*
 * A process that shares memory and descriptors is made and gone in a tenth of the
 * time of one that gets copies, after which the caller would also have to take
 * back each page that it writes to.
 */
int open_userns(const char *uids, const char *gids)
{
	char stack[16384] __attribute__((aligned(16)));
	sigset_t all, before;
	pid_t pid;
	int result;

	/* Go's signal handlers are not for the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pid = clone(hold, stack + sizeof(stack), CLONE_NEWUSER | CLONE_VM | CLONE_FILES | SIGCHLD,
		    (void *)(intptr_t)getpid());
	result = pid < 0 ? -errno : 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (pid < 0)
		return result;
	result = write_map(pid, "uid_map", uids);
	if (result == 0)
		result = write_map(pid, "gid_map", gids);
	if (result == 0)
		result = open_ns(pid);
	/* It is on our stack. */
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return result;
}
