//go:build linux && cgo && seccomp

package runc

import (
	"encoding/json"
	"os"

	"github.com/opencontainers/runc/libcontainer"
)

// Ready does ahead of time what the first [Runner.Start] of a process spends on
// no container in particular: encoding/json looks closely at each type that it
// meets, and libcontainer's are large; os tries with a child what the kernel can.
func Ready() {
	_, _ = json.Marshal(&libcontainer.State{})
	if p, err := os.FindProcess(os.Getpid()); err == nil {
		_ = p.Release()
	}
}
