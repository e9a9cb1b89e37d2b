//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filter_thread.h"

/* The header that the runner sends, see seccompHeader in handshake.go. */
struct header {
	uint32_t flags;
	uint32_t count;
};

static int read_full(int fd, void *buf, size_t size)
{
	char *p = buf;
	while (size > 0) {
		ssize_t n = read(fd, p, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno;
		if (n == 0)
			return EPIPE;
		p += n;
		size -= n;
	}
	return 0;
}

static int install(int fd)
{
	struct header h;
	struct sock_filter *program;
	struct sock_fprog prog;
	char go;
	int err;

	if ((err = read_full(fd, &h, sizeof(h))))
		return err;
	if (h.count > BPF_MAXINSNS)
		return EINVAL;
	program = calloc(h.count ? h.count : 1, sizeof(*program));
	if (!program)
		return ENOMEM;
	if ((err = read_full(fd, program, h.count * sizeof(*program))))
		return err;

	/* Everything privileged is done when this byte comes. */
	if ((err = read_full(fd, &go, 1)))
		return err;
	if (h.count == 0)
		return 0;

	prog.len = h.count;
	prog.filter = program;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return errno;
	/* A positive answer names a thread that could not be made to follow. */
	long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			  h.flags | SECCOMP_FILTER_FLAG_TSYNC, &prog);
	if (rc < 0)
		return errno;
	return rc == 0 ? 0 : ESRCH;
}

static void *filter_thread(void *arg)
{
	int fd = (int)(intptr_t)arg;
	int32_t result = install(fd);
	char answer[1 + sizeof(result)] = { ANSWER_MARK };
	memcpy(answer + 1, &result, sizeof(result));
	while (write(fd, answer, sizeof(answer)) < 0 && errno == EINTR)
		;
	/* execve ends this thread. */
	return NULL;
}

int start_filter_thread(int fd)
{
	pthread_t thread;
	sigset_t all, before;
	int err;

	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return errno;
	/* Signals are for the threads that Go knows. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&thread, NULL, filter_thread, (void *)(intptr_t)fd);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}
