package queue

import (
	"crypto/rand"
	"fmt"
	"strings"
)

// idAlphabet is Crockford's base 32 in lower case: no i, l, o, u to mistake.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newID is seven digits of the sequence and four random ones: sortable by age
// until 2^35 jobs, short enough to type, and not to be guessed by whoever wants
// to take the next id first.
func newID(seq uint64) string {
	var id [11]byte
	for i := 6; i >= 0; i-- {
		id[i] = idAlphabet[seq&31]
		seq >>= 5
	}
	rand.Read(id[7:])
	for i := 7; i < len(id); i++ {
		id[i] = idAlphabet[id[i]&31]
	}
	return string(id[:])
}

const maxIDLen = 64

// CheckID tells whether id may name a job: 1 to 64 of A–Z a–z 0–9 . _ - and not
// starting with '.' or '-', because ids become names of directories and
// arguments of commands.
func CheckID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: the id is empty", ErrInvalid)
	case len(id) > maxIDLen:
		return fmt.Errorf("%w: the id has %d characters, at most %d are allowed", ErrInvalid, len(id), maxIDLen)
	case id[0] == '.' || id[0] == '-':
		return fmt.Errorf("%w: the id %q starts with %q", ErrInvalid, id, id[0])
	}
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}
	if i := strings.IndexFunc(id, bad); i >= 0 {
		return fmt.Errorf("%w: the id %q may hold only letters, digits, '.', '_' and '-'", ErrInvalid, id)
	}
	return nil
}
