// Package jobsync tells those who asked for a job what becomes of it: Girder the
// status, the log and the progress, Celery the result.
//
// What has to be told stands in the queue's outbox, written with the change that
// it tells of, and is told for as long as it takes. Nothing that goes wrong here
// touches a job, but for one thing: a job that was canceled in Girder is canceled
// here as well, even when no revoke came.
package jobsync
