package daemon

import (
	"fmt"
	"sync"
	"time"
)

// awayRegistries remembers registries that could not be reached, so that not every
// job of a machine without a network waits for one anew. It is for those who have
// an image that does instead.
type awayRegistries struct {
	mu   sync.Mutex
	away map[string]away
}

type away struct {
	since, until time.Time
	pause        time.Duration
}

const (
	firstPause = 15 * time.Second
	maxPause   = 5 * time.Minute
	// maxAway bounds how many are remembered; whose name comes from a job.
	maxAway = 256
)

// why says why a registry is not asked now; "" when it may be.
func (a *awayRegistries) why(host string, now time.Time) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	w, ok := a.away[host]
	if !ok || !now.Before(w.until) {
		return ""
	}
	return fmt.Sprintf("%s could not be reached %v ago; jobs ask it again in %v", host, now.Sub(w.since).Round(time.Second), w.until.Sub(now).Round(time.Second))
}

// asked keeps what became of asking a registry.
func (a *awayRegistries) asked(host string, reached bool, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if reached {
		delete(a.away, host)
		return
	}
	if a.away == nil || len(a.away) >= maxAway {
		a.away = map[string]away{host: a.away[host]}
	}
	pause := min(max(firstPause, 2*a.away[host].pause), maxPause)
	a.away[host] = away{since: now, until: now.Add(pause), pause: pause}
}
