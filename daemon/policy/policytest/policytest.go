// Package policytest has what tests of more than one package need of policy's promises.
package policytest

import (
	"os"
	"testing"
)

// RootsDir makes a directory that is root's alone with all that is above it, which
// those beneath /tmp are not, and that functions see. It is gone when the test ends.
func RootsDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/opt", "girder-worker-test-")
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
