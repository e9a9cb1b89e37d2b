package cli

import "crypto/rand"

// newID is an id like the daemon's own, for a submission that may have to be
// repeated: 11 digits of Crockford's base 32, 55 random bits.
func newID() string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	var id [11]byte
	rand.Read(id[:])
	for i := range id {
		id[i] = digits[id[i]%32]
	}
	return string(id[:])
}
