package image_test

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image/imagetest"
)

// unpacked imports layers and returns their directories.
func unpacked(t *testing.T, layers ...imagetest.Layer) []string {
	t.Helper()
	s := newStore(t)
	img := mustImport(t, s, imagetest.Archive(t, imagetest.Image{Refs: []string{"x:1"}, Layers: layers}), everyone())
	dirs, err := s.Layers(img)
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// describe tells all that a container can see of a file, but its content.
func describe(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if os.IsNotExist(err) {
		return "absent"
	}
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	out := fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		out += " -> " + target
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		out = fmt.Sprintf("char %d", st.Rdev)
	}
	for _, name := range listXattrs(t, path) {
		out += " " + name
	}
	return out
}

func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if got := describe(t, filepath.Join(dir, name)); got != w {
			t.Errorf("%s is %q, want %q", name, got, w)
		}
	}
}

func TestLayerKeepsWhatTheTarSays(t *testing.T) {
	when := time.Unix(1_234_567_890, 123_000_000)
	at := func(e imagetest.Entry) imagetest.Entry {
		e.ModTime, e.Format = when, tar.FormatPAX
		return e
	}
	long := "long/" + strings.Repeat("n", 120) + "/" + strings.Repeat("m", 120)
	dir := unpacked(t, imagetest.Layer{
		at(imagetest.Dir("./", 0o711).Owned(3, 4)),
		at(imagetest.Dir("./closed", 0o000).Owned(1000, 1000)),
		at(imagetest.File("./closed/f", 0o000, "x").Owned(1000, 1000)),
		at(imagetest.File("bin/su", 0o4755, "x")),
		at(imagetest.File("bin/mail", 0o2755, "x").Owned(0, 8)),
		at(imagetest.File("bin/owned", 0o6711, "x").Owned(65535, 65535)),
		at(imagetest.Dir("sticky", 0o1777)), at(imagetest.Dir("setgid", 0o2775).Owned(0, 50)),
		at(imagetest.File("setgid/f", 0o644, "x")),
		at(imagetest.Symlink("l", "/nowhere").Owned(5, 6)),
		at(xattrs(imagetest.File("readonly", 0o444, "x").Owned(7, 7), map[string]string{"user.note": "kept"})),
		at(xattrs(imagetest.Dir("attrs", 0o500).Owned(7, 7), map[string]string{"user.note": "kept"})),
		at(imagetest.File(long, 0o644, "x")),
		imagetest.File("implied/by/f", 0o600, "x"), imagetest.File("tmp/f", 0o600, "x"),
	})[0]
	wantFiles(t, dir, map[string]string{
		".": "drwx--x--x 3:4", "closed": "d--------- 1000:1000", "closed/f": "---------- 1000:1000",
		"bin/su": "urwxr-xr-x 0:0", "bin/mail": "grwxr-xr-x 0:8", "bin/owned": "ugrwx--x--x 65535:65535",
		"sticky": "dtrwxrwxrwx 0:0", "setgid": "dgrwxrwxr-x 0:50", "setgid/f": "-rw-r--r-- 0:0",
		"l": "Lrwxrwxrwx 5:6 -> /nowhere", "readonly": "-r--r--r-- 7:7 user.note", "attrs": "dr-x------ 7:7 user.note",
		long: "-rw-r--r-- 0:0", "implied/by": "drwxr-xr-x 0:0", "implied/by/f": "-rw------- 0:0", "tmp": "dtrwxrwxrwx 0:0",
	})
	for _, name := range []string{".", "closed", "closed/f", "bin/su", "sticky", "setgid", "l", "readonly", "attrs", long} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !info.ModTime().Equal(when) {
			t.Errorf("%s is of %v, want %v", name, info.ModTime(), when)
		}
	}
}

func TestLayerTakesTheLastOfEqualNames(t *testing.T) {
	file := func(name, body string) imagetest.Entry { return imagetest.File(name, 0o644, body) }
	dir := unpacked(t, imagetest.Layer{
		file("twice", "first"), file("twice", "second"),
		imagetest.Dir("d", 0o700), file("d/f", "x"), imagetest.Dir("d", 0o755), // described again, kept
		file("file-then-dir", "x"), imagetest.Dir("file-then-dir", 0o750), file("file-then-dir/f", "x"),
		imagetest.Dir("dir-then-file", 0o755), file("dir-then-file/deep/f", "x"), file("dir-then-file", "file"),
		imagetest.Dir("dir-then-link", 0o755), file("dir-then-link/f", "x"), imagetest.Symlink("dir-then-link", "d"),
		imagetest.Symlink("link-then-dir", "d"), imagetest.Dir("link-then-dir", 0o711),
		file("implied-over-file", "x"), file("implied-over-file/f", "x"),
		imagetest.Symlink("lib", "usr/lib"), imagetest.Dir("usr/lib", 0o755), file("lib/through", "x"),
		file("h1", "linked"), imagetest.Hardlink("h2", "./h1"), imagetest.Hardlink("/h3", "/h1"), imagetest.Hardlink("h1", "h2"),
		imagetest.Symlink("s1", "d/f"), imagetest.Hardlink("s2", "s1"),
	})[0]
	wantFiles(t, dir, map[string]string{
		"d": "drwxr-xr-x 0:0", "d/f": "-rw-r--r-- 0:0",
		"file-then-dir": "drwxr-x--- 0:0", "file-then-dir/f": "-rw-r--r-- 0:0",
		"dir-then-file": "-rw-r--r-- 0:0", "dir-then-link": "Lrwxrwxrwx 0:0 -> d",
		"link-then-dir": "drwx--x--x 0:0", "implied-over-file": "drwxr-xr-x 0:0", "implied-over-file/f": "-rw-r--r-- 0:0",
		"usr/lib/through": "-rw-r--r-- 0:0", "s2": "Lrwxrwxrwx 0:0 -> d/f",
	})
	if data, err := os.ReadFile(filepath.Join(dir, "twice")); err != nil || string(data) != "second" {
		t.Errorf("twice holds %q, %v", data, err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(dir, "h3"), &st); err != nil || st.Nlink != 3 {
		t.Errorf("h3 has %d links, %v; want 3", st.Nlink, err)
	}
}

func TestWhiteouts(t *testing.T) {
	file := func(name string) imagetest.Entry { return imagetest.File(name, 0o644, "x") }
	lower := imagetest.Layer{
		file("gone"), file("gone-dir/f"), file("opaque/old"), file("remade/old"), file("remade-after/old"),
		file("implied/old"), file("replaced"), file("kept/old"),
	}
	upper := imagetest.Layer{
		file(".wh.gone"), file(".wh.gone-dir"),
		imagetest.Dir("opaque", 0o755), file("opaque/.wh..wh..opq"), file("opaque/new"),
		file(".wh.remade"), imagetest.Dir("remade", 0o755), file("remade/new"),
		imagetest.Dir("remade-after", 0o755), file("remade-after/new"), file(".wh.remade-after"),
		file(".wh.implied"), file("implied/new"),
		file(".wh.replaced"), file("replaced"), file(".wh..wh.plnk"), file("kept/new"),
	}
	dirs := unpacked(t, lower, upper)
	wantFiles(t, dirs[1], map[string]string{
		"gone": "char 0", "gone-dir": "char 0", "opaque": "drwxr-xr-x 0:0 user.overlay.opaque",
		"remade": "drwxr-xr-x 0:0 user.overlay.opaque", "remade-after": "drwxr-xr-x 0:0 user.overlay.opaque",
		"implied": "drwxr-xr-x 0:0 user.overlay.opaque", "replaced": "-rw-r--r-- 0:0", "kept": "drwxr-xr-x 0:0",
		".wh..wh.plnk": "absent",
	})
	// What counts is what the kernel makes of it.
	view := t.TempDir()
	if err := unix.Mount("overlay", view, "overlay", unix.MS_RDONLY, "userxattr,lowerdir="+dirs[1]+":"+dirs[0]); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(view, unix.MNT_DETACH)
	wantFiles(t, view, map[string]string{
		"gone": "absent", "gone-dir": "absent", "opaque/old": "absent", "opaque/new": "-rw-r--r-- 0:0",
		"remade/old": "absent", "remade/new": "-rw-r--r-- 0:0", "remade-after/old": "absent", "remade-after/new": "-rw-r--r-- 0:0",
		"implied/old": "absent", "implied/new": "-rw-r--r-- 0:0", "replaced": "-rw-r--r-- 0:0",
		"kept/old": "-rw-r--r-- 0:0", "kept/new": "-rw-r--r-- 0:0",
	})
}

// Inode numbers are used again at once: no attribute of a removed file may come
// out on a new one.
func TestLayerForgetsRemovedFiles(t *testing.T) {
	var layer imagetest.Layer
	for range 50 {
		layer = append(layer,
			xattrs(imagetest.File("f", 0o600, "x"), map[string]string{"user.old": "y"}),
			xattrs(imagetest.Dir("f", 0o700), map[string]string{"user.older": "y"}),
			imagetest.Symlink("f", "x"), imagetest.File("f", 0o644, "z"), imagetest.Dir("f", 0o755), imagetest.File("f", 0o640, "z"),
		)
	}
	wantFiles(t, unpacked(t, layer)[0], map[string]string{"f": "-rw-r----- 0:0"})
}

// GNU tar's own archives: sparse files, long names, hard links, in every format.
func TestLayersOfGNUTar(t *testing.T) {
	for _, format := range []string{"gnu", "pax", "ustar"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			f, err := os.Create(filepath.Join(dir, "sparse"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte("end"), 3<<20); err != nil {
				t.Fatal(err)
			}
			f.Close()
			if err := os.Link(filepath.Join(dir, "sparse"), filepath.Join(dir, "linked")); err != nil {
				t.Fatal(err)
			}
			args := []string{"--format=" + format, "-C", dir, "-cf", "-", "."}
			if format != "ustar" {
				args = append([]string{"--sparse"}, args...)
			}
			raw := output(t, "tar", args...)
			got := unpacked(t, imagetest.Layer{{Raw: raw}})[0]
			data, err := os.ReadFile(filepath.Join(got, "sparse"))
			if err != nil || len(data) != 3<<20+3 || string(data[3<<20:]) != "end" || strings.Trim(string(data[:3<<20]), "\x00") != "" {
				t.Errorf("sparse holds %d bytes, %v", len(data), err)
			}
			wantFiles(t, got, map[string]string{"linked": "-rw-r--r-- 0:0"})
		})
	}
}
