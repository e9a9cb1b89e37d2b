/*
 * Starts a thread that waits on the control socket for a compiled seccomp
 * filter and the word to install it in all threads of the process, and answers
 * with an int32: 0 or an errno. Returns 0 or an errno.
 */
int start_filter_thread(int fd);
