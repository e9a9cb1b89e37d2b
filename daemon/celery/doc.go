// Package celery is the codec between Celery's messages and Go: tasks, results,
// follow-up tasks, remote control, events. It is pure: bytes and plain values go
// in and come out, the clock is an argument, nothing is sent.
//
// What it reads and writes is what Celery 4 and 5 do with the rpc:// result
// backend, as recorded from a Girder server and its Python worker; message
// protocols 2, 1 and the hybrid of both.
//
// # The ends of a delivery
//
// [Decode] returns no error for a task that is to be run. An [*Error] says in
// End which of two other ends the delivery has. Neither puts it back into the
// queue: what is wrong with a message is wrong with it on every machine.
//
//	Reject   Nothing names a task and an id, so nobody can be told. The message
//	         is acknowledged (or rejected without requeue), logged and counted.
//	Fail     The task and its id are known. The message becomes a job that is
//	         born failed with the error as its reason; Girder is told where
//	         jobInfoSpec could be read, the caller where reply_to is set.
//
// By what is wrong:
//
//	header task or id of a wrong type, empty, too long      Reject
//	no header task, and the body is no protocol 1 message   Reject
//	any other header of a wrong type or out of range        Fail
//	content type pickle, yaml, msgpack or unknown           Fail (protocol 1: Reject)
//	content encoding or compression unknown, body damaged   Fail (protocol 1: Reject)
//	body larger than the limit, before or after inflating   Fail (protocol 1: Reject)
//	broken JSON, too deep, too many values                  Fail (protocol 1: Reject)
//	not args, kwargs and embed                              Fail
//	py/reduce, py/function and the like                     Fail
//	callbacks, errbacks, chain that are no signatures       Fail
//
// A body beyond the limit is not even read: package amqp drops it as it comes, and
// passes the headers on ([Delivery.Omitted]).
//
// What Girder does is no matter of the message. A jobInfoSpec with a URL where nobody
// answers, or a token that Girder refuses (401, 403), holds up neither the task nor
// others: it runs, its caller is answered, and Girder is told later, or given up
// (package jobsync).
//
// A bad header does not hide the good ones: the Task that comes with a Fail error
// has everything that could be read.
//
// An unknown task and an expired one are no errors here; [NotRegistered] and
// [Revoked] make the results that tell of them.
package celery
