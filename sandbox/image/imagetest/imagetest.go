// Package imagetest makes image archives on the spot, for tests and for the
// demonstration: nothing is pulled, and the same input gives the same bytes.
package imagetest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// BusyboxPath is where Debian's busybox-static puts its program.
const BusyboxPath = "/bin/busybox"

// Image is an image to be written as an archive. Its zero values mean nothing
// special: an image without layers is written without layers.
type Image struct {
	// Refs are its names, each with a tag.
	Refs   []string
	Layers []Layer

	Entrypoint, Cmd, Env         []string
	User, WorkingDir, StopSignal string
	Labels                       map[string]string

	// Arch is this machine's by default.
	Arch string
	// DiffIDs, when set, are claimed instead of the layers' true ones.
	DiffIDs []string
	// Packing of the layers: "" for plain tar, "gzip" or "zstd". A docker-archive
	// has plain ones by custom; others are read too.
	Packing string
}

// Layer is the entries of a layer, in their order.
type Layer []Entry

// Entry is an entry of a tar file. Whatever the header says is written as it is.
type Entry struct {
	tar.Header
	Body []byte
	// Raw, when set, is written instead of a header and a body.
	Raw []byte
}

// File is a regular file of root's.
func File(name string, mode int64, body string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, Body: []byte(body)}
}

// Dir is a directory of root's.
func Dir(name string, mode int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: mode}}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Hardlink is a hard link.
func Hardlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}}
}

// Owned is e with another owner.
func (e Entry) Owned(uid, gid int) Entry {
	e.Uid, e.Gid = uid, gid
	return e
}

// Tar is the layer as a tar file.
func (l Layer) Tar() ([]byte, error) {
	var buf bytes.Buffer
	for _, e := range l {
		if e.Raw != nil {
			buf.Write(e.Raw)
			continue
		}
		// One writer an entry, so that an entry may be as wrong as it likes.
		tw := tar.NewWriter(&buf)
		h := e.Header
		if e.Body != nil {
			h.Size = int64(len(e.Body))
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1_700_000_000, 0)
		}
		if err := tw.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("cannot write tar entry %q: %w", h.Name, err)
		}
		if _, err := tw.Write(e.Body); err != nil {
			return nil, fmt.Errorf("cannot write tar entry %q: %w", h.Name, err)
		}
		if err := tw.Flush(); err != nil {
			return nil, fmt.Errorf("cannot write tar entry %q: %w", h.Name, err)
		}
	}
	buf.Write(make([]byte, 1024))
	return buf.Bytes(), nil
}

// Busybox is a small but whole Linux system around the machine's static
// busybox: the applets in /bin, the accounts root and lab (1000:1000), /tmp.
func Busybox() (Image, error) {
	program, err := os.ReadFile(BusyboxPath)
	if err != nil {
		return Image{}, fmt.Errorf("cannot make a busybox image (is busybox-static installed?): %w", err)
	}
	list, err := exec.Command(BusyboxPath, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("cannot list busybox's applets: %w", err)
	}
	layer := Layer{
		Dir("./", 0o755), Dir("bin", 0o755), Dir("dev", 0o755), Dir("etc", 0o755), Dir("home", 0o755),
		Dir("home/lab", 0o755).Owned(1000, 1000), Dir("proc", 0o555), Dir("root", 0o700), Dir("sys", 0o555),
		Dir("tmp", 0o1777), Dir("var", 0o755), Dir("var/tmp", 0o1777),
		File("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\nlab:x:1000:1000:lab:/home/lab:/bin/sh\n"),
		File("etc/group", 0o644, "root:x:0:\nlab:x:1000:\nusers:x:100:lab\n"),
		{Header: tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, Body: program},
	}
	applets := strings.Fields(string(list))
	slices.Sort(applets)
	for _, applet := range applets {
		if applet != "busybox" {
			layer = append(layer, Symlink("bin/"+applet, "busybox"))
		}
	}
	return Image{
		Refs: []string{"busybox:latest"}, Layers: []Layer{layer},
		Cmd: []string{"sh"}, Env: []string{"PATH=/bin"},
	}, nil
}

// Add puts a file of the host, with its permissions, at target in a new layer.
func (i *Image) Add(host, target string) error {
	body, err := os.ReadFile(host)
	if err != nil {
		return fmt.Errorf("cannot add to image: %w", err)
	}
	info, err := os.Stat(host)
	if err != nil {
		return fmt.Errorf("cannot add to image: %w", err)
	}
	var layer Layer
	target = strings.TrimPrefix(path.Clean("/"+target), "/")
	if target == "" {
		return errors.New("cannot add to image: the target names no file")
	}
	for n, c := range target {
		if c == '/' {
			layer = append(layer, Dir(target[:n], 0o755))
		}
	}
	e := File(target, int64(info.Mode().Perm()), "")
	e.Body = body
	i.Layers = append(i.Layers, append(layer, e))
	return nil
}

type blob struct {
	data   []byte
	digest string
}

func newBlob(data []byte) blob {
	sum := sha256.Sum256(data)
	return blob{data, "sha256:" + hex.EncodeToString(sum[:])}
}

func (b blob) hex() string { return strings.TrimPrefix(b.digest, "sha256:") }

// blobs are the image's config and its layers as stored.
func (i Image) blobs() (config blob, layers []blob, err error) {
	var diffIDs []string
	for _, l := range i.Layers {
		plain, err := l.Tar()
		if err != nil {
			return blob{}, nil, err
		}
		diffIDs = append(diffIDs, newBlob(plain).digest)
		packed, err := Pack(i.Packing, plain)
		if err != nil {
			return blob{}, nil, err
		}
		layers = append(layers, newBlob(packed))
	}
	if i.DiffIDs != nil {
		diffIDs = i.DiffIDs
	}
	arch := i.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	data, err := json.Marshal(map[string]any{
		"created": "2024-01-02T03:04:05Z", "architecture": arch, "os": "linux",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "Env": i.Env, "User": i.User,
			"WorkingDir": i.WorkingDir, "StopSignal": i.StopSignal, "Labels": i.Labels,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	})
	return newBlob(data), layers, err
}

// ID is the image's id: the digest of its config.
func (i Image) ID() (string, error) {
	config, _, err := i.blobs()
	return config.digest, err
}

// Pack compresses: "" leaves as it is, "gzip", "zstd".
func Pack(how string, data []byte) ([]byte, error) {
	var buf bytes.Buffer
	var w io.WriteCloser
	switch how {
	case "":
		return data, nil
	case "gzip":
		z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		w = z
	case "zstd":
		z, err := zstd.NewWriter(&buf, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		w = z
	default:
		return nil, fmt.Errorf("unknown packing %q", how)
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Close()
	return buf.Bytes(), err
}

// DockerArchive writes images as one archive, as `docker save` of Docker 1.10
// to 24 lays it out.
func DockerArchive(w io.Writer, images ...Image) error {
	files := map[string][]byte{}
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var entries []entry
	for _, i := range images {
		config, layers, err := i.blobs()
		if err != nil {
			return err
		}
		e := entry{Config: config.hex() + ".json", RepoTags: i.Refs}
		files[e.Config] = config.data
		for _, l := range layers {
			name := l.hex() + "/layer.tar"
			files[name] = l.data
			e.Layers = append(e.Layers, name)
		}
		entries = append(entries, e)
	}
	var err error
	if files["manifest.json"], err = json.Marshal(entries); err != nil {
		return err
	}
	return writeTar(w, files)
}

// OCIArchive writes images as the tar of an OCI layout.
func OCIArchive(w io.Writer, images ...Image) error {
	files, err := layout(images)
	if err != nil {
		return err
	}
	return writeTar(w, files)
}

// OCILayout writes images as an OCI layout below dir.
func OCILayout(dir string, images ...Image) error {
	files, err := layout(images)
	if err != nil {
		return err
	}
	for name, data := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

// layout is the files of an OCI layout. Images that share their first name but
// not their architecture become one index.
func layout(images []Image) (map[string][]byte, error) {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	put := func(b blob) { files["blobs/sha256/"+b.hex()] = b.data }
	byName := map[string][]map[string]any{}
	var order []string
	for _, i := range images {
		config, layers, err := i.blobs()
		if err != nil {
			return nil, err
		}
		put(config)
		var stored []map[string]any
		for _, l := range layers {
			put(l)
			kind := "application/vnd.oci.image.layer.v1.tar"
			if i.Packing != "" {
				kind += "+" + i.Packing
			}
			stored = append(stored, describe(kind, l))
		}
		data, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "mediaType": manifestType,
			"config": describe("application/vnd.oci.image.config.v1+json", config), "layers": stored,
		})
		if err != nil {
			return nil, err
		}
		manifest := newBlob(data)
		put(manifest)
		d := describe(manifestType, manifest)
		name := ""
		if len(i.Refs) > 0 {
			name = i.Refs[0]
		}
		if i.Arch != "" {
			d["platform"] = map[string]string{"os": "linux", "architecture": i.Arch}
		}
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
		byName[name] = append(byName[name], d)
	}
	var top []map[string]any
	for _, name := range order {
		d := byName[name][0]
		if len(byName[name]) > 1 {
			data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": byName[name]})
			if err != nil {
				return nil, err
			}
			index := newBlob(data)
			put(index)
			d = describe(indexType, index)
		}
		if name != "" {
			d["annotations"] = map[string]string{"org.opencontainers.image.ref.name": name}
		}
		top = append(top, d)
	}
	data, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": top})
	files["index.json"] = data
	return files, err
}

func describe(kind string, b blob) map[string]any {
	return map[string]any{"mediaType": kind, "digest": b.digest, "size": len(b.data)}
}

// writeTar writes files in the order of their names.
func writeTar(w io.Writer, files map[string][]byte) error {
	tw := tar.NewWriter(w)
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name])), ModTime: time.Unix(0, 0)}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(files[name]); err != nil {
			return err
		}
	}
	return tw.Close()
}

// Archive writes images as a docker-archive into a temporary file of t's and
// returns it open.
func Archive(t testing.TB, images ...Image) *os.File {
	t.Helper()
	var buf bytes.Buffer
	if err := DockerArchive(&buf, images...); err != nil {
		t.Fatal(err)
	}
	return Open(t, buf.Bytes())
}

// Open returns a temporary file of t's with data in it.
func Open(t testing.TB, data []byte) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}
