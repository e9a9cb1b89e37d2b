package image_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
	"girderworker/sandbox/image/provenance"
)

// signer is a private key and its public half as an admin has it.
type signer struct {
	private crypto.Signer
	key     image.Key
}

func newSigner(t *testing.T, name string, private crypto.Signer) signer {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	id, err := provenance.KeyID(text)
	if err != nil {
		t.Fatal(err)
	}
	return signer{private, image.Key{Name: name, ID: id, PEM: string(text)}}
}

func (s signer) sign(t *testing.T, message []byte) []byte {
	t.Helper()
	options := crypto.SignerOpts(crypto.SHA256)
	if _, ok := s.private.(ed25519.PrivateKey); ok {
		options = crypto.Hash(0)
	} else {
		sum := sha256.Sum256(message)
		message = sum[:]
	}
	value, err := s.private.Sign(rand.Reader, message, options)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func signers(t *testing.T) (p256, ed signer) {
	t.Helper()
	a, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, b, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, "lab", a), newSigner(t, "vendor", b)
}

// signedBy are the names of the keys that have signed an image of the store.
func signedBy(t *testing.T, dir, id string, keys ...image.Key) []string {
	t.Helper()
	p, err := provenance.Of(dir, id)
	if err != nil {
		t.Fatal(err)
	}
	return p.SignedBy(keys)
}

func layoutOf(t *testing.T, images ...imagetest.Image) (files map[string][]byte, digest string) {
	t.Helper()
	files, err := imagetest.OCIFiles(images...)
	if err != nil {
		t.Fatal(err)
	}
	if digest, err = imagetest.TopDigest(files); err != nil {
		t.Fatal(err)
	}
	return files, digest
}

func addSignature(t *testing.T, files map[string][]byte, payload, value []byte) {
	t.Helper()
	if err := imagetest.AddSignature(files, payload, value); err != nil {
		t.Fatal(err)
	}
}

func packFiles(t *testing.T, files map[string][]byte) *os.File {
	t.Helper()
	var b bytes.Buffer
	if err := imagetest.WriteFiles(&b, files); err != nil {
		t.Fatal(err)
	}
	return imagetest.Open(t, b.Bytes())
}

func TestSignatures(t *testing.T) {
	lab, vendor := signers(t)
	_, stranger := signers(t)
	both := []image.Key{lab.key, vendor.key}
	other := "sha256:" + strings.Repeat("ab", 32)
	for _, c := range []struct {
		name  string
		index bool
		keys  []image.Key
		sign  func(files map[string][]byte, digest string)
		want  []string
	}{
		{name: "none", keys: both, sign: func(map[string][]byte, string) {}},
		{name: "ECDSA", keys: both, want: []string{"lab"}, sign: func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, lab.sign(t, payload))
		}},
		{name: "Ed25519", keys: both, want: []string{"vendor"}, sign: func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, vendor.sign(t, payload))
		}},
		{name: "of the index", index: true, keys: both, want: []string{"lab"}, sign: func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, lab.sign(t, payload))
		}},
		{name: "two", keys: both, want: []string{"lab", "vendor"}, sign: func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, lab.sign(t, payload))
			addSignature(t, files, payload, vendor.sign(t, payload))
		}},
		{name: "key not here", keys: both[1:], sign: func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, lab.sign(t, payload))
		}},
		{name: "of a stranger", keys: both, sign: func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, stranger.sign(t, payload))
		}},
		{name: "of another image", keys: both, sign: func(files map[string][]byte, _ string) {
			payload := imagetest.Payload(other)
			addSignature(t, files, payload, lab.sign(t, payload))
		}},
		{name: "of something else", keys: both, sign: func(files map[string][]byte, digest string) {
			payload := bytes.Replace(imagetest.Payload(digest), []byte("cosign container image signature"), []byte("vulnerabilities found"), 1)
			addSignature(t, files, payload, lab.sign(t, payload))
		}},
		{name: "over other bytes", keys: both, sign: func(files map[string][]byte, digest string) {
			addSignature(t, files, imagetest.Payload(digest), lab.sign(t, imagetest.Payload(other)))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			images := []imagetest.Image{tiny("signed:1", reg("x", c.name))}
			if c.index {
				foreign := tiny("signed:1", reg("x", "foreign"))
				foreign.Arch = "s390x"
				images = append(images, foreign)
				images[0].Arch = "amd64"
			}
			files, digest := layoutOf(t, images...)
			c.sign(files, digest)
			dir := filepath.Join(t.TempDir(), "store")
			s := openStore(t, dir)
			img := mustImport(t, s, packFiles(t, files), image.ImportOptions{Owner: image.Everyone, Keys: c.keys})
			if got := signedBy(t, dir, img.ID, both...); !slices.Equal(got, c.want) {
				t.Errorf("signed by %v, want %v", got, c.want)
			}
			if c.index {
				if p, _ := provenance.Of(dir, img.ID); !slices.Contains(p.Digests, digest) || len(p.Digests) != 2 || len(p.Names) != 1 {
					t.Errorf("provenance %+v", p)
				}
				if by, err := s.Resolve("signed@"+digest, 5); err != nil || by.ID != img.ID {
					t.Errorf("not found by the index's digest: %v", err)
				}
			}
		})
	}
}

// A key that comes after the image counts once the image is verified, one that
// is gone does no more.
func TestVerifyLooksForKeys(t *testing.T) {
	lab, vendor := signers(t)
	files, digest := layoutOf(t, tiny("signed:1", reg("x", "x")))
	payload := imagetest.Payload(digest)
	addSignature(t, files, payload, lab.sign(t, payload))
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	img := mustImport(t, s, packFiles(t, files), everyone())
	for _, step := range []struct {
		keys []image.Key
		want int
	}{{nil, 0}, {[]image.Key{vendor.key, lab.key}, 1}, {[]image.Key{vendor.key}, 0}} {
		if err := s.Verify(t.Context(), img.ID, step.keys); err != nil {
			t.Fatal(err)
		}
		if got := signedBy(t, dir, img.ID, lab.key, vendor.key); len(got) != step.want {
			t.Errorf("signed by %v with %d keys", got, len(step.keys))
		}
	}
	checkNothingLeft(t, s, dir)
}

func TestDamagedSignatures(t *testing.T) {
	lab, _ := signers(t)
	for _, c := range []struct {
		name string
		want error
		text string
		harm func(files map[string][]byte, digest string)
	}{
		{"payload is no document", image.ErrCorrupt, "not the document", func(files map[string][]byte, _ string) {
			addSignature(t, files, []byte("hello"), []byte("x"))
		}},
		{"payload too large", image.ErrTooLarge, "payload", func(files map[string][]byte, _ string) {
			addSignature(t, files, make([]byte, 17<<10), []byte("x"))
		}},
		{"signature too large", image.ErrCorrupt, "base64", func(files map[string][]byte, digest string) {
			addSignature(t, files, imagetest.Payload(digest), make([]byte, 2000))
		}},
		{"payload changed", image.ErrCorrupt, "digest", func(files map[string][]byte, digest string) {
			payload := imagetest.Payload(digest)
			addSignature(t, files, payload, lab.sign(t, payload))
			for name, data := range files {
				if bytes.Equal(data, payload) {
					files[name] = bytes.Replace(payload, []byte("lab/tool"), []byte("lab/evil"), 1)
				}
			}
		}},
		{"too many", image.ErrTooLarge, "signatures", func(files map[string][]byte, digest string) {
			for range 33 {
				payload := imagetest.Payload(digest)
				addSignature(t, files, payload, lab.sign(t, payload))
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, digest := layoutOf(t, tiny("signed:1", reg("x", "x")))
			c.harm(files, digest)
			dir := filepath.Join(t.TempDir(), "store")
			s := openStore(t, dir)
			_, err := s.Import(t.Context(), packFiles(t, files), image.ImportOptions{Owner: image.Everyone, Keys: []image.Key{lab.key}})
			wantError(t, err, c.want, c.text)
			checkEmpty(t, s, dir)
		})
	}
}

// A detached signature is of the archive's bytes, packed as they are.
func TestDetachedSignature(t *testing.T) {
	lab, vendor := signers(t)
	for _, c := range []struct {
		name    string
		by      signer
		packing string
		write   func(io.Writer, ...imagetest.Image) error
	}{
		{"ECDSA of a docker-archive", lab, "", imagetest.DockerArchive},
		{"Ed25519 of a packed one", vendor, "gzip", imagetest.DockerArchive},
		{"Ed25519 of a layout", vendor, "zstd", imagetest.OCIArchive},
	} {
		t.Run(c.name, func(t *testing.T) {
			archive := encode(t, c.write, c.packing, tiny("signed:1", reg("x", c.name)))
			data, err := os.ReadFile(archive.Name())
			if err != nil {
				t.Fatal(err)
			}
			value := c.by.sign(t, data)
			for form, signature := range map[string][]byte{"bytes": value, "base64": []byte(base64.StdEncoding.EncodeToString(value) + "\n")} {
				dir := filepath.Join(t.TempDir(), "store")
				s := openStore(t, dir)
				o := image.ImportOptions{Owner: image.Everyone, Keys: []image.Key{lab.key, vendor.key}, Signature: signature}
				img := mustImport(t, s, imagetest.Open(t, data), o)
				if got := signedBy(t, dir, img.ID, lab.key, vendor.key); len(got) != 1 || got[0] != c.by.key.Name {
					t.Errorf("%s: signed by %v", form, got)
				}
				// Having it verified again changes nothing: the archive is not there.
				if err := s.Verify(t.Context(), img.ID, nil); err != nil {
					t.Error(err)
				}
				if got := signedBy(t, dir, img.ID, c.by.key); len(got) != 1 {
					t.Errorf("%s: signed by %v after a check", form, got)
				}
			}
			s := newStore(t)
			for name, bad := range map[string]image.ImportOptions{
				"another key":   {Keys: []image.Key{}, Signature: value},
				"other bytes":   {Keys: []image.Key{c.by.key}, Signature: c.by.sign(t, append([]byte("x"), data...))},
				"no signature":  {Keys: []image.Key{c.by.key}, Signature: []byte("\n")},
				"far too large": {Keys: []image.Key{c.by.key}, Signature: make([]byte, 5000)},
			} {
				bad.Owner = image.Everyone
				if _, err := s.Import(t.Context(), imagetest.Open(t, data), bad); err == nil {
					t.Errorf("%s: imported", name)
				} else {
					wantError(t, err, image.ErrUnsigned)
				}
			}
		})
	}
}

func TestPin(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	img := importTiny(t, s, "kept:1", "kept", image.Everyone)
	if err := s.Pin("kept:1", image.Everyone); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(img.ID); err != nil || !got.Pinned {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err := s.Remove("kept:1", image.Everyone)
	wantError(t, err, image.ErrPinned, "unpin")
	// A pull must not move its name; an archive of an admin's may.
	files, _ := layoutOf(t, tiny("kept:1", reg("x", "another")))
	_, err = s.Import(t.Context(), packFiles(t, files), image.ImportOptions{Owner: image.Everyone, Pulled: true})
	wantError(t, err, image.ErrPinned, "kept:1")
	importTiny(t, s, "kept:1", "another", image.Everyone)
	if got, err := s.Prune(t.Context(), nil); err != nil || len(got.Images) != 0 {
		t.Errorf("pruned %+v, %v", got, err)
	}
	s = openStore(t, dir)
	if got, err := s.Get(img.ID); err != nil || !got.Pinned || len(got.Names) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if err := s.Unpin(img.ID, image.Everyone); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Prune(t.Context(), nil); err != nil || len(got.Images) != 1 {
		t.Errorf("pruned %+v, %v", got, err)
	}
}

func TestQuota(t *testing.T) {
	s := newStore(t)
	quota := func(archive *os.File) error {
		_, err := s.Import(t.Context(), archive, image.ImportOptions{Owner: image.Everyone, Quota: 3 << 20})
		return err
	}
	body := strings.Repeat("x", 2<<20)
	if err := quota(encode(t, imagetest.OCIArchive, "gzip", tiny("a:1", reg("x", body)))); err != nil {
		t.Fatal(err)
	}
	// What is there counts once.
	if err := quota(encode(t, imagetest.OCIArchive, "gzip", tiny("b:1", reg("x", body)))); err != nil {
		t.Fatal(err)
	}
	err := quota(encode(t, imagetest.OCIArchive, "gzip", tiny("c:1", reg("y", body))))
	wantError(t, err, image.ErrQuota, "images prune", "images.quota")
	wantError(t, err, image.ErrNoSpace)
	if err := quota(encode(t, imagetest.OCIArchive, "gzip", tiny("d:1", reg("y", "small")))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a:1", "b:1"} {
		if _, err := s.Remove(name, image.Everyone); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prune(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := quota(encode(t, imagetest.OCIArchive, "gzip", tiny("c:1", reg("y", body)))); err != nil {
		t.Fatal(err)
	}
}

// without takes the layer blobs that are in have out of a layout.
func without(files map[string][]byte, layers ...imagetest.Layer) {
	for _, l := range layers {
		data, err := l.Tar()
		if err != nil {
			continue
		}
		for name, content := range files {
			if bytes.Equal(content, data) {
				delete(files, name)
			}
		}
	}
}

// What a pull leaves out must be there, and must be the owner's to use.
func TestPulledArchive(t *testing.T) {
	secret := imagetest.Layer{reg("secret", "of 1000")}
	shared := imagetest.Layer{reg("shared", "x")}
	own := imagetest.Layer{reg("own", "x")}
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	pulled := func(owner int, layers, left []imagetest.Layer) error {
		files, _ := layoutOf(t, imagetest.Image{Refs: []string{"new:1"}, Layers: layers})
		without(files, left...)
		_, err := s.Import(t.Context(), packFiles(t, files), image.ImportOptions{Owner: owner, Pulled: true})
		return err
	}
	mustImport(t, s, encode(t, imagetest.OCIArchive, "", imagetest.Image{Refs: []string{"p:1"}, Layers: []imagetest.Layer{secret}}), image.ImportOptions{Owner: 1000})
	mustImport(t, s, encode(t, imagetest.OCIArchive, "", imagetest.Image{Refs: []string{"s:1"}, Layers: []imagetest.Layer{shared}}), everyone())

	if err := pulled(1001, []imagetest.Layer{shared, own}, []imagetest.Layer{shared}); err != nil {
		t.Errorf("a layer of everyone's: %v", err)
	}
	for _, owner := range []int{1001, image.Everyone} {
		wantError(t, pulled(owner, []imagetest.Layer{secret}, []imagetest.Layer{secret}), image.ErrCorrupt, "missing")
	}
	if err := pulled(1000, []imagetest.Layer{secret}, []imagetest.Layer{secret}); err != nil {
		t.Errorf("one's own layer: %v", err)
	}
	nowhere := imagetest.Layer{reg("nowhere", "x")}
	wantError(t, pulled(1000, []imagetest.Layer{shared, nowhere}, []imagetest.Layer{nowhere}), image.ErrCorrupt, "missing")
	// An archive that is no pull's must be whole.
	files, _ := layoutOf(t, imagetest.Image{Refs: []string{"new:2"}, Layers: []imagetest.Layer{shared}})
	without(files, shared)
	_, err := s.Import(t.Context(), packFiles(t, files), everyone())
	wantError(t, err, image.ErrCorrupt, "missing")
	checkNothingLeft(t, s, dir)
}
