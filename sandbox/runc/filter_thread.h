/*
 * Starts a thread that waits on the control socket for a compiled seccomp
 * filter and the word to install it in all threads of the process, and answers
 * with ANSWER_MARK and an int32: 0 or an errno. Returns 0 or an errno.
 */
#define ANSWER_MARK 0
int start_filter_thread(int fd);
