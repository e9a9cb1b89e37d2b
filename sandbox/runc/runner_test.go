//go:build linux && cgo && seccomp

package runc

import (
	"testing"
)

func TestOutputAndExitCode(t *testing.T) {
	r := testRunner(t)
	got := run(t, r, testSpec(t, "sh", "-c", "echo out; echo err >&2; exit 7"))
	if got.Code != 7 || got.Signal != 0 || got.stdout != "out\n" || got.stderr != "err\n" {
		t.Errorf("got %+v", got)
	}
}
