package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestAwayRegistries(t *testing.T) {
	var a awayRegistries
	now := time.Unix(1e9, 0)
	const host = "registry.lab"
	if why := a.why(host, now); why != "" {
		t.Errorf("never asked: %s", why)
	}
	for _, want := range []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 5 * time.Minute, 5 * time.Minute} {
		a.asked(host, false, now)
		if why := a.why(host, now.Add(5*time.Second)); !strings.Contains(why, "could not be reached 5s ago") || !strings.Contains(why, "again in "+(want-5*time.Second).String()) {
			t.Errorf("a pause of %v: %s", want, why)
		}
		if why := a.why("other.lab", now); why != "" {
			t.Errorf("another registry: %s", why)
		}
		now = now.Add(want)
		if why := a.why(host, now); why != "" {
			t.Errorf("after %v: %s", want, why)
		}
	}
	a.asked(host, true, now)
	a.asked(host, false, now)
	if why := a.why(host, now.Add(firstPause)); why != "" {
		t.Errorf("it was back: %s", why)
	}
	for i := range 10 * maxAway {
		a.asked(fmt.Sprint(i), false, now)
	}
	if len(a.away) > maxAway {
		t.Errorf("%d are remembered", len(a.away))
	}
}
