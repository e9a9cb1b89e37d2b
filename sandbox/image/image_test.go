package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case image.UnpackCommand:
			os.Exit(image.Main(os.Args[2:]))
		case importCommand:
			os.Exit(importMain(os.Args[2:]))
		case writeCommand:
			os.Exit(writeMain(os.Args[2]))
		case readCommand:
			os.Exit(readMain(os.Args[2:]))
		case filterCommand:
			os.Exit(filterMain())
		}
	}
	os.Exit(m.Run())
}

// readCommand makes the test binary a process that only reads a store.
const readCommand = "test-read"

func readMain(args []string) int {
	s, err := image.Open(args[0], image.Options{})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	img, err := s.Resolve("busybox", os.Getuid())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Print("found ", img.Names[0].Ref)
	if _, err := s.Layers(img); errors.Is(err, os.ErrPermission) {
		fmt.Print("; no layers")
	}
	if _, err := s.Prune(context.Background(), nil); errors.Is(err, image.ErrReadOnly) {
		fmt.Print("; read only")
	}
	fmt.Println()
	return 0
}

func newStore(t testing.TB) *image.Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "images"))
}

func openStore(t testing.TB, dir string) *image.Store {
	t.Helper()
	s, err := image.Open(dir, image.Options{Writable: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func busybox(t testing.TB) imagetest.Image {
	t.Helper()
	img, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// tiny is an image of one small layer.
func tiny(ref string, entries ...imagetest.Entry) imagetest.Image {
	return imagetest.Image{Refs: []string{ref}, Layers: []imagetest.Layer{entries}, Cmd: []string{"/x"}}
}

func everyone() image.ImportOptions { return image.ImportOptions{Owner: image.Everyone} }

// mustImport imports one image and checks that it is whole.
func mustImport(t testing.TB, s *image.Store, archive *os.File, o image.ImportOptions) image.Image {
	t.Helper()
	images, err := s.Import(t.Context(), archive, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(images) != 1 {
		t.Fatalf("%d images, want 1", len(images))
	}
	checkWhole(t, s, images[0], o.Keys...)
	return images[0]
}

func checkWhole(t testing.TB, s *image.Store, img image.Image, keys ...image.Key) {
	t.Helper()
	if _, err := s.Layers(img); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), img.ID, keys); err != nil {
		t.Fatal(err)
	}
}

func encode(t testing.TB, write func(io.Writer, ...imagetest.Image) error, packing string, images ...imagetest.Image) *os.File {
	t.Helper()
	var buf bytes.Buffer
	if err := write(&buf, images...); err != nil {
		t.Fatal(err)
	}
	data, err := imagetest.Pack(packing, buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return imagetest.Open(t, data)
}

func TestImportOfEveryFormat(t *testing.T) {
	plain := busybox(t)
	plain.User, plain.Entrypoint, plain.WorkingDir = "lab", []string{"/bin/sh", "-c"}, "/home/lab"
	plain.Labels = map[string]string{"org.example.note": "a label"}
	plain.StopSignal = "SIGINT"
	if err := plain.Add("/etc/hostname", "/srv/data/name"); err != nil {
		t.Fatal(err)
	}
	formats := map[string]func(io.Writer, ...imagetest.Image) error{
		"docker-archive": imagetest.DockerArchive, "oci-archive": imagetest.OCIArchive,
	}
	var first image.Image
	for format, write := range formats {
		for _, outer := range []string{"", "gzip", "zstd"} {
			for _, inner := range []string{"", "gzip", "zstd"} {
				t.Run(format+" "+outer+" of "+inner+" layers", func(t *testing.T) {
					img := plain
					img.Packing = inner
					got := mustImport(t, newStore(t), encode(t, write, outer, img), everyone())
					if (got.Digest != "") != (format == "oci-archive") {
						t.Errorf("digest %q", got.Digest)
					}
					got.Digest, got.Added = "", time.Time{}
					if first.ID == "" {
						first = got
					}
					if !equal(first, got) {
						t.Errorf("images differ:\n%+v\n%+v", first, got)
					}
				})
			}
		}
	}
	if want, _ := plain.ID(); first.ID != want {
		t.Errorf("id %s, want %s", first.ID, want)
	}
	c := first.Config
	if c.User != "lab" || c.WorkingDir != "/home/lab" || c.StopSignal != "SIGINT" || c.Labels["org.example.note"] != "a label" ||
		!slices.Equal(c.Entrypoint, plain.Entrypoint) || !slices.Equal(c.Cmd, plain.Cmd) || !slices.Equal(c.Env, plain.Env) {
		t.Errorf("config %+v", c)
	}
	if len(c.Users) != 2 || c.Users[1] != (image.User{Name: "lab", UID: 1000, GID: 1000, Home: "/home/lab"}) {
		t.Errorf("users %+v", c.Users)
	}
	if len(c.Groups) != 3 || !slices.Equal(c.Groups[2].Members, []string{"lab"}) {
		t.Errorf("groups %+v", c.Groups)
	}
	if len(first.DiffIDs) != 2 || first.Arch != runtime.GOARCH || first.Created.Year() != 2024 || first.Size < 1<<20 {
		t.Errorf("image %+v", first)
	}
}

func equal(a, b image.Image) bool {
	return a.ID == b.ID && slices.Equal(a.DiffIDs, b.DiffIDs) && slices.Equal(a.Names, b.Names) && a.Size == b.Size &&
		a.Config.User == b.Config.User && a.Created.Equal(b.Created)
}

func TestImportFromPipe(t *testing.T) {
	for _, packing := range []string{"", "gzip"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		archive := encode(t, imagetest.OCIArchive, packing, busybox(t))
		copied := make(chan error, 1)
		go func() {
			_, err := io.Copy(w, archive)
			copied <- err
			w.Close()
		}()
		mustImport(t, newStore(t), r, everyone())
		if err := <-copied; err != nil {
			t.Error(err)
		}
		r.Close()
	}
}

// The archives that skopeo makes of ours, and of its own.
func TestImportOfSkopeosArchives(t *testing.T) {
	dir := t.TempDir()
	img := busybox(t)
	if err := img.Add("/etc/hostname", "/name"); err != nil {
		t.Fatal(err)
	}
	img.Layers = append(img.Layers, img.Layers[1]) // a layer twice
	if err := os.Rename(imagetest.Archive(t, img).Name(), dir+"/docker.tar"); err != nil {
		t.Fatal(err)
	}
	skopeo := func(from, to string) {
		t.Helper()
		cmd := exec.Command("skopeo", "--tmpdir", dir, "--insecure-policy", "copy", "-q", from, to)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	skopeo("docker-archive:"+dir+"/docker.tar", "oci-archive:"+dir+"/oci.tar:lab/busybox:1")
	skopeo("oci-archive:"+dir+"/oci.tar:lab/busybox:1", "docker-archive:"+dir+"/docker2.tar:lab/busybox:1")
	skopeo("docker-archive:"+dir+"/docker2.tar", "oci:"+dir+"/layout:lab/busybox:1")
	if out, err := exec.Command("tar", "-C", dir+"/layout", "-cf", dir+"/layout.tar", ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := newStore(t)
	var diffIDs []string
	for file, name := range map[string]string{
		"docker.tar": "busybox:latest", "oci.tar": "lab/busybox:1", "docker2.tar": "lab/busybox:1", "layout.tar": "lab/busybox:1",
	} {
		f, err := os.Open(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		got := mustImport(t, s, f, everyone())
		f.Close()
		if !slices.Contains(got.Names, image.Name{Ref: name, Owner: image.Everyone}) {
			t.Errorf("%s has names %v", file, got.Names)
		}
		if diffIDs != nil && !slices.Equal(diffIDs, got.DiffIDs) {
			t.Errorf("%s has layers %v, want %v", file, got.DiffIDs, diffIDs)
		}
		diffIDs = got.DiffIDs
		if dirs, err := s.Layers(got); err != nil || len(dirs) != 2 {
			t.Errorf("%s: layers %v, %v; want 2, each once", file, dirs, err)
		}
	}
}

// A layer may stand in the archive as a link to where its bytes are.
func TestImportFollowsLinksInTheArchive(t *testing.T) {
	var buf bytes.Buffer
	if err := imagetest.DockerArchive(&buf, tiny("x:1", imagetest.File("x", 0o755, "x"))); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	tr, tw := tar.NewReader(&buf), tar.NewWriter(&out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(tr)
		if filepath.Base(h.Name) == "layer.tar" {
			h2 := *h
			h2.Name = "real.tar"
			tw.WriteHeader(&h2)
			tw.Write(data)
			tw.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: h.Name, Linkname: "../real.tar"})
			continue
		}
		tw.WriteHeader(h)
		tw.Write(data)
	}
	tw.Close()
	mustImport(t, newStore(t), imagetest.Open(t, out.Bytes()), everyone())
}

func TestImportOfSeveralImages(t *testing.T) {
	a := tiny("a:1", imagetest.File("x", 0o755, "a"))
	b := tiny("lab.example.org:5000/b:2", imagetest.File("x", 0o755, "b"))
	b.Layers = append(a.Layers, b.Layers...)
	for _, write := range []func(io.Writer, ...imagetest.Image) error{imagetest.DockerArchive, imagetest.OCIArchive} {
		s := newStore(t)
		images, err := s.Import(t.Context(), encode(t, write, "", a, b), everyone())
		if err != nil {
			t.Fatal(err)
		}
		if len(images) != 2 || images[0].Names[0].Ref != "a:1" || images[1].Names[0].Ref != "lab.example.org:5000/b:2" {
			t.Fatalf("images %+v", images)
		}
		for _, img := range images {
			checkWhole(t, s, img)
		}
		if n := countDirs(t, s, images...); n != 2 {
			t.Errorf("%d layers, want 2: the shared one once", n)
		}
	}
}

func countDirs(t *testing.T, s *image.Store, images ...image.Image) int {
	t.Helper()
	seen := map[string]bool{}
	for _, img := range images {
		dirs, err := s.Layers(img)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dirs {
			seen[d] = true
		}
	}
	return len(seen)
}

func TestImportChoosesThisMachinesPlatform(t *testing.T) {
	other := "riscv64"
	mine := tiny("multi:1", imagetest.File("x", 0o755, "mine"))
	mine.Arch = runtime.GOARCH
	theirs := tiny("multi:1", imagetest.File("x", 0o755, "theirs"))
	theirs.Arch = other
	got := mustImport(t, newStore(t), encode(t, imagetest.OCIArchive, "", theirs, mine), everyone())
	if want, _ := mine.ID(); got.ID != want {
		t.Errorf("chose %s, want %s", got.ID, want)
	}
	for _, write := range []func(io.Writer, ...imagetest.Image) error{imagetest.DockerArchive, imagetest.OCIArchive} {
		_, err := newStore(t).Import(t.Context(), encode(t, write, "", theirs), everyone())
		wantError(t, err, image.ErrUnsupported, other)
	}
}

func TestImportTellsProgress(t *testing.T) {
	img := tiny("big:1", imagetest.File("x", 0o644, string(make([]byte, 96<<20))))
	var last image.Progress
	o := everyone()
	o.Progress = func(p image.Progress) {
		if p.Read < last.Read || p.Read > p.Total || p.Layer != 1 || p.Layers != 1 {
			t.Errorf("progress %+v after %+v", p, last)
		}
		last = p
	}
	mustImport(t, newStore(t), imagetest.Archive(t, img), o)
	if last.Total < 96<<20 {
		t.Errorf("progress ended with %+v", last)
	}
}

func TestImportIsOfItsOwner(t *testing.T) {
	s := newStore(t)
	archive := imagetest.Archive(t, tiny("tool:1", imagetest.File("x", 0o755, "x")))
	got := mustImport(t, s, archive, image.ImportOptions{Name: "mine", Owner: 1000})
	if len(got.Names) != 1 || got.Names[0] != (image.Name{Ref: "mine:latest", Owner: 1000}) {
		t.Errorf("names %v", got.Names)
	}
	if _, err := s.Resolve("tool:1", 1000); err == nil {
		t.Error("the archive's name was kept beside the given one")
	}
}
