package monitor

import (
	"fmt"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
	"girderworker/transforms"
)

// Girder is a server, as the root of its REST API, and the file with the
// machine's API key for it. No URL: there is none.
type Girder struct{ URL, KeyFile string }

// girderKey returns the machine's key for an attempt that policy lets have the
// use of it, and "" for one that does not ask. It goes to the one server that it
// is for, in no way that a job chooses.
func (m *Monitor) girderKey(r *attempt.Request, secrets *transforms.Secrets) (string, error) {
	asked := false
	for _, g := range r.Plan.Girders {
		if !g.MachineKey {
			continue
		}
		asked = true
		switch {
		case r.Identity.Source != policy.Socket:
			// A task's process has no id that is surely nobody else's.
			return "", fmt.Errorf("%w: girder.machine_key: the machine's API key is for jobs of the socket; a task has its own token", ErrRefused)
		case m.options.Girder.URL == "" || m.options.Girder.KeyFile == "":
			return "", fmt.Errorf("%w: girder.machine_key: this machine has no API key of Girder; its admin can give it one with girder_url and girder_key_file in worker.cfg", ErrRefused)
		case g.URL != m.options.Girder.URL:
			return "", fmt.Errorf("%w: girder.machine_key: the machine's API key is for %s and goes to no other server", ErrRefused, m.options.Girder.URL)
		case len(g.Session) > 0 || len(secrets.Headers[g.Name]) > 0 || len(secrets.Proxies[g.Name]) > 0:
			return "", fmt.Errorf("%w: girder.session: the machine's API key goes to its server without proxies and settings of a job", ErrRefused)
		}
	}
	if !asked {
		return "", nil
	}
	// Read for each attempt, so that a new key counts at once.
	key, err := policy.ReadGirderKey(m.options.Girder.KeyFile)
	if err != nil {
		return "", fmt.Errorf("%w: cannot use the machine's API key of Girder: %w", ErrRefused, err)
	}
	return key, nil
}
