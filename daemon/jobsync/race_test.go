//go:build race

package jobsync

// raced: everything takes ten times as long.
const raced = true
