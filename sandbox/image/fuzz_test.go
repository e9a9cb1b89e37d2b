package image

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"girderworker/sandbox/image/imagetest"
)

// fuzzLimits keep one input cheap.
var fuzzLimits = Limits{Bytes: 1 << 20, Entries: 200, Depth: 20, Layers: 4, Documents: 1 << 20}

func seeds(f *testing.F) {
	layer := imagetest.Layer{
		imagetest.Dir("d", 0o755), imagetest.File("d/f", 0o644, "x"), imagetest.Symlink("l", "d"),
		imagetest.Hardlink("h", "d/f"), imagetest.File("l/.wh.gone", 0, ""), imagetest.File("d/.wh..wh..opq", 0, ""),
		imagetest.File("../up", 0o644, "x"),
	}
	img := imagetest.Image{Refs: []string{"x:1"}, Layers: []imagetest.Layer{layer[:6], layer}}
	for _, inner := range []string{"", "gzip", "zstd"} {
		img.Packing = inner
		for _, write := range []func(io.Writer, ...imagetest.Image) error{imagetest.DockerArchive, imagetest.OCIArchive} {
			var buf bytes.Buffer
			if err := write(&buf, img); err != nil {
				f.Fatal(err)
			}
			for _, outer := range []string{"", "gzip", "zstd"} {
				data, err := imagetest.Pack(outer, buf.Bytes())
				if err != nil {
					f.Fatal(err)
				}
				f.Add(data)
			}
		}
	}
}

// FuzzArchive reads anything as an archive, as the confined child does, and
// unpacks what it understands. No input may make it panic or reach beyond its
// directory.
func FuzzArchive(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		root := filepath.Join(base, "a", "root")
		if err := os.MkdirAll(root, 0o700); err != nil {
			t.Fatal(err)
		}
		archive := imagetest.Open(t, data)
		err := unpackArchive(archive, root, &request{Limits: fuzzLimits}, json.NewEncoder(io.Discard), bytes.NewReader([]byte(`{"have":[]}`)))
		if err != nil && refuse(err).err() == nil {
			t.Error("an error has no text")
		}
		checkAlone(t, base)
	})
}

// FuzzLayer unpacks anything as the tar of a layer.
func FuzzLayer(f *testing.F) {
	layer, err := imagetest.Layer{
		imagetest.Dir("./", 0o755), imagetest.Dir("d", 0o755), imagetest.File("d/f", 0o4755, "x").Owned(1, 2),
		imagetest.Symlink("l", "../.."), imagetest.File("l/x", 0o644, "x"), imagetest.Hardlink("h", "d/f"),
		imagetest.File(".wh.gone", 0, ""), imagetest.File("d/.wh..wh..opq", 0, ""), imagetest.File("d", 0o644, "x"),
	}.Tar()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(layer)
	f.Fuzz(func(t *testing.T, data []byte) {
		base := t.TempDir()
		root := filepath.Join(base, "a", "root")
		if err := os.MkdirAll(root, 0o700); err != nil {
			t.Fatal(err)
		}
		u := &unpacker{
			archive: &archive{file: bytes.NewReader(data)}, dir: root, limits: fuzzLimits, out: json.NewEncoder(io.Discard),
		}
		_ = u.unpack(blob{name: "layer", member: member{size: int64(len(data))}, diffID: "sha256:" + sum(data)})
		checkAlone(t, base)
	})
}

// checkAlone checks that nothing was made in base beside a/root.
func checkAlone(t *testing.T, base string) {
	t.Helper()
	for dir, want := range map[string]string{base: "a", filepath.Join(base, "a"): "root"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) != 1 || entries[0].Name() != want {
			t.Fatalf("%s holds %v", dir, entries)
		}
	}
}

// FuzzName checks that a name which is accepted keeps its meaning in its short
// form.
func FuzzName(f *testing.F) {
	for _, ref := range []string{"busybox", "a/b:c", "localhost/x", "h:5000/x@sha256:" + sum(nil), "docker.io/library/a/b"} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		name, err := CheckName(ref)
		if err != nil {
			return
		}
		again, err := CheckName(name)
		if err != nil || again != name {
			t.Errorf("%q is %q, which is %q, %v", ref, name, again, err)
		}
	})
}

// The parent believes nothing that has not the right form.
func TestParentDoubtsTheChild(t *testing.T) {
	good := sum(nil)
	for name, text := range map[string]string{
		"no images":      `{"plan":[]}`,
		"bad id":         `{"plan":[{"image":{"id":"sha256:../../etc/passwd","diff_ids":["sha256:` + good + `"]},"refs":["a"]}]}`,
		"bad layer":      `{"plan":[{"image":{"id":"sha256:` + good + `","diff_ids":["sha256:../../x"]},"refs":["a"]}]}`,
		"no layers":      `{"plan":[{"image":{"id":"sha256:` + good + `"},"refs":["a"]}]}`,
		"bad digest":     `{"plan":[{"image":{"id":"sha256:` + good + `","digest":"x","diff_ids":["sha256:` + good + `"]},"refs":["a"]}]}`,
		"bad name":       `{"plan":[{"image":{"id":"sha256:` + good + `","diff_ids":["sha256:` + good + `"]},"refs":["../a"]}]}`,
		"unasked layer":  `{"layer":{"diff_id":"sha256:` + good + `","tree":"sha256:` + good + `"}}`,
		"half a message": `{"plan":[{"im`,
		"no message":     `{}`,
		"a refusal":      `{"refusal":{"kind":"hostile","text":"x\n\u001b[2Jy"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			st := &staging{layers: map[string]layerDocument{}, have: map[string]bool{}}
			err := hear(bytes.NewReader([]byte(text)), io.Discard, func(m message) (any, error) { return nil, st.hear(m, ImportOptions{}) })
			if err == nil {
				t.Error("was believed")
			} else if bytes.ContainsAny([]byte(err.Error()), "\n\x1b") {
				t.Errorf("error %q is not one clean line", err)
			}
		})
	}
}
