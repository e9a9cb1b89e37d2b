package provenance

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Key is a public key that an admin put into the directory of keys.
type Key struct {
	// Name is the file's, without its ending: what a policy calls the key.
	Name string
	// ID tells the key itself, whatever its file is called, see [KeyID].
	ID  string
	PEM string
}

// PublicKey is a parsed key: *ecdsa.PublicKey or ed25519.PublicKey.
type PublicKey struct {
	ID  string
	Key any
}

// KeyID is "sha256:" and the hex digest of the key in DER, as
// `openssl pkey -pubin -in KEY -outform DER | sha256sum` prints it.
func KeyID(text []byte) (string, error) {
	k, err := ParseKey(text)
	return k.ID, err
}

// ParseKey reads a public key in PEM: ECDSA on P-256, P-384 or P-521, or Ed25519.
func ParseKey(text []byte) (PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return PublicKey{}, errors.New("cannot read key: it is no PEM file of a PUBLIC KEY; `cosign public-key` and `openssl pkey -pubout` write one")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return PublicKey{}, fmt.Errorf("cannot read key: %w", err)
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P224() {
			return PublicKey{}, errors.New("cannot use key: the curve P-224 is too weak")
		}
	default:
		return PublicKey{}, fmt.Errorf("cannot use key: it is a %T; ECDSA and Ed25519 are known", key)
	}
	sum := sha256.Sum256(block.Bytes)
	return PublicKey{ID: "sha256:" + hex.EncodeToString(sum[:]), Key: key}, nil
}

const (
	maxKeys = 64
	maxKey  = 64 << 10 // bytes of a file
)

// Keys reads the directory of keys, in the order of their names: its files that
// end in .pub or .pem. A directory that is not there has none.
func Keys(dir string) ([]Key, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the keys that sign images: %w", err)
	}
	var keys []Key
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if !slices.Contains([]string{".pub", ".pem"}, ext) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(dir, e.Name())
		if len(keys) == maxKeys {
			return nil, fmt.Errorf("cannot read the keys that sign images: %s has more than %d", dir, maxKeys)
		}
		text, err := readKey(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the keys that sign images: %w", err)
		}
		id, err := KeyID(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		keys = append(keys, Key{Name: strings.TrimSuffix(e.Name(), ext), ID: id, PEM: string(text)})
	}
	return keys, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKey))
}
