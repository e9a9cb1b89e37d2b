//go:build !embedded

// Package embedded has no program of runners where girder-worker was built alone,
// as by a plain go build: it runs them itself then, which starts slower and does
// the same.
package embedded

// Program is empty.
const Program = ""
