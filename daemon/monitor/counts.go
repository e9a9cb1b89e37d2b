package monitor

import (
	"context"
	"errors"
)

// Counts are what the monitor has counted since its start.
type Counts struct {
	// Reaped is attempts of which something was left when their runner was gone.
	Reaped uint64 `json:"reaped"`
	// AuditLost is lines of the audit log that could not be written, and were not
	// told by a later one yet.
	AuditLost int `json:"audit_lost"`
}

func (m *Monitor) counts() *Counts {
	m.audit.mu.Lock()
	defer m.audit.mu.Unlock()
	return &Counts{Reaped: m.reaped.Load(), AuditLost: m.audit.lost}
}

// Counts asks for the monitor's numbers.
func (c *Client) Counts(ctx context.Context) (Counts, error) {
	answer, err := c.call(ctx, request{Op: opCounts}, nil)
	if err != nil {
		return Counts{}, err
	}
	if answer.Counts == nil {
		return Counts{}, errors.New("the monitor did not tell its counts")
	}
	return *answer.Counts, nil
}
