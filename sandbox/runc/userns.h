/*
 * Forks a process in a new user namespace that does nothing until the write
 * end of the pipe in *release is closed, and then exits. Returns its number,
 * or a negative errno.
 */
int fork_userns(int *release);
