//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>

#include "mountns.h"

/* The error number of giving this process its own mounts, or NOT_ASKED. */
static int outcome = NOT_ASKED;

/*
 * A mount namespace belongs to a thread, and a Go program has several before
 * any of its own code runs. So it is made here, where there is one. It is a
 * slave of the machine's: a disk that is mounted or ejected while a runner
 * waits for its attempt is seen, or let go of, here as well.
 */
__attribute__((constructor)) static void make_own_mounts(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], RUNNER_COMMAND) != 0)
		return;
	if (unshare(CLONE_NEWNS) < 0 || mount("", "/", "", MS_REC | MS_SLAVE, NULL) < 0)
		outcome = errno;
	else
		outcome = 0;
}

int own_mounts(void)
{
	return outcome;
}
