package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"girderworker/daemon/apitype"
)

// What a person wants to know when something does not work is told, each on a line.
func TestStatusTellsWhatIsWrong(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	st := apitype.Status{
		Version: "1", OldestQueued: at, Metrics: "127.0.0.1:9811",
		Broker:  &apitype.Broker{State: "degraded", Since: at, Accepted: 7, Queues: []apitype.BrokerQueue{{Name: "celery"}}},
		Servers: []apitype.Girder{{Address: "https://a\x1b[31m", Problem: "p", Next: at}, {Address: "https://b"}},
		Reports: apitype.Reports{Girder: 2, Oldest: at, GaveUp: 1},
		Disk:    apitype.Disk{Size: 100 << 30, Free: 1 << 30}, Images: apitype.ImageTotals{Count: 3, Bytes: 1 << 30},
		Degraded: []string{"nothing listens at lab:5672"}, Warnings: []string{"a word"},
	}
	var out bytes.Buffer
	a := &app{Process: Process{Stdout: &out}}
	if err := a.printStatus(&st); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		"running; degraded, see below", "waits since", "queues celery; 7 tasks taken, 0 refused", "https://b answers", "does not answer, tried again",
		"of 2 jobs wait", "given up for 1 jobs", "free of", "127.0.0.1:9811", "\ndegraded: nothing listens at lab:5672\n", "\nwarning: a word\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it lacks %q", want)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("an address reached the terminal as it is")
	}
	if t.Failed() {
		t.Log(text)
	}
}
