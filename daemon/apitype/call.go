package apitype

import (
	"encoding/json"
	"time"
)

// Call is a call of a task as a Python program makes it: what apply_async takes.
// Durations are in seconds.
type Call struct {
	// ID is the job's, which makes the call idempotent.
	ID   string `json:"id,omitempty"`
	Task string `json:"task"`
	// Args, Kwargs and Hooks are as jsonpickle writes them.
	Args   json.RawMessage   `json:"args,omitempty"`
	Kwargs json.RawMessage   `json:"kwargs,omitempty"`
	Hooks  []json.RawMessage `json:"hooks,omitempty"`
	// After are the jobs that must have succeeded first, and Previous what becomes of
	// their results: none, one (each is an argument before the call's own) or list.
	After       []string  `json:"after,omitempty"`
	Previous    string    `json:"previous,omitempty"`
	Countdown   float64   `json:"countdown,omitempty"`
	NotBefore   time.Time `json:"not_before,omitzero"`
	Expires     Expiry    `json:"expires,omitzero"`
	Priority    int       `json:"priority,omitempty"`
	Timeout     float64   `json:"timeout,omitempty"`
	SoftTimeout float64   `json:"soft_timeout,omitempty"`
	// Girder says how the job is shown there; here its title is the job's name.
	Girder GirderJob `json:"girder,omitzero"`
	// APIURL and Token are of the Girder that the task may call, Session for it.
	APIURL  string         `json:"girder_api_url,omitempty"`
	Token   string         `json:"girder_client_token,omitempty"`
	Session map[string]any `json:"girder_client_session_kwargs,omitempty"`
}

// Expiry is a time, or seconds from now.
type Expiry struct {
	At time.Time
	In float64
}

// IsZero tells whether there is none.
func (e Expiry) IsZero() bool { return e.At.IsZero() && e.In == 0 }

// UnmarshalJSON reads either.
func (e *Expiry) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '"' {
		return e.At.UnmarshalJSON(data)
	}
	return json.Unmarshal(data, &e.In)
}

// MarshalJSON writes either.
func (e Expiry) MarshalJSON() ([]byte, error) {
	if e.At.IsZero() {
		return json.Marshal(e.In)
	}
	return e.At.MarshalJSON()
}

// Result is how a job of a task stands, in Celery's words.
type Result struct {
	ID string `json:"id"`
	// State is PENDING, STARTED, RETRY, SUCCESS, FAILURE or REVOKED.
	State  string          `json:"state"`
	Result json.RawMessage `json:"result"` // with SUCCESS; null of a container
	Error  *Exception      `json:"error,omitempty"`
}

// Exception is a Python exception, or what the Python worker would have raised.
type Exception struct {
	Type      string          `json:"type"`
	Module    string          `json:"module,omitempty"`
	Message   string          `json:"message"`
	Args      json.RawMessage `json:"args,omitempty"`
	Traceback string          `json:"traceback,omitempty"`
}
