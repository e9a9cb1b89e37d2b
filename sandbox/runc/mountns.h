/* Command of this program that runs containers, see RunnerCommand in mountns.go. */
#define RUNNER_COMMAND "runner"

#define NOT_ASKED -1

int own_mounts(void);
