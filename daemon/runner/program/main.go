// girder-worker-runner is what a runner and its container start as where the
// monitor starts them itself: of girder-worker only what they are made of, because
// each start of a program takes time for all that is in it. It is no program to
// install: girder-worker has it inside (daemon/runner/embedded).
package main

import (
	"fmt"
	"os"

	"girderworker/daemon/runner"
)

func main() {
	code, ok := runner.Process(os.Args[1:])
	if !ok {
		fmt.Fprintln(os.Stderr, "girder-worker-runner: this is a part of girder-worker; run that")
		code = 2
	}
	os.Exit(code)
}
