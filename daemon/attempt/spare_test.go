package attempt

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestSpare: what was made beforehand is as what is made at the start.
func TestSpare(t *testing.T) {
	state := t.TempDir()
	made := newDirIn(t, state)
	for _, secrets := range []bool{true, false} {
		job := "without"
		if secrets {
			job = "with"
		}
		d, err := NewDir(state, job, 1)
		if err != nil {
			t.Fatal(err)
		}
		spare, err := NewSpare(filepath.Join(state, "spare"), os.Getgid(), true)
		if err != nil {
			t.Fatal(err)
		}
		work := filepath.Join(state, d.ID())
		lock, err := spare.Become(d, work, secrets)
		if err != nil {
			t.Fatal(err)
		}
		if locked, err := d.Locked(); !locked || err != nil {
			t.Errorf("%s: locked: %v, %v", job, locked, err)
		}
		for _, pair := range [][2]string{{d.Path(), made.Path()}, {filepath.Dir(d.Path()), filepath.Dir(made.Path())}} {
			got, err := os.Stat(pair[0])
			want, err2 := os.Stat(pair[1])
			if errors.Join(err, err2) != nil || got.Mode() != want.Mode() {
				t.Errorf("%s: %v, want %v (%v, %v)", pair[0], got, want, err, err2)
			}
		}
		if info, err := os.Stat(work); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: work directory: %v, %v", job, info, err)
		}
		if left, err := os.ReadDir(work); err != nil || len(left) > 0 {
			t.Errorf("%s: in the work directory: %v, %v", job, left, err)
		}
		if err := d.WriteRequest(goodRequest(d)); err != nil {
			t.Fatal(err)
		}
		events, err := d.CreateEvents(os.Getgid())
		if err == nil {
			err = errors.Join(events.Append(Event{Stage: "preparing"}), events.Close())
		}
		if err != nil {
			t.Error(err)
		}
		exit, err := d.ReserveExit(os.Getgid())
		if err != nil {
			t.Fatal(err)
		}
		defer exit.Close()
		if info, err := exit.f.Stat(); err != nil || info.Mode() != fileMode || info.Sys().(*syscall.Stat_t).Blocks*512 < exitReserve {
			t.Errorf("%s: the space of the exit: %+v, %v", job, info, err)
		}
		if _, err := d.ReserveExit(os.Getgid()); !errors.Is(err, ErrBegun) {
			t.Errorf("%s: ReserveExit twice: %v, want ErrBegun", job, err)
		}
		var names []string
		entries, _ := os.ReadDir(d.Path())
		for _, e := range entries {
			names = append(names, e.Name())
		}
		want := []string{".exit.json", "events", "lock", "request.json"}
		if secrets {
			want = append(want, "secrets.json")
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: %v, want %v", job, names, want)
		}
		lock.Close()
		if err := spare.Discard(); err != nil {
			t.Error(err)
		}
	}
	for _, number := range []int{1, 2} {
		d, err := NewDir(state, made.Job(), number)
		if err != nil {
			t.Fatal(err)
		}
		spare, err := NewSpare(filepath.Join(state, "spare"), os.Getgid(), false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := spare.Become(d, filepath.Join(state, "w"), false); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", d.ID(), err)
		}
		if err := spare.Discard(); err != nil {
			t.Error(err)
		}
	}
	entries, _ := os.ReadDir(state)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "spare") {
			t.Errorf("left: %s", e.Name())
		}
	}
}
