package plugin

import (
	"slices"
	"time"
)

// UpgradeTime is how long a package may be gone while another version is installed.
const UpgradeTime = 30 * time.Second

// A Look is what is known of an interpreter. Tasks go on to be known while a look at
// their plugin fails: a call is better told what is wrong with the plugin than that
// its task is unknown.
type Look struct {
	Of       Python
	Tasks    []Task
	Problems []error

	missed time.Time // the first of the last whole looks that lacked tasks
}

// Take joins what an interpreter told when it was asked without the plugins in skip,
// which hung or died. again is set where a task is gone without a reason: an upgrade
// removes a package before it installs the next, so only a look that comes
// [UpgradeTime] later takes it away.
func (l *Look) Take(found Found, skip []string, now time.Time) (again bool) {
	gone := !l.missed.IsZero() && now.Sub(l.missed) >= UpgradeTime
	have := map[string]bool{}
	for _, t := range found.Tasks {
		have[t.Name] = true
	}
	failed := slices.Clone(found.Failed)
	for _, name := range skip {
		failed = append(failed, l.Of.source(name))
	}
	tasks := slices.Clone(found.Tasks)
	for _, t := range l.Tasks {
		switch {
		case have[t.Name]:
			continue
		case !found.Whole || slices.Contains(failed, t.Source):
		case gone:
			continue
		default:
			again = true
		}
		tasks = append(tasks, t)
	}
	l.Tasks = tasks
	switch {
	case !found.Whole:
	case !again:
		l.missed = time.Time{}
	case l.missed.IsZero():
		l.missed = now
	}
	return again
}
