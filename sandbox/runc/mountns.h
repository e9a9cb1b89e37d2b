/* Command of this program that runs containers, RunnerCommand of options.go. */
#define RUNNER_COMMAND "runner"

#define NOT_ASKED -1

int own_mounts(void);
