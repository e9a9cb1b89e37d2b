//go:build embedded

// Package embedded has the program of runners in the binary. The file is no
// source, but what the Makefile has built from ../program: it tells the compiler
// where that is, with -overlay.
package embedded

import _ "embed"

// Program is that of daemon/runner/program, an executable file.
//
//go:embed program
var Program string
