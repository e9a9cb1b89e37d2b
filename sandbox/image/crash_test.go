package image_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image"
	"girderworker/sandbox/image/imagetest"
)

// importCommand makes the test binary a process that imports and says so.
const importCommand = "test-import"

func importMain(args []string) int {
	f, err := os.Open(args[1])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	s, err := image.Open(args[0], image.Options{Writable: true})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := s.Import(context.Background(), f, image.ImportOptions{Owner: image.Everyone}); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("imported")
	return 0
}

func importProcess(dir, archive string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", importCommand, dir, archive)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	return cmd
}

// An import is killed at random moments. After each kill the store must open,
// hold the image completely or not at all, and hold nothing else.
func TestImportSurvivesKill(t *testing.T) {
	img := busybox(t)
	for i := range 3 {
		var layer imagetest.Layer
		for j := range 200 {
			layer = append(layer, imagetest.File(fmt.Sprintf("data/%d/%d", i, j), 0o644, fmt.Sprint(i, j)))
		}
		img.Layers = append(img.Layers, layer)
	}
	archive := imagetest.Archive(t, img).Name()
	id, err := img.ID()
	if err != nil {
		t.Fatal(err)
	}

	start := time.Now()
	if out, err := importProcess(filepath.Join(t.TempDir(), "s"), archive).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	whole := time.Since(start)

	const kills = 25
	absent, present := 0, 0
	for range kills {
		dir := filepath.Join(t.TempDir(), "store")
		openStore(t, dir)
		cmd := importProcess(dir, archive)
		var out bytes.Buffer
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(time.Duration(rand.Float64()*1.1*float64(whole)), func() { cmd.Process.Signal(syscall.SIGKILL) })
		err := cmd.Wait()
		timer.Stop()

		s := openStore(t, dir)
		got, getErr := s.Get(id)
		switch {
		case getErr == nil:
			present++
			checkWhole(t, s, got)
		case errors.Is(getErr, image.ErrNotFound):
			absent++
			if err == nil {
				t.Errorf("an import that said %q is lost", out.String())
			}
		default:
			t.Fatal(getErr)
		}
		checkNothingLeft(t, s, dir)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d kills within %v: %d imports done, %d undone", kills, whole, present, absent)
}

// writeCommand makes the test binary a process that makes files in a directory
// until it is killed.
const writeCommand = "test-write"

func writeMain(dir string) int {
	for i := 0; ; i++ {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600); err != nil {
			fmt.Println(err)
			return 1
		}
	}
}

// A child of a killed import that is not dead yet does not disturb the next
// start, which removes what it leaves.
func TestOpenAwaitsChild(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	openStore(t, dir)
	dead := filepath.Join(dir, "staging", "import-1")
	work := filepath.Join(dead, "work")
	if err := os.MkdirAll(work, 0o700); err != nil {
		t.Fatal(err)
	}
	child := exec.Command("/proc/self/exe", writeCommand, work)
	var said bytes.Buffer
	child.Stdout = &said
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	if err := image.Note(filepath.Join(dead, image.ChildFile), child.Process.Pid); err != nil {
		t.Fatal(err)
	}
	wrote := func(file string) bool {
		_, err := os.Stat(filepath.Join(work, file))
		return err == nil
	}
	// A process takes long to start, and the store is not that patient.
	for !wrote("0") {
		time.Sleep(time.Millisecond)
	}
	ended := make(chan error, 1)
	go func() {
		for range 2000 {
			if wrote("500") {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		child.Process.Kill()
		ended <- child.Wait()
	}()
	s := openStore(t, dir)
	var status *exec.ExitError
	if err := <-ended; !errors.As(err, &status) || status.Exited() {
		t.Errorf("the directory was removed beneath its writer: %v, %s", err, said.String())
	}
	checkNothingLeft(t, s, dir)
}

// An import that was killed while it forked is locked by the child it did not
// have yet, which holds all that was open.
func TestOpenAwaitsFork(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	openStore(t, dir)
	dead := filepath.Join(dir, "staging", "import-1")
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	owner := exec.Command("cat")
	end, err := owner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	if err := image.Note(filepath.Join(dead, image.OwnerFile), owner.Process.Pid); err != nil {
		t.Fatal(err)
	}
	lock := openFile(t, dead)
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	openStore(t, dir)
	if _, err := os.Stat(dead); err != nil {
		t.Fatalf("a live import's directory is gone: %v", err)
	}
	end.Close()
	if err := owner.Wait(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	opened := os.NewFile(uintptr(fd), "inotify")
	defer opened.Close()
	if _, err := unix.InotifyAddWatch(fd, dead, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer lock.Close()
		events := make([]byte, 4<<10)
		// An event without a name is the directory itself, opened for its lock: more
		// often than by a start that does not wait for it.
		for tries := 0; tries < 5; {
			n, err := opened.Read(events)
			if err != nil {
				return
			}
			for data := events[:n]; len(data) >= unix.SizeofInotifyEvent; {
				size := binary.NativeEndian.Uint32(data[12:])
				if size == 0 {
					tries++
				}
				data = data[unix.SizeofInotifyEvent+size:]
			}
		}
	}()
	checkNothingLeft(t, openStore(t, dir), dir)
}

// A number that another process has by now is not waited for.
func TestOpenAwaitsNobodyElse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	openStore(t, dir)
	for i, note := range []string{fmt.Sprint(os.Getpid(), " 1"), "1", "", "x y", "-1 7", fmt.Sprint(1<<22+1, " 7")} {
		dead := filepath.Join(dir, "staging", fmt.Sprint("import-", i))
		if err := os.Mkdir(dead, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{image.OwnerFile, image.ChildFile} {
			if err := os.WriteFile(filepath.Join(dead, name), []byte(note), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	checkNothingLeft(t, openStore(t, dir), dir)
}

// checkNothingLeft checks that staging is empty and every layer is some
// image's.
func checkNothingLeft(t *testing.T, s *image.Store, dir string) {
	t.Helper()
	if left := readDirNames(t, filepath.Join(dir, "staging")); len(left) != 0 {
		t.Errorf("staging holds %v", left)
	}
	images, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	needed := map[string]bool{}
	for _, img := range images {
		for _, id := range img.DiffIDs {
			needed[id[len("sha256:"):]] = true
		}
	}
	for _, name := range readDirNames(t, filepath.Join(dir, "layers")) {
		if !needed[name] {
			t.Errorf("layer %s is nobody's", name)
		}
	}
}

// Processes and goroutines that import the same images, while others prune,
// never disturb each other.
func TestConcurrentImports(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	first := openStore(t, dir)
	shared := imagetest.Layer{reg("shared", "s"), imagetest.Dir("etc", 0o755)}
	var images []imagetest.Image
	for i := range 3 {
		images = append(images, imagetest.Image{
			Refs: []string{fmt.Sprintf("i%d:1", i)}, Layers: []imagetest.Layer{shared, {reg("own", fmt.Sprint(i))}},
		})
	}
	var archives []string
	for _, img := range images {
		archives = append(archives, imagetest.Archive(t, img).Name())
	}
	var wg sync.WaitGroup
	for n := range 6 {
		wg.Go(func() {
			f, err := os.Open(archives[n%3])
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if _, err := first.Import(t.Context(), f, everyone()); err != nil {
				t.Error(err)
			}
		})
		if n%2 == 0 {
			wg.Go(func() {
				if out, err := importProcess(dir, archives[n%3]).CombinedOutput(); err != nil {
					t.Errorf("%v: %s", err, out)
				}
			})
		}
		wg.Go(func() {
			if _, err := first.Prune(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := first.List()
	if err != nil || len(list) != 3 {
		t.Fatalf("%d images, %v", len(list), err)
	}
	for _, img := range list {
		checkWhole(t, first, img)
	}
	openStore(t, dir) // sweeps what the last ones to prune did not see
	checkNothingLeft(t, first, dir)
}
