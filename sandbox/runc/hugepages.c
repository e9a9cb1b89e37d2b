//go:build linux && cgo && seccomp

#include <string.h>
#include <sys/prctl.h>

/*
 * Some systems hand out memory in pieces of 2 MiB, unasked: of a daemon with a
 * heap of a few megabytes half would be empty. So no process of this program
 * takes part, from before Go makes its heap. What a process says of this goes
 * on to what it starts and executes, and jobs may want such pages: a
 * container's init, which becomes the job, takes part again.
 */
__attribute__((constructor)) static void use_small_pages(int argc, char **argv)
{
	int is_init = argc > 1 && strcmp(argv[1], "init") == 0;

	prctl(PR_SET_THP_DISABLE, !is_init, 0, 0, 0);
}
