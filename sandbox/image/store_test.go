package image_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

func importTiny(t *testing.T, s *image.Store, ref, content string, owner int) image.Image {
	t.Helper()
	return mustImport(t, s, encode(t, imagetest.OCIArchive, "", tiny(ref, reg("x", content))), image.ImportOptions{Owner: owner})
}

func TestResolve(t *testing.T) {
	s := newStore(t)
	all := importTiny(t, s, "busybox:latest", "everyone's", image.Everyone)
	mine := importTiny(t, s, "busybox:latest", "of 1000", 1000)
	tagged := importTiny(t, s, "ghcr.io/lab/segment-it:2.1", "tagged", image.Everyone)
	private := importTiny(t, s, "secret:1", "of 1001", 1001)
	hex := all.ID[len("sha256:"):]
	cases := []struct {
		ref  string
		uid  int
		want string // id, "" for not found
		text string
	}{
		{"busybox", 5, all.ID, ""},
		{"busybox", image.Everyone, all.ID, ""},
		{"busybox", 1000, mine.ID, ""},
		{"busybox:latest", 1000, mine.ID, ""},
		{"library/busybox", 5, all.ID, ""},
		{"docker.io/busybox", 5, all.ID, ""},
		{"docker.io/library/busybox:latest", 5, all.ID, ""},
		{"index.docker.io/library/busybox:latest", 5, all.ID, ""},
		{"busybox:1", 5, "", "busybox:latest"},
		{"busybx", 5, "", "is busybox:latest meant?"},
		{"segment-it", 5, "", "is ghcr.io/lab/segment-it:2.1 meant?"},
		{"nothing-like-it", 5, "", "images ls"},
		{"ghcr.io/lab/segment-it:2.1", 5, tagged.ID, ""},
		{all.ID, 5, all.ID, ""},
		{hex, 5, all.ID, ""},
		{hex[:12], 5, all.ID, ""},
		{"sha256:" + hex[:12], 5, all.ID, ""},
		{hex[:11], 5, "", ""},
		{tagged.Digest, 5, tagged.ID, ""},
		{"ghcr.io/lab/segment-it@" + tagged.Digest, 5, tagged.ID, ""},
		{"ghcr.io/lab/segment-it:2.1@" + tagged.Digest, 5, tagged.ID, ""},
		{"ghcr.io/lab/segment-it@" + tagged.ID, 5, "", ""},
		{"secret:1", 5, "", "images ls"},
		{"secret", 1001, "", "is secret:1 meant?"},
		{"secret:1", 1001, private.ID, ""},
		{private.ID, 5, "", ""},
		{private.ID, 1001, private.ID, ""},
		{private.ID, 0, private.ID, ""},
		{private.ID, image.Everyone, private.ID, ""},
		{private.Digest, 5, "", ""},
	}
	for _, c := range cases {
		got, err := s.Resolve(c.ref, c.uid)
		if c.want == "" {
			if !errors.Is(err, image.ErrNotFound) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s for %d: %v, %v; want ErrNotFound with %q", c.ref, c.uid, got.ID, err, c.text)
			}
			if c.uid == 5 && strings.Contains(err.Error(), "secret:1 meant") {
				t.Errorf("%s for %d tells another's name: %v", c.ref, c.uid, err)
			}
			continue
		}
		if err != nil || got.ID != c.want {
			t.Errorf("%s for %d: %s, %v; want %s", c.ref, c.uid, got.ID, err, c.want)
		}
		for _, name := range got.Names {
			if c.uid > 0 && name.Owner != image.Everyone && name.Owner != c.uid {
				t.Errorf("%s for %d shows %v", c.ref, c.uid, name)
			}
		}
	}
	for _, ref := range []string{"", "UPPER", "a b", "a:b:c", "-x", "x@sha256:1", "../x", "x:" + strings.Repeat("t", 129), strings.Repeat("x", 256), "x\x1b[0m"} {
		_, err := s.Resolve(ref, 5)
		wantError(t, err, image.ErrName)
	}
}

func TestCheckName(t *testing.T) {
	for ref, want := range map[string]string{
		"busybox": "busybox:latest", "busybox:1": "busybox:1", "lab/tool": "lab/tool:latest", "localhost/tool:2": "localhost/tool:2",
		"registry:5000/a/b": "registry:5000/a/b:latest", "Registry/a": "Registry/a:latest", "docker.io/lab/tool": "lab/tool:latest",
		"docker.io/localhost/tool": "docker.io/localhost/tool:latest", "[::1]:5000/a:1": "[::1]:5000/a:1",
	} {
		got, err := image.CheckName(ref)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", ref, got, err, want)
		}
		if again, err := image.CheckName(got); err != nil || again != got {
			t.Errorf("the short form %q means %q, %v", got, again, err)
		}
	}
}

func TestRemoveAndPrune(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	shared := imagetest.Layer{reg("shared", "s")}
	load := func(ref, content string, owner int) image.Image {
		img := imagetest.Image{Refs: []string{ref}, Layers: []imagetest.Layer{shared, {reg("own", content)}}}
		return mustImport(t, s, imagetest.Archive(t, img), image.ImportOptions{Owner: owner})
	}
	a, b, c := load("a:1", "a", image.Everyone), load("b:1", "b", image.Everyone), load("c:1", "c", 1000)
	if err := s.Tag("a:1", "other:1", 1000); err != nil {
		t.Fatal(err)
	}
	if err := s.Tag("c:1", "mine:1", 1001); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("tagged another's image: %v", err)
	}
	if _, err := s.Remove("a:1", 1000); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("removed everyone's name as 1000: %v", err)
	}
	if got, err := s.Remove("a:1", image.Everyone); err != nil || got.ID != a.ID || got.Left != 1 {
		t.Errorf("removed %+v, %v", got, err)
	}
	if got, err := s.Prune(t.Context(), nil); err != nil || len(got.Images) != 0 || got.Layers != 0 {
		t.Errorf("pruned %+v, %v; everything has a name", got, err)
	}
	if got, err := s.Remove(a.ID, 1000); err != nil || got.Left != 0 || len(got.Names) != 1 {
		t.Errorf("removed %+v, %v", got, err)
	}
	if _, err := s.Remove("b:1", image.Everyone); err != nil {
		t.Fatal(err)
	}
	got, err := s.Prune(t.Context(), []string{b.ID})
	if err != nil || !slices.Equal(got.Images, []string{a.ID}) || got.Layers != 1 || got.Bytes != 1 {
		t.Errorf("pruned %+v, %v; want a and its own layer", got, err)
	}
	checkWhole(t, s, b)
	checkWhole(t, s, c)
	openStore(t, dir) // takes the files away
	checkNothingLeft(t, s, dir)
	if _, err := s.Remove(c.ID, image.Everyone); err != nil {
		t.Errorf("an admin cannot remove a user's image: %v", err)
	}
	if got, err := s.Prune(t.Context(), nil); err != nil || len(got.Images) != 2 || got.Layers != 3 {
		t.Errorf("pruned %+v, %v; want all", got, err)
	}
	openStore(t, dir)
	checkEmpty(t, s, dir)
	if _, err := s.Layers(b); !errors.Is(err, image.ErrCorrupt) {
		t.Errorf("layers of a removed image: %v", err)
	}
}

// A name that is given again moves; what it named before stays until a prune.
func TestReimportMovesTheName(t *testing.T) {
	s := newStore(t)
	old := importTiny(t, s, "tool:1", "old", image.Everyone)
	now := importTiny(t, s, "tool:1", "new", image.Everyone)
	if got, err := s.Resolve("tool:1", 5); err != nil || got.ID != now.ID {
		t.Errorf("tool:1 is %s, %v", got.ID, err)
	}
	if got, err := s.Get(old.ID); err != nil || len(got.Names) != 0 {
		t.Errorf("the old image is %+v, %v", got, err)
	}
	again := importTiny(t, s, "tool:1", "new", image.Everyone)
	if !again.Added.Equal(now.Added) || again.ID != now.ID {
		t.Errorf("the same image again is %+v", again)
	}
}

func TestVerifyFindsChanges(t *testing.T) {
	content := []imagetest.Entry{
		reg("f", "content"), imagetest.Dir("d", 0o755), link("l", "f"), reg("d/g", "more"),
		xattrs(reg("a", "x"), map[string]string{"user.note": "x"}),
	}
	changes := map[string]func(dir string) error{
		"content": func(dir string) error {
			info, err := os.Stat(dir + "/f")
			if err != nil {
				return err
			}
			if err := os.WriteFile(dir+"/f", []byte("CONTENT"), 0o755); err != nil {
				return err
			}
			return os.Chtimes(dir+"/f", info.ModTime(), info.ModTime())
		},
		"mode":      func(dir string) error { return os.Chmod(dir+"/f", 0o755|os.ModeSetuid) },
		"owner":     func(dir string) error { return os.Chown(dir+"/d/g", 1, 1) },
		"new file":  func(dir string) error { return os.WriteFile(dir+"/d/new", nil, 0o644) },
		"lost file": func(dir string) error { return os.Remove(dir + "/d/g") },
		"link": func(dir string) error {
			return errors.Join(os.Remove(dir+"/l"), os.Symlink("a", dir+"/l"))
		},
		"attribute": func(dir string) error { return unix.Setxattr(dir+"/a", "user.note", []byte("y"), 0) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			img := mustImport(t, s, imagetest.Archive(t, tiny("x:1", content...)), everyone())
			dirs, err := s.Layers(img)
			if err != nil {
				t.Fatal(err)
			}
			if err := change(dirs[0]); err != nil {
				t.Fatal(err)
			}
			wantError(t, s.Verify(t.Context(), img.ID, nil), image.ErrCorrupt, "changed", img.DiffIDs[0])
		})
	}
	s := newStore(t)
	img := mustImport(t, s, imagetest.Archive(t, tiny("x:1", content...)), everyone())
	dirs, _ := s.Layers(img)
	if err := os.RemoveAll(dirs[0]); err != nil {
		t.Fatal(err)
	}
	wantError(t, s.Verify(t.Context(), img.ID, nil), image.ErrCorrupt, "import the image again")
}

func TestUse(t *testing.T) {
	dir := t.TempDir() + "/store"
	s := openStore(t, dir)
	imported := mustImport(t, s, imagetest.Archive(t, tiny("x:1", reg("a", "1"))), everyone())
	mustImport(t, s, imagetest.Archive(t, tiny("y:1", reg("b", "2"))), everyone())
	img, layers, err := image.Use(dir, imported.ID)
	want, _ := s.Get(imported.ID)
	want.Names = nil
	dirs, _ := s.Layers(want)
	if err != nil || !reflect.DeepEqual(img, want) || !slices.Equal(layers, dirs) {
		t.Errorf("%+v in %v, %v; want %+v in %v", img, layers, err, want, dirs)
	}
	for _, id := range []string{"", "x:1", "sha256:", "sha256:" + strings.Repeat("0", 64), "sha256:../names", imported.ID + "\n"} {
		if _, _, err := image.Use(dir, id); !errors.Is(err, image.ErrNotFound) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := os.RemoveAll(layers[0]); err != nil {
		t.Fatal(err)
	}
	_, _, err = image.Use(dir, imported.ID)
	wantError(t, err, image.ErrCorrupt, "import the image again")
}

// A user who names a layer that the store has, in an archive without its
// content, does not get it.
func TestHavingADigestIsNotHavingTheLayer(t *testing.T) {
	s := newStore(t)
	secret := tiny("secret:1", reg("x", "content"))
	mustImport(t, s, imagetest.Archive(t, secret), image.ImportOptions{Owner: 1001})
	thief := rewrite(t, imagetest.Archive(t, secret), func(name string, data []byte) []byte {
		if strings.HasSuffix(name, "layer.tar") {
			return make([]byte, len(data))
		}
		return data
	})
	_, err := s.Import(t.Context(), thief, image.ImportOptions{Owner: 1000})
	wantError(t, err, image.ErrCorrupt, "should have the digest")
	if _, err := s.Resolve("secret:1", 1000); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("the thief has it: %v", err)
	}
}

// A reader without any right but its group's sees the index and no layer.
func TestUnprivilegedReader(t *testing.T) {
	const gid = 54321
	dir := filepath.Join(t.TempDir(), "store")
	for p := filepath.Dir(dir); p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s, err := image.Open(dir, image.Options{Writable: true, GID: gid})
	if err != nil {
		t.Fatal(err)
	}
	mustImport(t, s, imagetest.Archive(t, busybox(t)), everyone())
	for path, want := range map[string]os.FileMode{
		".": 0o750, "images": 0o750, "layers": 0o700, "staging": 0o700, "names.json": 0o640, "lock": 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if wantGID := map[bool]uint32{true: gid}[want&0o070 != 0]; info.Mode().Perm() != want || st.Uid != 0 || st.Gid != wantGID {
			t.Errorf("%s has mode %v of %d:%d", path, info.Mode(), st.Uid, st.Gid)
		}
	}
	cmd := exec.Command("/proc/self/exe", readCommand, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: gid}}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "found busybox:latest; no layers; read only") {
		t.Errorf("%v: %s", err, out)
	}
	cmd = exec.Command("/proc/self/exe", readCommand, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("a stranger read the index: %s", out)
	}
}

// An open store sees what other processes change.
func TestReaderSeesChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	if _, err := image.Open(dir, image.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened a store that is not there: %v", err)
	}
	writer := openStore(t, dir)
	reader, err := image.Open(dir, image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	img := importTiny(t, writer, "x:1", "x", image.Everyone)
	if got, err := reader.Resolve("x:1", 5); err != nil || got.ID != img.ID {
		t.Errorf("resolved %s, %v", got.ID, err)
	}
	if _, err := writer.Remove("x:1", image.Everyone); err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Resolve("x:1", 5); !errors.Is(err, image.ErrNotFound) {
		t.Errorf("a removed name resolves: %v", err)
	}
	for _, err := range []error{
		reader.Tag("x:1", "y:1", 5),
		func() error { _, err := reader.Remove("x:1", 5); return err }(),
		func() error { _, err := reader.Prune(t.Context(), nil); return err }(),
		func() error { _, err := reader.Import(t.Context(), os.Stdin, everyone()); return err }(),
	} {
		if !errors.Is(err, image.ErrReadOnly) {
			t.Errorf("a reader changed something: %v", err)
		}
	}
}

func TestOpenRefusesADamagedIndex(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	openStore(t, dir)
	names := filepath.Join(dir, "names.json")
	for content, want := range map[string]string{"{": "cannot be read", `{"layout":2}`: "layout 2"} {
		if err := os.WriteFile(names, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := image.Open(dir, image.Options{Writable: true}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", content, err)
		}
	}
}
