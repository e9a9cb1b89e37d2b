package runner

import (
	"os"
	"testing"

	"girderworker/daemon/attempt"
	"girderworker/sandbox"
	"girderworker/transforms"
)

// Whose end must be waited for, though all has been said.
func TestMayLeave(t *testing.T) {
	for name, c := range map[string]struct {
		change func(a *attemptRun)
		want   bool
	}{
		"nothing to wait for": {func(*attemptRun) {}, true},
		"uploads":             {func(a *attemptRun) { a.request.Plan.Hooks = make([]transforms.Hook, 1) }, false},
		"volumes":             {func(a *attemptRun) { a.made = make([]attempt.HostVolume, 1) }, false},
		"streams":             {func(a *attemptRun) { a.transfer = new(transfer) }, false},
		"a GPU":               {func(a *attemptRun) { a.request.Resources.GPUs = []string{"0"} }, false},
		"the host's ports":    {func(a *attemptRun) { a.request.Plan.Network = sandbox.NetworkHost }, false},
		"unused progress":     {func(a *attemptRun) { a.late = new(lateTransfer) }, true},
		"unused network":      {func(a *attemptRun) { a.network, _ = quietNetwork(t) }, true},
		"a packet on its way": {func(a *attemptRun) {
			var packets *os.File
			a.network, packets = quietNetwork(t)
			if _, err := packets.WriteString("packet"); err != nil {
				t.Fatal(err)
			}
		}, false},
		"a network in use": {func(a *attemptRun) {
			a.network, _ = quietNetwork(t)
			a.network.begun = true
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a := &attemptRun{request: new(attempt.Request)}
			c.change(a)
			if got := a.mayLeave(); got != c.want {
				t.Errorf("mayLeave = %v", got)
			}
		})
	}
}

// quietNetwork is one whose device has no packets but those that are written.
func quietNetwork(t *testing.T) (*privateNetwork, *os.File) {
	device, packets, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.Close(); packets.Close() })
	return &privateNetwork{tun: device, over: make(chan struct{})}, packets
}
