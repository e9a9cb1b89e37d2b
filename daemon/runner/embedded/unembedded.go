//go:build !embedded

package embedded

// Program is empty where girder-worker was built alone, as by a plain go build:
// it runs runners itself then, which starts slower and does the same.
const Program = ""
