package image_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"girderworker/sandbox/image/imagetest"
)

// withManifest is img as an OCI archive whose manifest says something else, and
// has the digest of that.
func withManifest(t *testing.T, img imagetest.Image, change func(map[string]any)) *os.File {
	t.Helper()
	files, err := imagetest.OCIFiles(img)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := imagetest.TopDigest(files)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")], &m); err != nil {
		t.Fatal(err)
	}
	change(m)
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	putTop(t, files, data, m["mediaType"].(string))
	return packFiles(t, files)
}

// putTop makes data the only thing that a layout lists.
func putTop(t *testing.T, files map[string][]byte, data []byte, kind string) (digest string) {
	t.Helper()
	sum := sha256.Sum256(data)
	files["blobs/sha256/"+hex.EncodeToString(sum[:])] = data
	digest = "sha256:" + hex.EncodeToString(sum[:])
	files["index.json"] = fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"x:1"}}]}`, kind, digest, len(data))
	return digest
}

func withLayer(t *testing.T, img imagetest.Image, key string, value any) *os.File {
	t.Helper()
	return withManifest(t, img, func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)[key] = value })
}

const indexType = "application/vnd.oci.image.index.v1+json"

// withIndexes puts img beneath so many indexes, or beneath one that says that it
// is the next one, too.
func withIndexes(t *testing.T, img imagetest.Image, depth int, loop bool) *os.File {
	t.Helper()
	files, err := imagetest.OCIFiles(img)
	if err != nil {
		t.Fatal(err)
	}
	digest := ""
	for range depth {
		data := bytes.Clone(files["index.json"])
		digest = putTop(t, files, data, indexType)
	}
	if loop {
		files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] = files["index.json"]
		files["index.json"] = fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
			indexType, digest, len(files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")]))
	}
	return packFiles(t, files)
}

// toOutside points what follows in a manifest.json at a file of the host.
func toOutside(what string) func(string, []byte) []byte {
	return func(name string, data []byte) []byte {
		if before, after, ok := bytes.Cut(data, []byte(what)); ok && name == "manifest.json" {
			_, rest, _ := bytes.Cut(after, []byte(`"`))
			return slices.Concat(before, []byte(what+`../../../../etc/passwd"`), rest)
		}
		return data
	}
}

// twice adds a second member of the name of the first that fits, with another
// content of the same size.
func twice(t *testing.T, archive *os.File, which func([]byte) bool, from, to string) *os.File {
	t.Helper()
	var again []byte
	first := rewrite(t, archive, func(name string, data []byte) []byte {
		if again == nil && which(data) {
			again = append(header{kind: '0', name: name, size: octal(len(data))}.block(), bytes.Replace(data, []byte(from), []byte(to), 1)...)
		}
		return data
	})
	whole, err := io.ReadAll(first)
	if err != nil {
		t.Fatal(err)
	}
	return imagetest.Open(t, slices.Concat(whole[:len(whole)-1024], again, make([]byte, 1024)))
}
