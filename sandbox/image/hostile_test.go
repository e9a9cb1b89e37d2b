package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

func wantError(t *testing.T, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want one of the kind %q", err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not name %q", err, part)
		}
	}
	if strings.ContainsAny(err.Error(), "\n\x00\x1b") {
		t.Errorf("error %q is not one clean line", err)
	}
}

// snapshot describes everything below dir.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(data)
		}
		fmt.Fprintln(&out, path, info.Mode(), info.ModTime().UnixNano(), info.Size(), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func reg(name, body string) imagetest.Entry    { return imagetest.File(name, 0o755, body) }
func link(name, target string) imagetest.Entry { return imagetest.Symlink(name, target) }
func hard(name, target string) imagetest.Entry { return imagetest.Hardlink(name, target) }
func node(kind byte, name string) imagetest.Entry {
	return imagetest.Entry{Header: tar.Header{Typeflag: kind, Name: name, Mode: 0o666, Devmajor: 1, Devminor: 3}}
}

func xattrs(e imagetest.Entry, list map[string]string) imagetest.Entry {
	e.Format = tar.FormatPAX
	e.PAXRecords = map[string]string{}
	for name, value := range list {
		e.PAXRecords["SCHILY.xattr."+name] = value
	}
	return e
}

// hostileLayer is a layer that means harm. want nil: contained, not refused.
type hostileLayer struct {
	name    string
	entries imagetest.Layer
	want    error
	text    string
	check   func(t *testing.T, layer string)
}

// Layers that try to leave their directory. victim stands for a directory of the
// host; its path is known to the attacker.
func TestHostileLayers(t *testing.T) {
	base := t.TempDir()
	victim := filepath.Join(base, "victim")
	if err := os.MkdirAll(filepath.Join(victim, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(victim, "file"), []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	deep := strings.Repeat("d/", 101)
	sparse := bytes.Buffer{}
	tw := tar.NewWriter(&sparse)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "huge", Mode: 0o644, Size: 1 << 40, ModTime: time.Unix(0, 0)}); err != nil {
		t.Fatal(err)
	}
	cases := []hostileLayer{
		{name: "dot dot", entries: imagetest.Layer{reg("../evil", "x")}, want: image.ErrHostile, text: "../evil"},
		{name: "dot dot in the middle", entries: imagetest.Layer{reg("a/../../evil", "x")}, want: image.ErrHostile, text: "a/../../evil"},
		{name: "many dot dots", entries: imagetest.Layer{reg(up[:len(up)-1]+victim+"/evil", "x")}, want: image.ErrHostile, text: "upwards"},
		{name: "dot dot directory", entries: imagetest.Layer{imagetest.Dir("..", 0o777)}, want: image.ErrHostile, text: ".."},
		{name: "absolute name", entries: imagetest.Layer{reg(victim+"/file", "inside")}, check: func(t *testing.T, layer string) {
			if data, err := os.ReadFile(filepath.Join(layer, victim, "file")); err != nil || string(data) != "inside" {
				t.Errorf("not contained: %q, %v", data, err)
			}
		}},
		{name: "absolute link then write through", entries: imagetest.Layer{link("l", victim), reg("l/evil", "x")}, want: image.ErrHostile, text: "link to nowhere"},
		{name: "relative link then write through", entries: imagetest.Layer{link("l", up+victim), reg("l/evil", "x")}, want: image.ErrHostile, text: "link to nowhere"},
		{name: "link to file then write", entries: imagetest.Layer{link("l", victim+"/file"), reg("l", "mine")}, check: func(t *testing.T, layer string) {
			if info, err := os.Lstat(filepath.Join(layer, "l")); err != nil || !info.Mode().IsRegular() {
				t.Errorf("the link was not replaced: %v, %v", info, err)
			}
		}},
		{name: "link to directory then directory", entries: imagetest.Layer{link("l", victim), imagetest.Dir("l", 0o777), reg("l/evil", "x")}},
		{name: "chain of links", entries: imagetest.Layer{link("a", ".."), link("b", "a/.."), link("c", "b/.."+victim), reg("c/evil", "x")}, want: image.ErrHostile},
		{name: "loop of links", entries: imagetest.Layer{link("a", "b"), link("b", "a"), reg("a/evil", "x")}, want: image.ErrHostile, text: "a"},
		{name: "link to proc", entries: imagetest.Layer{link("l", "/proc/self/root"), reg("l/evil", "x")}, want: image.ErrHostile},
		{name: "link to root", entries: imagetest.Layer{link("l", "/"), reg("l/evil", "x")}, check: func(t *testing.T, layer string) {
			if _, err := os.Stat(filepath.Join(layer, "evil")); err != nil {
				t.Errorf("/ is not the layer's own root: %v", err)
			}
		}},
		{name: "directory swapped for a link", entries: imagetest.Layer{imagetest.Dir("d", 0o755), reg("d/a", "x"), link("d", victim), reg("d/evil", "x")}, want: image.ErrHostile},
		{name: "directory in the way swapped", entries: imagetest.Layer{imagetest.Dir("d/e", 0o755), reg("d/e/a", "x"), link("d", "/etc"), imagetest.Dir("d/e", 0o755), reg("d/e/evil", "x")}, want: image.ErrHostile},
		{name: "hard link outside", entries: imagetest.Layer{hard("h", victim+"/file"), reg("h", "x")}, want: image.ErrHostile, text: "h"},
		{name: "hard link upwards", entries: imagetest.Layer{hard("h", up+victim+"/file")}, want: image.ErrHostile, text: "upwards"},
		{name: "hard link through a link", entries: imagetest.Layer{link("l", victim), hard("h", "l/file")}, want: image.ErrHostile, text: "hard link"},
		{name: "hard link to a link then write", entries: imagetest.Layer{link("l", victim+"/file"), hard("h", "l"), reg("h", "mine")}},
		{name: "hard link to a directory", entries: imagetest.Layer{imagetest.Dir("d", 0o755), hard("h", "d")}, want: image.ErrHostile, text: "hard link"},
		{name: "hard link to a whiteout", entries: imagetest.Layer{reg(".wh.w", ""), hard("h", "w")}, want: image.ErrHostile, text: "hard link"},
		{name: "hard link to what it replaces", entries: imagetest.Layer{imagetest.Dir("d", 0o755), reg("d/f", "x"), hard("d", "d/f")}, want: image.ErrHostile},
		{name: "whiteout through a link", entries: imagetest.Layer{link("l", victim), reg("l/.wh.file", "")}, want: image.ErrHostile},
		{name: "whiteout of dot dot", entries: imagetest.Layer{reg("d/.wh...", "")}, want: image.ErrHostile, text: "hides"},
		{name: "whiteout of dot", entries: imagetest.Layer{reg("d/.wh..", "")}, want: image.ErrHostile, text: "hides"},
		{name: "whiteout of nothing", entries: imagetest.Layer{reg("d/.wh.", "")}, want: image.ErrHostile, text: "hides"},
		{name: "opaque through a link", entries: imagetest.Layer{link("l", victim), reg("l/.wh..wh..opq", "")}, want: image.ErrHostile},
		{name: "opaque root", entries: imagetest.Layer{reg(".wh..wh..opq", "")}, want: image.ErrUnsupported},
		{name: "root as a file", entries: imagetest.Layer{{Header: tar.Header{Typeflag: tar.TypeReg, Name: "."}}}, want: image.ErrHostile, text: "root"},
		{name: "root as a link", entries: imagetest.Layer{link("./", victim)}, want: image.ErrHostile, text: "root"},
		{name: "character device", entries: imagetest.Layer{node(tar.TypeChar, "etc/null")}, want: image.ErrHostile, text: "etc/null"},
		{name: "block device", entries: imagetest.Layer{node(tar.TypeBlock, "sda")}, want: image.ErrHostile, text: "device node"},
		{name: "disguised whiteout", entries: imagetest.Layer{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "w"}}}, want: image.ErrHostile, text: "device node"},
		{name: "device below dev", entries: imagetest.Layer{node(tar.TypeChar, "dev/null"), node(tar.TypeFifo, "run/pipe")}, check: func(t *testing.T, layer string) {
			for _, name := range []string{"dev/null", "run/pipe"} {
				if _, err := os.Lstat(filepath.Join(layer, name)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s was made (%v)", name, err)
				}
			}
		}},
		{name: "device through a link to dev", entries: imagetest.Layer{imagetest.Dir("dev", 0o755), link("d", "dev"), node(tar.TypeChar, "d/null")}, want: image.ErrHostile},
		{name: "overlay attributes", entries: imagetest.Layer{
			xattrs(imagetest.Dir("d", 0o755), map[string]string{
				"user.overlay.redirect": victim, "user.overlay.opaque": "y", "trusted.overlay.redirect": victim,
				"security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\x00\x00\x00\x00", "system.posix_acl_access": "x",
			}),
		}, check: func(t *testing.T, layer string) {
			if names := listXattrs(t, filepath.Join(layer, "d")); len(names) != 0 {
				t.Errorf("attributes kept: %v", names)
			}
		}},
		{name: "attribute through a link", entries: imagetest.Layer{xattrs(link("l", victim+"/file"), map[string]string{"user.x": "y"})}, check: func(t *testing.T, _ string) {
			if names := listXattrs(t, filepath.Join(victim, "file")); len(names) != 0 {
				t.Errorf("attributes set: %v", names)
			}
		}},
		{name: "too many attributes", entries: imagetest.Layer{xattrs(reg("f", "x"), manyXattrs(65, 1))}, want: image.ErrTooLarge, text: "extended attributes"},
		{name: "too large attributes", entries: imagetest.Layer{xattrs(reg("f", "x"), manyXattrs(1, 5000))}, want: image.ErrTooLarge, text: "extended attributes"},
		{name: "mode through a link", entries: imagetest.Layer{link("d", victim), imagetest.Dir("d", 0o7777)}},
		{name: "too deep", entries: imagetest.Layer{reg(deep+"f", "x")}, want: image.ErrTooLarge, text: "deep"},
		{name: "too deep through links", entries: imagetest.Layer{
			imagetest.Dir(strings.Repeat("a/", 60), 0o755), link("l", strings.Repeat("a/", 60)), imagetest.Dir("l/"+strings.Repeat("b/", 60), 0o755),
		}, want: image.ErrTooLarge, text: "deep"},
		{name: "long name", entries: imagetest.Layer{reg(strings.Repeat("n", 256), "x")}, want: image.ErrHostile, text: "256"},
		{name: "long path", entries: imagetest.Layer{reg(strings.Repeat(strings.Repeat("n", 200)+"/", 25)+"f", "x")}, want: image.ErrHostile, text: "too long"},
		{name: "owner out of range", entries: imagetest.Layer{reg("etc/shadow", "x").Owned(70000, 0)}, want: image.ErrUnsupported, text: "etc/shadow"},
		{name: "group out of range", entries: imagetest.Layer{reg("f", "x").Owned(0, 65536)}, want: image.ErrUnsupported, text: "65536"},
		{name: "huge sparse file", entries: imagetest.Layer{{Raw: sparse.Bytes()}}, want: image.ErrTooLarge, text: "huge"},
		{name: "unknown type", entries: imagetest.Layer{{Header: tar.Header{Typeflag: 'Z', Name: "z"}}}, want: image.ErrUnsupported, text: "z"},
		{name: "escape codes in a name", entries: imagetest.Layer{node(tar.TypeBlock, "a\x1b[31m\nb")}, want: image.ErrHostile},
		{name: "dev is a link", entries: imagetest.Layer{reg("x", "x"), link("dev", victim)}, want: image.ErrHostile, text: "/dev"},
		{name: "proc is a link", entries: imagetest.Layer{link("proc", "tmp"), imagetest.Dir("tmp", 0o755)}, want: image.ErrHostile, text: "/proc"},
		{name: "sys is a file", entries: imagetest.Layer{reg("sys", "x")}, want: image.ErrHostile, text: "/sys"},
		{name: "passwd is a link outside", entries: imagetest.Layer{link("etc/passwd", up+"etc/passwd"), reg("x", "")}},
		{name: "passwd is endless", entries: imagetest.Layer{reg("etc/passwd", strings.Repeat("a:x:1:1::/:\n", 5000))}, want: image.ErrTooLarge, text: "/etc/passwd"},
		{name: "group with a long line", entries: imagetest.Layer{reg("etc/group", "g:x:1:"+strings.Repeat("m,", 1<<20))}, want: image.ErrTooLarge, text: "/etc/group"},
	}
	cases = append(cases, hostileHeaders(victim)...)
	var refused, contained atomic.Int64
	stores := t.TempDir()
	before := snapshot(t, base)
	// Two processes a row and another two to look at what came of it, which for the
	// most part wait for the kernel to make and end their namespaces.
	t.Run("", func(t *testing.T) {
		for n, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				store := filepath.Join(stores, strconv.Itoa(n))
				s := openStore(t, store)
				images, err := s.Import(t.Context(), imagetest.Archive(t, imagetest.Image{Refs: []string{"evil:1"}, Layers: []imagetest.Layer{c.entries}}), everyone())
				if after := snapshot(t, base); after != before {
					t.Errorf("something outside was touched:\n%s\nwas\n%s", after, before)
				}
				switch {
				case c.want != nil:
					wantError(t, err, c.want, c.text)
					checkEmpty(t, s, store)
				case err != nil:
					t.Fatal(err)
				default:
					checkWhole(t, s, images[0])
					layers, err := s.Layers(images[0])
					if err != nil {
						t.Fatal(err)
					}
					if c.check != nil {
						c.check(t, layers[0])
					}
				}
				switch {
				case t.Failed():
				case c.want != nil:
					refused.Add(1)
				default:
					contained.Add(1)
				}
			})
		}
	})
	t.Logf("hostile: %d layers tried, %d refused, %d contained", len(cases), refused.Load(), contained.Load())
}

// checkEmpty checks that a refused import left nothing.
func checkEmpty(t *testing.T, s *image.Store, dir string) {
	t.Helper()
	if images, err := s.List(); err != nil || len(images) != 0 {
		t.Errorf("the store lists %v, %v", images, err)
	}
	for _, sub := range []string{"staging", "layers", "images"} {
		if entries, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(entries) != 0 {
			t.Errorf("%s holds %v, %v", sub, entries, err)
		}
	}
}

func manyXattrs(n, size int) map[string]string {
	out := map[string]string{}
	for i := range n {
		out[fmt.Sprintf("user.a%d", i)] = strings.Repeat("v", size)
	}
	return out
}

func TestBombs(t *testing.T) {
	var many imagetest.Layer
	for i := range 1001 {
		many = append(many, imagetest.Dir(fmt.Sprintf("d%d", i), 0o755))
	}
	zeros := string(make([]byte, 8<<20))
	cases := []struct {
		name   string
		img    imagetest.Image
		outer  string
		limits image.Limits
		text   string
	}{
		{"entries", imagetest.Image{Layers: []imagetest.Layer{many}}, "", image.Limits{Entries: 1000}, "1000 entries"},
		{"implied directories", imagetest.Image{Layers: []imagetest.Layer{{reg("a/b/c/d/e/f", "x")}}}, "", image.Limits{Entries: 5}, "5 entries"},
		{"files", imagetest.Image{Layers: []imagetest.Layer{{reg("a", zeros)}}}, "", image.Limits{Bytes: 1 << 20}, "raise the limit"},
		{"files of two layers", imagetest.Image{Layers: []imagetest.Layer{{reg("a", zeros)}, {reg("b", zeros)}}}, "", image.Limits{Bytes: 12 << 20}, "raise the limit"},
		{"gzip in a layer", imagetest.Image{Packing: "gzip", Layers: []imagetest.Layer{{reg("a", zeros)}}}, "", image.Limits{Bytes: 1 << 20, Entries: 10}, "raise the limit"},
		{"zstd in a layer", imagetest.Image{Packing: "zstd", Layers: []imagetest.Layer{{{Raw: []byte(zeros)}}}}, "", image.Limits{Bytes: 1 << 20, Entries: 10}, "bomb"},
		{"gzip around", imagetest.Image{Layers: []imagetest.Layer{{reg("a", zeros)}}}, "gzip", image.Limits{Bytes: 1 << 20, Entries: 10}, "raise the limit"},
		{"layers", imagetest.Image{Layers: make([]imagetest.Layer, 129)}, "", image.Limits{}, "129 layers"},
		{"documents", imagetest.Image{Labels: map[string]string{"l": strings.Repeat("l", 5<<20)}, Layers: []imagetest.Layer{{reg("a", "")}}}, "", image.Limits{}, "document"},
	}
	for _, c := range cases {
		for format, write := range map[string]func(io.Writer, ...imagetest.Image) error{
			"docker-archive": imagetest.DockerArchive, "oci-archive": imagetest.OCIArchive,
		} {
			t.Run(c.name+" in "+format, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "store")
				s := openStore(t, dir)
				img := c.img
				img.Refs = []string{"bomb:1"}
				o := everyone()
				o.Limits = c.limits
				_, err := s.Import(t.Context(), encode(t, write, c.outer, img), o)
				wantError(t, err, image.ErrTooLarge, c.text)
				checkEmpty(t, s, dir)
			})
		}
	}
}

// rewrite changes the members of an archive; nil removes one.
func rewrite(t *testing.T, archive *os.File, change func(name string, data []byte) []byte) *os.File {
	t.Helper()
	tr := tar.NewReader(archive)
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if data = change(h.Name, data); data == nil {
			continue
		}
		h.Size = int64(len(data))
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return imagetest.Open(t, out.Bytes())
}

func TestDamagedArchives(t *testing.T) {
	img := tiny("x:1", reg("x", "content"))
	wrong := img
	wrong.DiffIDs = []string{"sha256:" + strings.Repeat("0", 64)}
	docker := func() *os.File { return encode(t, imagetest.DockerArchive, "", img) }
	oci := func() *os.File { return encode(t, imagetest.OCIArchive, "", img) }
	isLayer := func(data []byte) bool { return bytes.Contains(data, []byte("ustar")) }
	isConfig := func(data []byte) bool { return bytes.Contains(data, []byte("diff_ids")) }
	flip := func(which func([]byte) bool, from, to string) func(string, []byte) []byte {
		return func(_ string, data []byte) []byte {
			if which(data) {
				return bytes.Replace(data, []byte(from), []byte(to), 1)
			}
			return data
		}
	}
	drop := func(which func([]byte) bool) func(string, []byte) []byte {
		return func(_ string, data []byte) []byte {
			if which(data) {
				return nil
			}
			return data
		}
	}
	cases := []struct {
		name    string
		archive *os.File
		want    error
		text    string
	}{
		{"layer changed, docker", rewrite(t, docker(), flip(isLayer, "content", "CONTENT")), image.ErrCorrupt, "should have the digest"},
		{"layer changed, oci", rewrite(t, oci(), flip(isLayer, "content", "CONTENT")), image.ErrCorrupt, "should have the digest"},
		{"layer longer, oci", rewrite(t, oci(), flip(isLayer, "content", "content and more")), image.ErrCorrupt, "bytes"},
		{"config changed, docker", rewrite(t, docker(), flip(isConfig, "/x", "/y")), image.ErrCorrupt, "config"},
		{"config changed, oci", rewrite(t, oci(), flip(isConfig, "/x", "/y")), image.ErrCorrupt, "blob sha256:"},
		{"layer missing, docker", rewrite(t, docker(), drop(isLayer)), image.ErrCorrupt, "missing"},
		{"layer missing, oci", rewrite(t, oci(), drop(isLayer)), image.ErrCorrupt, "missing"},
		{"config missing, docker", rewrite(t, docker(), drop(isConfig)), image.ErrCorrupt, "missing"},
		{"config missing, oci", rewrite(t, oci(), drop(isConfig)), image.ErrCorrupt, "missing"},
		{"wrong diff id", encode(t, imagetest.OCIArchive, "gzip", wrong), image.ErrCorrupt, "should have the digest"},
		{"manifest is no JSON", rewrite(t, docker(), func(name string, data []byte) []byte {
			if name == "manifest.json" {
				return []byte("not json")
			}
			return data
		}), image.ErrCorrupt, "manifest.json"},
		{"no manifest", rewrite(t, docker(), func(name string, data []byte) []byte {
			if name == "manifest.json" {
				return nil
			}
			return data
		}), image.ErrUnsupported, "docker export"},
		{"empty manifest", rewrite(t, docker(), func(name string, data []byte) []byte {
			if name == "manifest.json" {
				return []byte("[]")
			}
			return data
		}), image.ErrUnsupported, "no image"},
		{"empty file", imagetest.Open(t, nil), image.ErrUnsupported, "docker save"},
		{"text", imagetest.Open(t, []byte(strings.Repeat("this is no archive at all\n", 100))), image.ErrUnsupported, "docker save"},
		{"zip", imagetest.Open(t, []byte("PK\x03\x04 and so on")), image.ErrUnsupported, "zip"},
		{"xz", imagetest.Open(t, []byte("\xfd7zXZ\x00 and so on")), image.ErrUnsupported, "xz"},
		{"bzip2", imagetest.Open(t, []byte("BZh9 and so on")), image.ErrUnsupported, "bzip2"},
		{"gzip of nothing", imagetest.Open(t, []byte("\x1f\x8b\x08")), image.ErrCorrupt, "too early"},
		{"no layers", encode(t, imagetest.OCIArchive, "", imagetest.Image{Refs: []string{"x:1"}}), image.ErrUnsupported, "no layers"},
		{"no name", encode(t, imagetest.OCIArchive, "", imagetest.Image{Layers: img.Layers}), image.ErrName, "--name"},
		{"bad name", encode(t, imagetest.OCIArchive, "", imagetest.Image{Refs: []string{"../../etc:1"}, Layers: img.Layers}), image.ErrName, "../../etc"},
		{"layer of another platform's registry", withManifest(t, img, func(m map[string]any) {
			l := m["layers"].([]any)[0].(map[string]any)
			l["mediaType"], l["digest"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "sha256:"+strings.Repeat("1", 64)
			l["urls"] = []string{"http://127.0.0.1:1/layer"}
		}), image.ErrCorrupt, "missing"},
		{"encrypted layer", withLayer(t, img, "mediaType", "application/vnd.oci.image.layer.v1.tar+encrypted"), image.ErrUnsupported, "encrypted"},
		{"digest that is a path", withLayer(t, img, "digest", "sha256:../../../../etc/passwd"), image.ErrUnsupported, "only sha256"},
		{"digest of another kind", withLayer(t, img, "digest", "sha512:"+strings.Repeat("0", 128)), image.ErrUnsupported, "only sha256"},
		{"layer of a size below zero", withLayer(t, img, "size", -1), image.ErrCorrupt, "promised"},
		{"layer of another size", withLayer(t, img, "size", 1<<40), image.ErrCorrupt, "promised"},
		{"size that is no number", withLayer(t, img, "size", "1e9"), image.ErrCorrupt, "document"},
		{"more layers than the config has", withManifest(t, img, func(m map[string]any) {
			m["layers"] = append(m["layers"].([]any), m["layers"].([]any)[0])
		}), image.ErrCorrupt, "its manifest 2"},
		{"manifest of the first version", withManifest(t, img, func(m map[string]any) {
			delete(m, "config")
			m["fsLayers"] = m["layers"]
		}), image.ErrUnsupported, "neither"},
		{"config that is the manifest", withManifest(t, img, func(m map[string]any) {
			m["config"] = m["layers"].([]any)[0]
		}), image.ErrCorrupt, "document"},
		{"manifest that is missing", rewrite(t, oci(), drop(func(data []byte) bool {
			return bytes.Contains(data, []byte(`"layers":[`)) && bytes.Contains(data, []byte("schemaVersion"))
		})), image.ErrCorrupt, "missing"},
		{"index that lists itself", withIndexes(t, img, 1, true), image.ErrCorrupt, "should have the digest"},
		{"indexes in indexes", withIndexes(t, img, 20, false), image.ErrUnsupported, "nests"},
		{"index of nothing", rewrite(t, oci(), func(name string, data []byte) []byte {
			if name == "index.json" {
				return []byte(`{"schemaVersion":2,"manifests":[]}`)
			}
			return data
		}), image.ErrUnsupported, ""},
		{"index that is endless", rewrite(t, oci(), func(name string, data []byte) []byte {
			if name == "index.json" {
				return []byte(strings.Repeat("[", 20000))
			}
			return data
		}), image.ErrCorrupt, "document"},
		{"diff id that is a path", encode(t, imagetest.OCIArchive, "", imagetest.Image{Refs: img.Refs, Layers: img.Layers, DiffIDs: []string{"sha256:../../x"}}), image.ErrUnsupported, "only sha256"},
		{"NUL in the config", encode(t, imagetest.OCIArchive, "", imagetest.Image{Refs: img.Refs, Layers: img.Layers, Env: []string{"A=\x00"}}), image.ErrHostile, "Env"},
		{"config outside, docker", rewrite(t, docker(), toOutside(`"Config":"`)), image.ErrCorrupt, "missing"},
		{"layer outside, docker", rewrite(t, docker(), toOutside(`"Layers":["`)), image.ErrCorrupt, "missing"},
		{"two blobs of one name", twice(t, oci(), isLayer, "content", "CONTENT"), image.ErrCorrupt, "should have the digest"},
		{"sparse member", imagetest.Open(t, append(pax('x', "GNU.sparse.major=0", "GNU.sparse.minor=1", "GNU.sparse.name=index.json", "GNU.sparse.size=9999999", "GNU.sparse.numblocks=0", "GNU.sparse.map="), file("index.json")...)), image.ErrUnsupported, "sparse"},
		{"loop of links", imagetest.Open(t, mustTar(t, imagetest.Layer{link("manifest.json", "a"), link("a", "manifest.json")})), image.ErrUnsupported, ""},
		{"link outside", imagetest.Open(t, mustTar(t, imagetest.Layer{link("manifest.json", "/etc/passwd")})), image.ErrUnsupported, ""},
	}
	var refused atomic.Int64
	t.Run("", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				dir := filepath.Join(t.TempDir(), "store")
				s := openStore(t, dir)
				_, err := s.Import(t.Context(), c.archive, everyone())
				wantError(t, err, c.want, c.text)
				checkEmpty(t, s, dir)
				if !t.Failed() {
					refused.Add(1)
				}
			})
		}
	})
	t.Logf("hostile: %d archives tried, %d refused", len(cases), refused.Load())
}

func mustTar(t *testing.T, l imagetest.Layer) []byte {
	t.Helper()
	data, err := l.Tar()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A stream without end that is no archive is refused by its beginning.
func TestImportOfAnEndlessStream(t *testing.T) {
	zero, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Close()
	_, err = newStore(t).Import(t.Context(), zero, everyone())
	wantError(t, err, image.ErrUnsupported, "docker save")
}

// An archive that ends anywhere is refused, or whole: its last 2 KiB are the
// member oci-layout, which says nothing, and the end-of-archive marker.
func TestTruncatedArchives(t *testing.T) {
	img := tiny("x:1", reg("x", "content"))
	s := newStore(t)
	for _, outer := range []string{"", "gzip"} {
		whole, err := io.ReadAll(encode(t, imagetest.OCIArchive, outer, img))
		if err != nil {
			t.Fatal(err)
		}
		step := 512
		if outer != "" {
			step = len(whole) / 12
		}
		for n := 0; n < len(whole); n += step {
			_, err := s.Import(t.Context(), imagetest.Open(t, whole[:n]), everyone())
			if err == nil && (outer != "" || len(whole)-n > 2048) {
				t.Errorf("%d of %d bytes (%q) were imported", n, len(whole), outer)
			}
			if err != nil && !errors.Is(err, image.ErrCorrupt) && !errors.Is(err, image.ErrUnsupported) {
				t.Errorf("%d of %d bytes: %v", n, len(whole), err)
			}
		}
	}
}
