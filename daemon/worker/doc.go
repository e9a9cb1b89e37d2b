// Package worker is what a Celery worker is, over the queue: it turns task
// messages into jobs, the ends of jobs into results and follow-up tasks, and
// answers remote control from what the queue knows. It sends nothing itself;
// messages go out through functions that it is given.
package worker
