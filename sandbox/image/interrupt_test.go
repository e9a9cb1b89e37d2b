package image_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

// changes tells of every change in a store, one value each, until it is closed.
type changes struct {
	f     *os.File
	paths map[int32]string
}

func watchChanges(t *testing.T, dirs ...string) *changes {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	c := &changes{os.NewFile(uintptr(fd), "inotify"), map[int32]string{}}
	for _, dir := range dirs {
		if err := c.add(dir); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func (c *changes) add(dir string) error {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	var wd int
	ctlErr := raw.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), dir, unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_CLOSE_WRITE)
	})
	if err == nil {
		c.paths[int32(wd)] = dir
	}
	return errors.Join(ctlErr, err)
}

// after returns when n changes were seen, with true, or when c is closed.
// Directories that appear are watched, too; what happens in one before that is missed.
func (c *changes) after(n int) bool {
	buf := make([]byte, 64<<10)
	for seen := 0; ; {
		got, err := c.f.Read(buf)
		if err != nil {
			return false
		}
		for data := buf[:got]; len(data) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(data))
			mask := binary.NativeEndian.Uint32(data[4:])
			size := binary.NativeEndian.Uint32(data[12:])
			name := string(bytes.TrimRight(data[16:16+size], "\x00"))
			data = data[16+size:]
			if mask&unix.IN_ISDIR != 0 && mask&unix.IN_CREATE != 0 {
				_ = c.add(filepath.Join(c.paths[wd], name)) // it may be gone already
			}
			if seen++; seen == n {
				return true
			}
		}
	}
}

// An import whose processes are killed at each step that can be seen in the store,
// one after the other, leaves the store whole: what was in it is, the image is in
// it completely or not at all, and comes in when it is tried again.
func TestImportSurvivesKillAtEveryStep(t *testing.T) {
	earlier := tiny("earlier:1", reg("x", "earlier"))
	img := tiny("new:1", reg("x", "new"), imagetest.Dir("d", 0o755))
	img.Layers = append(img.Layers, imagetest.Layer{reg("d/y", "y"), reg("d/.wh.z", "")})
	archive := imagetest.Archive(t, img).Name()
	template := filepath.Join(t.TempDir(), "store")
	before := mustImport(t, openStore(t, template), imagetest.Archive(t, earlier), everyone())
	first := rand.IntN(3)
	id, err := img.ID()
	if err != nil {
		t.Fatal(err)
	}
	victims := []struct {
		name string
		of   func(helper int) []int
	}{
		{"helper", func(helper int) []int { return []int{helper} }},
		{"first child", children},
		{"worker", func(helper int) []int {
			var all []int
			for _, child := range children(helper) {
				all = append(all, children(child)...)
			}
			return all
		}},
	}
	// The children live for a part of the steps only.
	steps, killed := 0, map[string]int{}
	for n := 1; ; n++ {
		whole := false
		// One of the three a step, another one the next time: a process takes long to
		// start under the race detector.
		victim := victims[(n+first)%len(victims)]
		dir := filepath.Join(t.TempDir(), "store")
		if out, err := exec.Command("cp", "-a", template, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		seen := watchChanges(t, dir, filepath.Join(dir, "staging"), filepath.Join(dir, "layers"), filepath.Join(dir, "images"))
		cmd := importProcess(dir, archive)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		struck := make(chan bool, 1)
		go func() {
			hit := false
			if seen.after(n) {
				for _, pid := range victim.of(cmd.Process.Pid) {
					hit = unix.Kill(pid, unix.SIGKILL) == nil || hit
				}
			} else {
				whole = true
			}
			struck <- hit
		}()
		ended := cmd.Wait()
		seen.f.Close()
		if <-struck {
			killed[victim.name]++
		}

		s := openStore(t, dir)
		checkNothingLeft(t, s, dir)
		checkWhole(t, s, before)
		got, getErr := s.Get(id)
		switch {
		case getErr == nil:
			checkWhole(t, s, got)
		case !errors.Is(getErr, image.ErrNotFound):
			t.Error(getErr)
		case ended == nil:
			t.Error("an import that ended well is lost")
		}
		if _, err := s.Import(t.Context(), openFile(t, archive), everyone()); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Fatalf("the %s was killed after %d changes", victim.name, n)
		}
		if whole {
			break
		}
		steps++
	}
	if steps < 5 || killed["helper"] == 0 {
		t.Errorf("only %d steps were seen, and killed %v", steps, killed)
	}
	t.Logf("%d steps, killed %v", steps, killed)
}

func openFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A disk that is full at any step of an import leaves the store whole, and the
// image comes in when there is space.
func TestImportSurvivesAFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	dir := filepath.Join(disk, "store")
	s := openStore(t, dir)
	before := mustImport(t, s, imagetest.Archive(t, tiny("earlier:1", reg("x", "earlier"))), everyone())
	img := tiny("new:1", reg("x", string(make([]byte, 40<<10))), imagetest.Dir("d", 0o755))
	img.Layers = append(img.Layers, imagetest.Layer{reg("d/y", string(bytes.Repeat([]byte("y"), 40<<10)))})
	archive := imagetest.Archive(t, img).Name()
	var st unix.Statfs_t
	if err := unix.Statfs(disk, &st); err != nil {
		t.Fatal(err)
	}
	used := int64(st.Blocks-st.Bfree) * st.Bsize
	full := 0
	for extra := int64(0); ; extra += 8 << 10 {
		if extra > 1<<20 {
			t.Fatal("it never fits")
		}
		if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+extra)); err != nil {
			t.Fatal(err)
		}
		_, err := s.Import(t.Context(), openFile(t, archive), everyone())
		again := openStore(t, dir)
		if _, err := again.Layers(before); err != nil {
			t.Fatal(err)
		}
		checkNothingLeft(t, again, dir)
		if err == nil {
			break
		}
		full++
		wantError(t, err, image.ErrNoSpace)
		if t.Failed() {
			t.Fatalf("with %d bytes", extra)
		}
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	checkWhole(t, s, before)
	checkWhole(t, s, mustImport(t, s, openFile(t, archive), everyone()))
	if full < 5 {
		t.Errorf("the disk was full %d times only", full)
	}
	t.Logf("the disk was full %d times", full)
}
