//go:build linux && cgo && seccomp

package runc

import (
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The lines are those of libcontainer's init, of which only one may have the
// filter: it is past all calls that a filter may refuse.
func TestOpensForWriting(t *testing.T) {
	openat, openat2 := strconv.Itoa(unix.SYS_OPENAT), strconv.Itoa(unix.SYS_OPENAT2)
	for line, want := range map[string]bool{
		openat + " 0x8 0xc000012345 0x80001 0x0 0x0 0x0 0x7ffd0 0x47f0":            true,
		openat + " 0x8 0xc000012345 0x80000 0x0 0x0 0x0 0x7ffd0 0x47f0":            false, // reads
		openat2 + " 0xffffffffffffff9c 0xc0000 0xc00001 0x18 0x0 0x0 0x7ffd0 0x47": false, // openat2
		"202 0x1 0x80 0x1 0x0 0x0 0x0 0x7ffd0 0x47f0":                              false, // futex
		"running":           false,
		"-1 0x7ffd0 0x47f":  false,
		"":                  false,
		openat + " 0x8 0xc": false,
	} {
		if got := opensForWriting(line); got != want {
			t.Errorf("opensForWriting(%q) = %v, want %v", line, got, want)
		}
	}
}
