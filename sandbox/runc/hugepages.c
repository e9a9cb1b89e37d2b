//go:build linux && cgo && seccomp

#include <string.h>
#include <sys/prctl.h>

#include "mountns.h"

/*
 * Some systems hand out memory in pieces of 2 MiB, unasked: of a daemon with a
 * heap of a few megabytes half would be empty. So no process of this program
 * takes part, from before Go makes its heap. What a process says of this goes
 * on to what it starts and executes, and jobs may want such pages: a runner takes
 * part again, and with it its container.
 */
__attribute__((constructor)) static void use_small_pages(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], RUNNER_COMMAND) == 0)
		prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	else if (argc < 2 || strcmp(argv[1], "init") != 0)
		prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}
