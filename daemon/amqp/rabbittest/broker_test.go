package rabbittest

import (
	"os"
	"testing"
)

var broker Broker

func TestMain(m *testing.M) {
	code := m.Run()
	broker.Stop()
	os.Exit(code)
}

func TestBroker(t *testing.T) {
	vhost := broker.Vhost(t)
	if got := broker.Eval(t, "1 + 1."); got != "2" {
		t.Errorf("Eval: %q", got)
	}
	if got := broker.Connections(t, vhost); len(got) != 0 {
		t.Errorf("connections %q", got)
	}
	broker.User(t, "u", "p", vhost, "", "", "")
	broker.Restart(t, nil)
	broker.Alarm(t, true)
	broker.Alarm(t, false)
	broker.Kill()
	broker.Use(t)
	broker.CloseConnections(t, vhost)
}
