// Package queue is the durable queue.
package queue
