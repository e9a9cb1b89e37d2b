package daemon

import (
	"sync"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/monitor"
)

// TestLiveAttempt: what an attempt did last is not shown for the one after it, which the
// queue may have claimed already.
func TestLiveAttempt(t *testing.T) {
	f := new(front)
	f.attempts.init(t.Context(), new(sync.WaitGroup))
	f.attempts.byJob["j"] = &running{name: monitor.Attempt{Job: "j", Attempt: 1}, stage: "fetching", progress: new(apitype.Progress)}
	if stage, progress := f.Live("j", 1); stage != "fetching" || progress == nil {
		t.Errorf("the attempt: %q, %v", stage, progress)
	}
	if stage, progress := f.Live("j", 2); stage != "" || progress != nil {
		t.Errorf("the next one: %q, %v", stage, progress)
	}
}
