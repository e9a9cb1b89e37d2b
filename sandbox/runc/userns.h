/*
 * Forks a process in a new user namespace that does nothing until it is
 * killed. Returns its number, or a negative errno. It also dies with the
 * calling thread.
 */
int fork_userns(void);
