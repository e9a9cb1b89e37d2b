package monitor

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// TestDemand: one interpreter for a call, more for a burst as far as there is room, and
// one again when it is over.
func TestDemand(t *testing.T) {
	s := &aheads{m: &Monitor{options: Options{Ahead: 2}}, demands: map[string]*demand{}}
	defer func() {
		for _, d := range s.demands {
			d.over.Stop()
		}
	}()
	now := time.Unix(1, 0)
	call := func(key string, after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		if got := s.called(key, now); got != want {
			t.Errorf("a call of %s after %v makes %d, want %d", key, after, got, want)
		}
	}
	made := func(key string) {
		s.ready = append(s.ready, &ahead{key: key})
		s.ended(key)
	}
	take := func(key string) {
		for i, a := range s.ready {
			if a.key == key {
				s.ready = append(s.ready[:i], s.ready[i+1:]...)
				return
			}
		}
		t.Errorf("none is ready for %s", key)
	}
	keys := func() (all string) {
		for _, a := range s.ready {
			all += a.key
		}
		return all
	}
	second := min(1, runtime.NumCPU()-1) // on one processor no second is made
	call("a", 0, 1)
	made("a")
	take("a")
	call("a", time.Minute, 1) // no burst
	made("a")
	take("a")
	call("a", 100*time.Millisecond, 1) // nor are two
	made("a")
	take("a")
	call("a", 100*time.Millisecond, 1+second)
	for range 1 + second {
		made("a")
	}
	call("a", 100*time.Millisecond, 0) // enough are ready
	call("b", time.Millisecond, 1)     // another has one all the same
	made("b")
	if over := s.surplus(); len(over) != second || keys() != "ab" {
		t.Errorf("%d are too many, %s stay", len(over), keys())
	}
	call("b", 100*time.Millisecond, 0) // and no second while the first is called
	d := s.demands["a"]
	d.over.Stop()
	d.last = time.Now().Add(-time.Hour)
	s.settle("a")
	if s.demands["a"] != nil || keys() != "ab" {
		t.Errorf("after a burst %s are ready", keys())
	}
	call("b", 100*time.Millisecond, second) // a third, in the place of one that nobody calls
	for range second {
		made("b")
		if over := fmt.Sprint(len(s.surplus()), keys()); over != "1bb" {
			t.Errorf("a burst leaves %s", over)
		}
	}
}

func TestMemoryShort(t *testing.T) {
	for text, want := range map[string]bool{
		"MemTotal:  24682912 kB\nMemFree:  1 kB\nMemAvailable:  3085364 kB\n": false,
		"MemTotal:  24682912 kB\nMemFree:  1 kB\nMemAvailable:  3085363 kB\n": true,
		"MemTotal:  24682912 kB\n": false, // before Linux 3.14
		"":                         false,
	} {
		file := filepath.Join(t.TempDir(), "meminfo")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := shortBy(file); got != want {
			t.Errorf("%v by %q", got, text)
		}
	}
}
