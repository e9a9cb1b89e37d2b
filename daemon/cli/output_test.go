package cli

import (
	"strings"
	"testing"
	"time"

	"girderworker/daemon/apitype"
)

func TestLasting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                          "0s",
		1500 * time.Millisecond:    "1.5s",
		90 * time.Second:           "1m30s",
		time.Hour:                  "1h",
		168 * time.Hour:            "7d",
		36*time.Hour + time.Second: "1d12h1s",
	} {
		if got := lasting(d); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}

// TestFields: values stand below each other, across empty lines too.
func TestFields(t *testing.T) {
	var b strings.Builder
	if err := fields(&b, "id", "1", "none", "", "", "", "peak memory", "2"); err != nil {
		t.Fatal(err)
	}
	if want := "id:           1\n\npeak memory:  2\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// TestSpans: what a job does after its container's end is no part of how long it ran.
func TestSpans(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 1, 2, 3, 4, s, 0, time.UTC) }
	uploaded := apitype.Job{Started: at(1), Finished: at(50), Detail: []byte(`{"container":{"Started":"2026-01-02T03:04:02Z","Finished":"2026-01-02T03:04:05Z"}}`)}
	for _, c := range []struct {
		job   apitype.Job
		ran   string
		after time.Duration
	}{
		{uploaded, "3.0s", 45 * time.Second},
		{apitype.Job{Started: at(1), Finished: at(5), Detail: []byte(`{"outcome":"error"}`)}, "4.0s", 0},
		{apitype.Job{Started: at(1), Finished: at(5)}, "4.0s", 0},
		{apitype.Job{}, "", 0},
	} {
		if got := ran(&c.job); got != c.ran {
			t.Errorf("%s: ran %q, want %q", c.job.Detail, got, c.ran)
		}
		if _, after := spans(&c.job); after != c.after {
			t.Errorf("%s: its outputs took %v, want %v", c.job.Detail, after, c.after)
		}
	}
}
