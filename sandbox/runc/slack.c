//go:build linux && cgo && seccomp

#include <sys/prctl.h>

#include "slack.h"

/*
 * While there is work the Go runtime has a thread (sysmon) that looks around
 * and then sleeps for 20 microseconds, over and over. With the kernel's 50
 * microseconds of slack these looks were a seventh of a short job's processor
 * time. The price of more is that a goroutine behind a slow system call waits
 * so much longer for another thread.
 */
#define SLACK_NS 250000UL

/* What Linux gives to the first process. */
#define KERNEL_SLACK_NS 50000UL

/* Every thread has its own, from the thread that made it; so before Go's. */
__attribute__((constructor)) void sleep_loosely(void)
{
	prctl(PR_SET_TIMERSLACK, SLACK_NS, 0, 0, 0);
}

void sleep_exactly(void)
{
	prctl(PR_SET_TIMERSLACK, KERNEL_SLACK_NS, 0, 0, 0);
}
