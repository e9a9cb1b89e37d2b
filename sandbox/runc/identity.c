//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>

#include "identity.h"

static void fail(const char *what)
{
	fprintf(stderr, "cannot %s: %s\n", what, strerror(errno));
	_exit(1);
}

/* An id, or -1, which is nobody's. */
static unsigned int number(const char *text)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || n >= (unsigned int)-1)
		return (unsigned int)-1;
	return (unsigned int)n;
}

/*
 * A process that root starts for somebody else holds their tokens, or what else
 * their other processes have no business with. If it were theirs from its first
 * instruction, any of them could look into it until it says that it is not to be
 * looked into. So it is root's until here, which is before anything of Go runs,
 * and becomes theirs and closed in one step: the kernel takes the permission away
 * with the change of identity.
 *
 * Its supplementary groups are set already, and it cannot gain privileges.
 */
__attribute__((constructor(101))) static void become_submitter(int argc, char **argv)
{
	pid_t parent = getppid();
	uid_t uid;
	gid_t gid;
	int c;

	if (argc != 4 || (strcmp(argv[1], TRANSFER_COMMAND) != 0 && strcmp(argv[1], NETWORK_COMMAND) != 0))
		return;
	errno = EINVAL;
	uid = number(argv[2]);
	gid = number(argv[3]);
	if (uid == 0 || uid == (uid_t)-1 || gid == (gid_t)-1)
		fail("become a job's submitter");
	for (c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++)
		if (prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0)
			fail("give up capabilities");
	if (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
		fail("become a job's submitter");
	/* Where fs.suid_dumpable says otherwise. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		fail("hide from debuggers");
	/* It was set, and went with the identity. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		fail("end with the runner");
	if (getppid() != parent)
		_exit(1);
}
