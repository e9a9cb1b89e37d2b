//go:build !embedded

package main

// runnerProgram is empty where the program was built alone, as for tests:
// runners are then this one, which starts slower and does the same.
const runnerProgram = ""
