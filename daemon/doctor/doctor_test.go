package doctor

import (
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"testing"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

// TestConnecting: a daemon that was started just now is not looked at before it has
// found its broker, or what is wrong with it.
func TestConnecting(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	states := []string{"connecting", "connecting", "ready", "never asked"}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		st := apitype.Status{Broker: &apitype.Broker{State: states[0]}}
		states = states[1:]
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(st); err != nil {
			t.Error(err)
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-done })
	p := &patient{client: client.New(socket, 0)}
	defer p.client.Close()
	if st, err := p.ask(t.Context()); err != nil || st.Broker.State != "ready" {
		t.Errorf("status %+v, %v", st, err)
	}
}
