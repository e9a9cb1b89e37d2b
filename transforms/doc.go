// Package transforms turns a job's document into a [Plan]: the types of every
// transform, their decoding from the job file, and the checks that need no
// machine. It opens nothing and runs nothing.
package transforms
