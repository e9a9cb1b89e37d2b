//go:build linux && cgo && seccomp

#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* initPath of reaper.go. */
#define INIT_PATH "/dev/init"

/*
 * run executes the job and is its init until the job's own process ends: it
 * passes every signal on and reaps whatever is left to it. It ends as that
 * process did, in a shell's words. What is still alive then dies with it.
 */
static int run(char **command)
{
	sigset_t all, before;
	pid_t job;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &before);
	job = fork();
	if (job < 0) {
		fprintf(stderr, "init: cannot fork: %s\n", strerror(errno));
		return 126;
	}
	if (job == 0) {
		int err;
		sigprocmask(SIG_SETMASK, &before, NULL);
		execvp(command[0], command);
		err = errno;
		fprintf(stderr, "init: cannot execute %s: %s\n", command[0], strerror(err));
		_exit(err == ENOENT || err == ENOTDIR ? 127 : 126);
	}
	for (;;) {
		siginfo_t info;
		int status;
		pid_t pid;

		if (sigwaitinfo(&all, &info) < 0)
			continue;
		if (info.si_signo != SIGCHLD) {
			kill(job, info.si_signo);
			continue;
		}
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid == job && WIFSIGNALED(status))
				return 128 + WTERMSIG(status);
			if (pid == job && WIFEXITED(status))
				return WEXITSTATUS(status);
		}
	}
}

/* Before the Go runtime and libcontainer's own constructor look around. */
__attribute__((constructor(101))) static void become_init(int argc, char **argv)
{
	if (argc >= 2 && strcmp(argv[0], INIT_PATH) == 0)
		_exit(run(argv + 1));
}
