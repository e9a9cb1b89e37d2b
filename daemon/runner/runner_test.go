package runner

import (
	"testing"

	"girderworker/daemon/attempt"
)

func TestExitCode(t *testing.T) {
	w := newWorld(t, sh("echo out; echo err >&2; exit 3")...)
	exit := w.run()
	w.want(exit, attempt.OutcomeExited, 3, "")
	if exit.Container == nil || exit.Container.Started.IsZero() || exit.Container.Usage.CPU == 0 {
		t.Errorf("container's end is %+v", exit.Container)
	}
	if got := w.log(); got != "out\n[2:err\n]" {
		t.Errorf("log is %q", got)
	}
	if exit.LogBytes != 8 {
		t.Errorf("log of %d bytes", exit.LogBytes)
	}
	var stages []string
	for _, e := range w.events() {
		if e.Stage != "" {
			stages = append(stages, e.Stage)
		}
	}
	if len(stages) != 3 || stages[0] != stagePreparing || stages[1] != stageRunning || stages[2] != stageFinishing {
		t.Errorf("stages are %v", stages)
	}
}
