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
)

// Key is a public key that an admin trusts.
type Key struct {
	// Name is what a policy calls the key.
	Name string `json:"name"`
	// ID tells the key itself, whatever it is called, see [KeyID].
	ID  string `json:"id"`
	PEM string `json:"pem"`
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
