package metrics

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"girderworker/daemon/apitype"
)

type fixed struct{}

func (fixed) Snapshot(context.Context) *Snapshot {
	return &Snapshot{Status: apitype.Status{Jobs: map[string]int{"queued": 3}}, AMQP: &AMQP{Rejected: map[string]int64{"body": 1}}}
}
func (fixed) Alive(context.Context) error       { return nil }
func (fixed) Ready(context.Context) []Condition { return []Condition{{Name: "database"}} }

// TestLanding: what / links to is there, and nothing else is.
func TestLanding(t *testing.T) {
	h := Handler(fixed{}, NewEvents())
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	links := regexp.MustCompile(`href="([^"]+)"`).FindAllStringSubmatch(get("/").Body.String(), -1)
	if len(links) != 3 {
		t.Errorf("the page has links %q", links)
	}
	for _, link := range links {
		if w := get(link[1]); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", link[1], w.Code, w.Body)
		}
	}
	if w := get("/other"); w.Code != http.StatusNotFound {
		t.Errorf("/other: %d", w.Code)
	}
}
