//go:build race

package image

// raceDetector is on: its shadow memory does not fit any limit on memory.
const raceDetector = true
