package queue

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// idAlphabet is Crockford's base 32 in lower case: no i, l, o, u to mistake.
const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// seqDigits and randomDigits make an id that sorts by age until 2^35 jobs, is
// short enough to type, and is not to be guessed by whoever wants to take the
// next one first.
const (
	seqDigits    = 7
	randomDigits = 4
)

func newID(seq uint64, random int) string {
	id := make([]byte, seqDigits+random)
	for i := seqDigits - 1; i >= 0; i-- {
		id[i] = idAlphabet[seq&31]
		seq >>= 5
	}
	rand.Read(id[seqDigits:])
	for i := seqDigits; i < len(id); i++ {
		id[i] = idAlphabet[id[i]&31]
	}
	return string(id)
}

// freshID is an id that no job has. Should somebody have taken many that begin
// with this sequence, it gets longer.
func (t *txn) freshID(seq uint64) (string, error) {
	for random := randomDigits; ; random++ {
		id := newID(seq, random)
		if _, err := t.find(id); errors.Is(err, ErrNotFound) {
			return id, nil
		} else if err != nil {
			return "", err
		}
	}
}

// maxIDLen leaves room for whoever makes ids of names and of whose they are.
const maxIDLen = 80

// CheckID tells whether id may name a job: 1 to 80 of A–Z a–z 0–9 . _ - and not
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
