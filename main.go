// girder-worker runs jobs in containers on this machine: see README.md, and
// package daemon/cli for its commands.
package main

import (
	"os"

	"girderworker/daemon/cli"
	"girderworker/daemon/runner/embedded"
	// A container starts by running this program again, and becomes the
	// container while this package is initialised.
	_ "girderworker/sandbox/runc"
)

// Stamped by the linker, see the Makefile.
var (
	version = "0.1.0-dev"
	commit  string
)

func main() {
	os.Exit(cli.Main(cli.Process{
		Args:      cli.Arguments(os.Args),
		Stdin:     os.Stdin,
		Stdout:    os.Stdout,
		Stderr:    os.Stderr,
		LookupEnv: os.LookupEnv,
		Version:   version,
		Commit:    commit,
		Runner:    embedded.Program,
	}))
}
