//go:build linux && cgo && seccomp

package runc

import (
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"

	"girderworker/sandbox"
)

// initPath is where a container with an init finds this program. Executed by
// that name it does what reaper.c says, before anything of Go runs.
const initPath = "/dev/init"

// bindInit makes this program, read-only, the container's init. It belongs to
// the host's root, who has no number in the container.
func (w *workspace) bindInit(program string) (*configs.Mount, error) {
	if program == "" {
		self, err := os.Readlink("/proc/self/exe")
		if err != nil {
			return nil, fmt.Errorf("cannot find the container's init: %w", err)
		}
		// An upgrade since this process began has put another there: as good.
		program = strings.TrimSuffix(self, " (deleted)")
	}
	f, err := os.Open(program)
	if err != nil {
		return nil, fmt.Errorf("cannot find the container's init: %w", err)
	}
	defer f.Close()
	source, err := w.bind(sandbox.Mount{Source: f, ReadOnly: true}, "init")
	if err != nil {
		return nil, fmt.Errorf("cannot bind %s to %s: %w", program, initPath, err)
	}
	return &configs.Mount{Source: source, Destination: initPath, Device: "bind", Flags: unix.MS_BIND}, nil
}
