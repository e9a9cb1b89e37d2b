//go:build embedded

package main

import _ "embed"

// runnerProgram is the program of daemon/runner/program, from the same sources:
// the Makefile builds it first.
//
//go:embed build/runner
var runnerProgram string
