package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"girderworker/sandbox/image/provenance"
)

// ReadKeys reads the files of [Policy.Keys] for root, as [Read] does, in the
// order of the keys' names. A key that cannot be used is left out, so what only
// it has signed is refused, and the error tells of all such.
func (p *Policy) ReadKeys() ([]provenance.Key, error) {
	var keys []provenance.Key
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(p.Keys)) {
		k, err := readKey(p.Keys[name])
		if err != nil {
			problems = append(problems, fmt.Errorf("[keys]: %s cannot be used, and what it alone has signed is refused: %w", name, err))
			continue
		}
		k.Name = name
		keys = append(keys, k)
	}
	return keys, errors.Join(problems...)
}

func readKey(file string) (provenance.Key, error) {
	text, err := Read(file)
	if err != nil {
		return provenance.Key{}, err
	}
	switch {
	case len(text) == 0:
		return provenance.Key{}, fmt.Errorf("%s is not there, or empty", file)
	case len(text) > maxKey:
		return provenance.Key{}, fmt.Errorf("%s has more than %d bytes", file, maxKey)
	}
	id, err := provenance.KeyID(text)
	if err != nil {
		return provenance.Key{}, fmt.Errorf("%s: %w", file, err)
	}
	return provenance.Key{ID: id, PEM: string(text)}, nil
}
