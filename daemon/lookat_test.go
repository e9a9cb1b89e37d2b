package daemon

import (
	"testing"
	"time"
)

// TestLookAt: changes that do not end neither put a look off for ever nor bring one
// soon after another.
func TestLookAt(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	soonest := start.Add(-time.Hour)
	if at := lookAt(start, start, soonest); at.Sub(start) != pythonSettle {
		t.Errorf("after one change: %v", at.Sub(start))
	}
	// A change every half of a settling time, for ten minutes.
	var first, due time.Time
	var looks []time.Time
	for now := start; now.Sub(start) < 10*time.Minute; now = now.Add(pythonSettle / 2) {
		if !due.IsZero() && !now.Before(due) {
			looks = append(looks, due)
			soonest, first, due = due.Add(maxPythonGap), time.Time{}, time.Time{}
		}
		if first.IsZero() {
			first = now
		}
		due = lookAt(now, first, soonest)
	}
	if first := looks[0].Sub(start); first > pythonLate {
		t.Errorf("the first look comes after %v", first)
	}
	for i := 1; i < len(looks); i++ {
		if gap := looks[i].Sub(looks[i-1]); gap < maxPythonGap || gap > maxPythonGap+pythonLate {
			t.Errorf("look %d comes %v after the one before", i, gap)
		}
	}
}
