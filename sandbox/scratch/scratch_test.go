package scratch

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func mount(t testing.TB, d *Disk, err error) string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	if err := d.Mount(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("not run: only root can mount")
	}
}

// fill writes to a file until there is no room, and tells how much there was.
func fill(t *testing.T, name string) int64 {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := make([]byte, 64<<10)
	for n := int64(0); ; {
		m, err := f.Write(chunk)
		n += int64(m)
		if errors.Is(err, unix.ENOSPC) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSizes(t *testing.T) {
	needRoot(t)
	templates := t.TempDir()
	for _, size := range []int64{MinSize, 3<<20 + 1, 64 << 20, 300 << 20} {
		d, err := Make(templates, t.TempDir(), "", size)
		dir := mount(t, d, err)
		if d.Full() {
			t.Errorf("%d bytes: full before the first file", size)
		}
		if n := fill(t, filepath.Join(dir, "f")); n < size*98/100 || n > size+size/16+2<<20 {
			t.Errorf("%d bytes: there was room for %d", size, n)
		}
		if !d.Full() {
			t.Errorf("%d bytes: not full with no room left", size)
		}
	}
}

func TestFiles(t *testing.T) {
	needRoot(t)
	d, err := Make(t.TempDir(), t.TempDir(), "", 8<<20)
	dir := mount(t, d, err)
	for i := range 10_000 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if errors.Is(err, unix.ENOSPC) {
			if i < 64 || !d.Full() {
				t.Errorf("no room after %d files; full: %t", i, d.Full())
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	t.Error("as many files as one likes")
}

// ownMounts takes this goroutine to a mount namespace of its own: a runner of another
// package's tests would have a copy of what is mounted in the machine's.
func ownMounts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with its namespace
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestNothingIsLeft: an image without a name is gone with its mount, and so is
// its loop device.
func TestNothingIsLeft(t *testing.T) {
	needRoot(t)
	ownMounts(t)
	images := t.TempDir()
	d, err := Make(t.TempDir(), images, "", 64<<20)
	dir := mount(t, d, err)
	if left, _ := os.ReadDir(images); len(left) > 0 {
		t.Errorf("there is %v", left)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	device := filepath.Base(d.loop.Name())
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	// Another test's disk may have the device already; and the last to let go of this
	// one may be udev, which looks at every new device.
	still := func() string {
		backing, err := os.ReadFile("/sys/block/" + device + "/loop/backing_file")
		if err != nil || !strings.Contains(string(backing), images) {
			return ""
		}
		return string(backing)
	}
	for end := time.Now().Add(10 * time.Second); still() != "" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if backing := still(); backing != "" {
		t.Errorf("%s still has %s", device, backing)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("there is %v below the mount", left)
	}
}

// TestOpen: what was synced is there when the image is mounted again.
func TestOpen(t *testing.T) {
	needRoot(t)
	image := filepath.Join(t.TempDir(), "image")
	d, err := Make(t.TempDir(), filepath.Dir(image), image, 16<<20)
	dir := mount(t, d, err)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err = Open(image)
	dir = mount(t, d, err)
	f, err := os.Open(filepath.Join(dir, "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if data, err := io.ReadAll(f); string(data) != "kept" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := Make(t.TempDir(), filepath.Dir(image), image, 16<<20); !errors.Is(err, os.ErrExist) {
		t.Errorf("a disk over another: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	needRoot(t)
	if _, err := Make(t.TempDir(), t.TempDir(), "", MinSize-1); err == nil {
		t.Error("a disk of nothing")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/dev/zero", link); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(link); err == nil {
		t.Error("a link is followed")
	}
}

func TestTemplatesAreForgotten(t *testing.T) {
	dir := t.TempDir()
	for i := range templatesKept + 5 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(templatePrefix, i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	forget(dir)
	if left, _ := os.ReadDir(dir); len(left) != templatesKept-1 {
		t.Errorf("%d templates are left", len(left))
	}
}

func BenchmarkDisk(b *testing.B) {
	needRoot(b)
	templates, images, dir := b.TempDir(), b.TempDir(), b.TempDir()
	for b.Loop() {
		d, err := Make(templates, images, "", 20<<30)
		if err == nil {
			err = d.Mount(dir)
		}
		if err == nil {
			err = os.Mkdir(filepath.Join(dir, "first"), 0o700)
		}
		if err == nil {
			err = d.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
