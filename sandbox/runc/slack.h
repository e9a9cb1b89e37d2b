/*
 * Gives the calling thread, and with it the program that it executes, the
 * kernel's own precision of timers again, see slack.c.
 */
void sleep_exactly(void);

/* Takes it back. */
void sleep_loosely(void);
