package celerytest

import (
	"encoding/json"
	"os"
	"testing"

	"girderworker/daemon/amqp/rabbittest"
)

var broker rabbittest.Broker

func TestMain(m *testing.M) {
	code := m.Run()
	broker.Stop()
	os.Exit(code)
}

// What the client sends is in the queue, whichever protocol it speaks.
func TestClient(t *testing.T) {
	vhost := broker.Vhost(t)
	c := New(t, "amqp://guest:guest@"+broker.Addr()+"/"+vhost)
	said := c.Run(t, `
app.conf.broker_transport_options = {'confirm_publish': True}
r = app.send_task('a.task', args=[1], kwargs={'x': None})
app.conf.task_protocol = 1
app.send_task('b.task', queue='lab')
say(r.id)
say(app.control.inspect(timeout=0.2).ping())
`)
	var id string
	if len(said) != 2 || json.Unmarshal(said[0], &id) != nil || id == "" || string(said[1]) != "null\n" {
		t.Errorf("said %q", said)
	}
	for _, queue := range []string{"celery", "lab"} {
		if ready, unacked := broker.Depth(t, vhost, queue); ready != 1 || unacked != 0 {
			t.Errorf("%s: %d ready, %d unacked", queue, ready, unacked)
		}
	}
	if _, err := c.run(t.Context(), "raise SystemExit(3)"); err == nil {
		t.Error("a script that failed")
	}
}
