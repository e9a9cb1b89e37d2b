package girder

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strings"
	"unicode/utf8"
)

// maxName is the longest file name that Linux takes, in bytes.
const maxName = 255

// CleanName makes one path element of a name from the server, as the Python worker
// does: "/" becomes "_", "." and ".." get a "_" in front. Beyond that, NUL becomes
// "_", an empty name is "_", and one of more than 255 bytes is cut in the middle,
// where part of a hash of the whole keeps it different from others. The result is
// never empty, "." or "..", and has no "/" or NUL in it.
func CleanName(name string) string {
	clean := strings.ToValidUTF8(strings.NewReplacer("/", "_", "\x00", "_").Replace(name), "_")
	switch clean {
	case "", ".", "..":
		clean = "_" + clean
	}
	if len(clean) <= maxName {
		return clean
	}
	sum := sha256.Sum256([]byte(name))
	end := path.Ext(clean)
	if len(end) > 32 {
		end = ""
	}
	end = "~" + hex.EncodeToString(sum[:4]) + end
	cut := maxName - len(end)
	for !utf8.RuneStart(clean[cut]) {
		cut--
	}
	return clean[:cut] + end
}
