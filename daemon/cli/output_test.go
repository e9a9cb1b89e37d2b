package cli

import (
	"strings"
	"testing"
	"time"
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
