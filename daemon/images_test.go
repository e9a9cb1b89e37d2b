package daemon

import (
	"slices"
	"testing"

	"girderworker/sandbox/image"
)

// Each name of an image is shown as that of whoever gave it.
func TestImageViews(t *testing.T) {
	i := &images{front: new(front)}
	i.front.rules.Store(new(rules))
	img := image.Image{ID: "sha256:1", Names: []image.Name{
		{Ref: "a:1", Owner: 64501}, {Ref: "b:1", Owner: image.Everyone}, {Ref: "c:1", Owner: 64501},
	}}
	views := i.views(img)
	if len(views) != 2 ||
		views[0].Owner != 64501 || !slices.Equal(views[0].Names, []string{"a:1", "c:1"}) ||
		views[1].Owner != everyone || !slices.Equal(views[1].Names, []string{"b:1"}) {
		t.Errorf("%+v", views)
	}
	img.Names = nil
	if views := i.views(img); len(views) != 1 || views[0].ID != img.ID || views[0].Names == nil {
		t.Errorf("%+v", views)
	}
}
