// Package amqp is the daemon's side of RabbitMQ: it connects, declares what
// Celery declares, takes tasks, and publishes results, replies and events. What a
// message means is package celery's; what becomes of a task is the caller's.
//
// # Taking only what can start
//
// A delivery stays unacknowledged until it is decided. [Config.Free] is asked
// before one is fetched; while it says 0 nothing is consumed, so that what waits
// stays in the queue, where other machines see it. With room, waiting messages
// are fetched one by one, from the queues in turn (basic.get); only when all
// queues are empty consumers wait for the next message, with a prefetch of 1
// each, and they are canceled before the acknowledgement that would let the broker
// send more than there is room for. Only where several queues share the last
// slot a message may come that cannot start; it goes back at once.
//
// The caller makes a task durable and then calls [Delivery.Accept], which
// acknowledges it and waits for an answer to a later call on the same channel.
// RabbitMQ answers in order, so the answer says that the task is ours. Without
// one nobody knows: [ErrUncertain]. A delivery of a connection that has ended is
// void: the broker gives the task to somebody again.
//
// # Two connections
//
// RabbitMQ stops reading from a connection that publishes while it is short of
// memory or disk, so acknowledgements have a connection of their own, as in
// Celery. While publishing is blocked tasks are still taken: that is how a full
// broker gets empty. Each connection is made again for as long as it takes.
//
// # What is declared
//
// Each thing is looked for first (passively) and made only if it is missing, so
// that a queue with other arguments (x-queue-type, x-max-priority) is taken as it
// is. Exchanges and task queues are made with Celery's names and flags. The queue
// for remote control is only ours and therefore exclusive: RabbitMQ 4.3 refuses
// transient queues that are not, and a global prefetch. Each attempt has a channel
// of its own, because an AMQP error ends its channel.
package amqp
