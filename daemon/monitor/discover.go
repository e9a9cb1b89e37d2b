package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"girderworker/daemon/attempt"
	"girderworker/daemon/policy"
)

// discoverCommand is the runner's DiscoverCommand.
const discoverCommand = "python-discover"

// discover has task packages imported in a process of their own, by a helper, which
// writes what they said into out. Nothing of it is looked at here.
func (m *Monitor) discover(ctx context.Context, d attempt.Discovery, out *os.File) error {
	if !slices.Contains(m.options.Interpreters, d.Interpreter) {
		return fmt.Errorf("%w: %q is no interpreter of girder_worker.python", ErrRefused, d.Interpreter)
	}
	if err := policy.CheckPython(d.Interpreter, d.Path); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	m.ahead.forget(d.Interpreter) // what it has imported may have changed
	d.UID = m.options.IDs.unprivileged()
	input, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("cannot encode a discovery: %w", err)
	}
	self := m.options.Self
	cmd := exec.CommandContext(ctx, self[0], append(self[1:len(self):len(self)], discoverCommand)...)
	cmd.Env = runnerEnvironment()
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot look for the tasks of %s: %w", d.Interpreter, err)
	}
	return nil
}

// Discover has the tasks of an interpreter told into out, as an
// [attempt.DiscoveryAnswer]. It may take a minute.
func (c *Client) Discover(ctx context.Context, d attempt.Discovery, out *os.File) error {
	_, err := c.call(ctx, request{Op: opDiscover, Discover: &d}, out)
	return err
}
