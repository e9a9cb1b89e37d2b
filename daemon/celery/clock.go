package celery

import (
	"sync"
	"time"
)

// Clock is a Lamport clock: the time by which Celery orders events of machines
// whose clocks differ. The zero value is ready; it is safe for concurrent use.
type Clock struct {
	mu    sync.Mutex
	value int64
}

// Forward is the next moment: what an event or message that is sent now carries.
func (c *Clock) Forward() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value++
	return c.value
}

// maxClock keeps a peer that lies from taking the clock to its end.
const maxClock = 1 << 62

// Adjust takes the moment that a received message carries into account.
func (c *Clock) Adjust(other int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other > c.value && other < maxClock {
		c.value = other
	}
	c.value++
	return c.value
}

// Value is the current moment.
func (c *Clock) Value() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// isoformat is what Python's datetime.isoformat writes for a time in UTC.
func isoformat(t time.Time) string {
	if t.Nanosecond()/1000 == 0 {
		return t.Format("2006-01-02T15:04:05-07:00")
	}
	return t.Format("2006-01-02T15:04:05.000000-07:00")
}

// unix is a time as Python's time.time gives it: seconds, to the microsecond.
func unix(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }
