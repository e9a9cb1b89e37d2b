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

func (fixed) Status(context.Context) (apitype.Status, error) {
	return apitype.Status{Jobs: map[string]int{"queued": 3}}, nil
}
func (fixed) Healthy(context.Context) error { return nil }

// TestLanding: what / links to is there, and nothing else is.
func TestLanding(t *testing.T) {
	h := Handler(fixed{})
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
