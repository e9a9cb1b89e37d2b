package policy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image/provenance"
	"girderworker/transforms"
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

// ReadGirderKey reads the machine's API key of Girder from a file that must be
// root's and closed to all others.
func ReadGirderKey(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
		return "", fmt.Errorf("%s must be a file of root with mode 0600 (it belongs to user %d, mode %04o)", path, st.Uid, st.Mode&0o7777)
	}
	data, err := io.ReadAll(io.LimitReader(f, transforms.MaxSecret+1))
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	switch {
	case key == "":
		return "", errors.New(path + " is empty")
	case len(key) > transforms.MaxSecret || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }):
		return "", errors.New(path + " holds more than a key")
	}
	return key, nil
}
