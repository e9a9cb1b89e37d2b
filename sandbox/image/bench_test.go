package image_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

// manyFiles is a layer of 10,000 files of 4 KiB in 200 directories.
func manyFiles() imagetest.Layer {
	body := make([]byte, 4096)
	var layer imagetest.Layer
	for d := range 200 {
		layer = append(layer, imagetest.Dir(fmt.Sprintf("d%d", d), 0o755))
		for f := range 50 {
			for i := range body {
				body[i] = byte(i * (d + 1) * (f + 3))
			}
			layer = append(layer, imagetest.File(fmt.Sprintf("d%d/f%d", d, f), 0o644, string(body)))
		}
	}
	return layer
}

// BenchmarkImport imports 10,000 files of 4 KiB: all digests, the confined
// children, the tree digest, the sync.
func BenchmarkImport(b *testing.B) {
	archive := imagetest.Archive(b, imagetest.Image{Refs: []string{"x:1"}, Layers: []imagetest.Layer{manyFiles()}})
	dir := b.TempDir()
	n := 0
	for b.Loop() {
		n++
		b.StopTimer()
		s := openStore(b, filepath.Join(dir, fmt.Sprint(n)))
		b.StartTimer()
		if _, err := s.Import(b.Context(), archive, everyone()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(filepath.Join(dir, fmt.Sprint(n))); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkTar unpacks the same layer with tar and syncs.
func BenchmarkTar(b *testing.B) {
	data, err := manyFiles().Tar()
	if err != nil {
		b.Fatal(err)
	}
	archive := imagetest.Open(b, data)
	dir := b.TempDir()
	n := 0
	for b.Loop() {
		n++
		b.StopTimer()
		target := filepath.Join(dir, fmt.Sprint(n))
		if err := os.Mkdir(target, 0o755); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if out, err := exec.Command("tar", "-xf", archive.Name(), "-C", target).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		if err := exec.Command("sync", "-f", target).Run(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := os.RemoveAll(target); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkImportAgain imports what is there already: digests only.
func BenchmarkImportAgain(b *testing.B) {
	archive := imagetest.Archive(b, imagetest.Image{Refs: []string{"x:1"}, Layers: []imagetest.Layer{manyFiles()}})
	s := newStore(b)
	for b.Loop() {
		if _, err := s.Import(b.Context(), archive, everyone()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkResolve looks a name up among 50 images, as every submission does.
func BenchmarkResolve(b *testing.B) {
	s := newStore(b)
	var images []imagetest.Image
	for i := range 50 {
		images = append(images, tiny(fmt.Sprintf("lab/tool%d:1", i), reg("x", fmt.Sprint(i))))
	}
	if _, err := s.Import(b.Context(), imagetest.Archive(b, images...), everyone()); err != nil {
		b.Fatal(err)
	}
	var img image.Image
	for b.Loop() {
		var err error
		if img, err = s.Resolve("lab/tool25:1", 1000); err != nil {
			b.Fatal(err)
		}
	}
	_ = img
}
