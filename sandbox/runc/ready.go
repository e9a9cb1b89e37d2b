//go:build linux && cgo && seccomp

package runc

import (
	"encoding/json"

	"github.com/opencontainers/runc/libcontainer"
)

// Ready does ahead of time what the first [Runner.Start] of a process spends on
// no container in particular: encoding/json looks closely at each type that it
// meets, and libcontainer's are large.
func Ready() {
	_, _ = json.Marshal(&libcontainer.State{})
}
