package image

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image/provenance"
)

// Signature is one signature that came with an image: of a digest of the image,
// in the form that cosign calls simple signing, or of all bytes of the archive.
type Signature struct {
	// Digest is what was signed: that of the image's manifest or of an index
	// above it, or for an archive that of its bytes.
	Digest string `json:"digest"`
	// Payload is the document that was signed and names the digest; none for an
	// archive.
	Payload []byte `json:"payload,omitempty"`
	Value   []byte `json:"value"`
	// Key is the id of the key that made it, see [provenance.KeyID]; empty when
	// none of the keys of the import did.
	Key string `json:"key,omitempty"`
}

// Key is a public key whose signatures count.
type Key = provenance.Key

const (
	maxSignatures = 32 // of one image
	maxPayload    = 16 << 10
	maxValue      = 1 << 10

	// Media types, annotations and tags are cosign's, see its SIGNATURE_SPEC.
	simpleSigning  = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureNote  = "dev.cosignproject.cosign/signature"
	signatureType  = "cosign container image signature"
	kindNote       = "kind"
	kindSignatures = "dev.cosignproject.cosign/sigs"
	kindAttached   = "dev.cosignproject.cosign/att"
)

var signatureTag = whenUsed(`(?:^|:)sha256-[0-9a-f]{64}\.sig$`)
var attachedTag = whenUsed(`(?:^|:)sha256-[0-9a-f]{64}\.(?:att|sbom)$`)

func (d descriptor) refName() string { return d.Annotations["org.opencontainers.image.ref.name"] }

// isSignature tells whether a layout's entry holds signatures of an image: as
// cosign saves it, or as copied under the tag that they have in a registry.
func (d descriptor) isSignature() bool {
	return d.Annotations[kindNote] == kindSignatures || signatureTag().MatchString(d.refName())
}

// isAttached tells whether an entry is about an image and neither one nor its signatures.
func (d descriptor) isAttached() bool {
	return strings.HasPrefix(d.Annotations[kindNote], kindAttached) || attachedTag().MatchString(d.refName())
}

// What follows reads foreign bytes and runs in the confined child only.

// keyring is the keys of an import.
type keyring []provenance.PublicKey

func parseKeys(texts []string) (keyring, error) {
	var ring keyring
	for _, text := range texts {
		k, err := provenance.ParseKey([]byte(text))
		if err != nil {
			return nil, err
		}
		ring = append(ring, k)
	}
	return ring, nil
}

// signer returns the id of the key that signed message, or "". The message of
// an ECDSA signature is hashed with SHA-256, as cosign and openssl do.
func (ring keyring) signer(message func() ([]byte, error), sum, value []byte) (string, error) {
	for _, k := range ring {
		switch key := k.Key.(type) {
		case *ecdsa.PublicKey:
			if ecdsa.VerifyASN1(key, sum, value) {
				return k.ID, nil
			}
		case ed25519.PublicKey:
			whole, err := message()
			if err != nil {
				return "", err
			}
			if len(value) == ed25519.SignatureSize && ed25519.Verify(key, whole, value) {
				return k.ID, nil
			}
		}
	}
	return "", nil
}

// simpleSigned is the document of a simple signing.
type simpleSigned struct {
	Critical struct {
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
}

// sign finds the signatures of the plan's images. over is one over the archive.
func (a *archive) sign(p *plan, keys keyring, over *Signature) error {
	for i := range p.images {
		if over != nil {
			p.images[i].Image.Signatures = append(p.images[i].Image.Signatures, *over)
		}
	}
	for _, d := range a.signatures {
		data, err := a.blobDocument(d)
		if err != nil {
			return err
		}
		var m manifest
		if err := decodeDocument("the signatures "+d.Digest, data, &m); err != nil {
			return err
		}
		for _, l := range m.Layers {
			if l.MediaType != simpleSigning {
				continue // another form of signature, which nobody here can hold against a key
			}
			if err := a.signature(p, keys, l); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *archive) signature(p *plan, keys keyring, l descriptor) error {
	if l.Size > maxPayload {
		return blame(ErrTooLarge, "the signature %s has a payload of %d bytes", l.Digest, l.Size)
	}
	payload, err := a.blobDocument(l)
	if err != nil {
		return err
	}
	var signed simpleSigned
	if err := decodeDocument("the signature "+l.Digest, payload, &signed); err != nil {
		return err
	}
	value, err := base64.StdEncoding.DecodeString(l.Annotations[signatureNote])
	if err != nil || len(value) == 0 || len(value) > maxValue {
		return blame(ErrCorrupt, "the signature %s is not in base64; %s", l.Digest, copyHint)
	}
	if signed.Critical.Type != signatureType {
		return nil // says something else than that the image is good
	}
	sum := sha256.Sum256(payload)
	key, err := keys.signer(func() ([]byte, error) { return payload, nil }, sum[:], value)
	if err != nil {
		return err
	}
	for i := range p.images {
		img := &p.images[i].Image
		if !img.hasDigest(signed.Critical.Image.Digest) {
			continue
		}
		if len(img.Signatures) == maxSignatures {
			return blame(ErrTooLarge, "it has more than %d signatures", maxSignatures)
		}
		img.Signatures = append(img.Signatures, Signature{Digest: signed.Critical.Image.Digest, Payload: payload, Value: value, Key: key})
	}
	return nil
}

// overArchive checks a detached signature of the archive. What was checked is
// what is unpacked: it is copied to where nobody else can write, and the copy is
// returned.
func (ring keyring) overArchive(f *os.File, value []byte, limits Limits, spool func() (*os.File, error)) (*os.File, *Signature, error) {
	value, err := detached(value)
	if err != nil {
		return nil, nil, err
	}
	out, err := spool()
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.New()
	most := limits.Bytes + limits.Documents + 4096*limits.Entries
	n, err := io.CopyBuffer(io.MultiWriter(onlyWriter{out}, sum), io.LimitReader(onlyReader{f}, most+1), make([]byte, 1<<20))
	if err != nil {
		return nil, nil, damaged(err, "the archive")
	}
	if n > most {
		return nil, nil, blame(ErrTooLarge, "the archive has more than %d bytes", most)
	}
	digest := sum.Sum(nil)
	key, err := ring.signer(func() ([]byte, error) { return mapped(out, n) }, digest, value)
	if err != nil {
		return nil, nil, err
	}
	if key == "" {
		return nil, nil, blame(ErrUnsigned, "no key of this machine made the signature beside the archive; sign it again, or add the key to [keys] in policy.toml")
	}
	return out, &Signature{Digest: "sha256:" + hex.EncodeToString(digest), Value: value, Key: key}, nil
}

// mapped is the content of f without a copy: Ed25519 takes a message whole. The
// mapping lasts as long as this process.
func mapped(f *os.File, size int64) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("cannot map the archive: %w", err)
	}
	return data, nil
}

// detached takes a signature in base64, as cosign writes it, or in bytes, as
// openssl does.
func detached(text []byte) ([]byte, error) {
	value, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(text)))
	if err != nil {
		value = text
	}
	if len(value) == 0 || len(value) > maxValue {
		return nil, blame(ErrUnsigned, "the signature beside the archive has %d bytes, which is none", len(value))
	}
	return value, nil
}

// What follows runs in the process that does not trust the child.

// checkSigned holds what the child says of signatures within bounds.
func checkSigned(img Image, keys []Key) error {
	bad := len(img.Indexes) > maxNesting || len(img.Signatures) > maxSignatures
	for _, d := range img.Indexes {
		bad = bad || !digestForm().MatchString(d)
	}
	for _, s := range img.Signatures {
		bad = bad || !digestForm().MatchString(s.Digest) || len(s.Payload) > maxPayload || len(s.Value) > maxValue
		bad = bad || s.Key != "" && !slices.ContainsFunc(keys, func(k Key) bool { return k.ID == s.Key })
	}
	if bad {
		return errors.New("the unpacker sent malformed signatures")
	}
	return nil
}

// mergeSignatures adds what was known of the same image. A key that is gone by
// now goes on having signed: whoever asks names the keys that count today.
func mergeSignatures(now, known []Signature) []Signature {
	for _, k := range known {
		i := slices.IndexFunc(now, func(s Signature) bool { return s.Digest == k.Digest && bytes.Equal(s.Value, k.Value) })
		switch {
		case i >= 0:
			now[i].Key = cmp.Or(now[i].Key, k.Key)
		case len(now) < maxSignatures:
			now = append(now, k)
		}
	}
	return now
}

// checkSignatures is the worker's task of that name: it looks for the keys of
// signatures that were kept.
func checkSignatures(req *request, out *json.Encoder) error {
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return err
	}
	for i := range req.Signatures {
		s := &req.Signatures[i]
		if len(s.Payload) == 0 {
			continue // the archive is not there any more
		}
		sum := sha256.Sum256(s.Payload)
		if s.Key, err = keys.signer(func() ([]byte, error) { return s.Payload, nil }, sum[:], s.Value); err != nil {
			return err
		}
	}
	return out.Encode(message{Signatures: req.Signatures, Done: true})
}
