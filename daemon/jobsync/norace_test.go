//go:build !race

package jobsync

const raced = false
