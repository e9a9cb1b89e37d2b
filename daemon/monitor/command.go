package monitor

import (
	"fmt"
	"strings"

	"girderworker/daemon/plugin"
	"girderworker/daemon/policy"
	"girderworker/transforms"
)

// mayRun refuses a command that no task file has, as they are now: only root writes
// them, and what the front says of them counts for nothing. A plan without is good.
func (m *Monitor) mayRun(p *transforms.Plan) error {
	if len(p.Command) == 0 {
		return nil
	}
	if err := p.CheckCommand(); err != nil {
		return err
	}
	// Whoever can replace a directory above them writes them, too.
	if err := policy.RootsAlone(m.options.TasksDir); err != nil {
		return err
	}
	if has, err := plugin.HasCommand(m.options.TasksDir, p.Command); err != nil {
		return err
	} else if !has {
		return fmt.Errorf("%s is what no task file in %s says (any more)", strings.Join(p.Command, " "), m.options.TasksDir)
	}
	return nil
}
