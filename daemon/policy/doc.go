// Package policy says what the jobs of whom may ask of this machine. It is the
// one place that decides: the front asks it when a job is submitted, and the
// monitor, which trusts the front with nothing, asks it again when an attempt
// starts, with an identity that it knows by itself and a file that only root
// can have written.
//
// # Meaning
//
// What is not granted is refused. [socket] is for everyone who may submit,
// [amqp] for what comes from the message queue; a key that such a section does
// not have is the built-in policy's (default.toml). [group.NAME] and
// [user.NAME] add to [socket]: lists are joined, of limits and counts the larger
// holds. Nothing takes away, so the order of sections has no meaning and a person
// with two groups has what either gives.
//
// A field of a plan for which there is no rule here is refused, so that a new
// kind of wish cannot pass by being forgotten.
package policy
