package daemon

import (
	"encoding/json"
	"slices"

	"girderworker/daemon/attempt"
	"girderworker/queue"
)

// maxNotes is how many notes of an attempt are kept with its job.
const maxNotes = 20

// addNote keeps a note for the job's record; the caller holds r.mu. A front that
// comes back reads all of an attempt's events again.
func (r *running) addNote(note string) {
	if note != "" && len(r.notes) < maxNotes && !slices.Contains(r.notes, note) {
		r.notes = append(r.notes, note)
	}
}

func failure(text string) *queue.Result {
	return &queue.Result{Outcome: string(attempt.OutcomeError), Code: attempt.CodeError, Error: text}
}

// result is what the queue keeps of an attempt's end.
func (r *running) result(exit attempt.Exit) *queue.Result {
	started := r.untoldStart()
	r.mu.Lock()
	defer r.mu.Unlock()
	result := &queue.Result{Outcome: string(exit.Outcome), Code: exit.Code, Error: exit.Error, Started: started}
	exit.Result = nil // which the attempt's directory keeps
	// It was decoded from JSON, so it encodes.
	result.Detail, _ = json.Marshal(struct {
		attempt.Exit
		Notes []string `json:"notes,omitempty"`
	}{exit, r.notes})
	return result
}
