package daemon_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNetworkPolicy: what policy lets through is what a job reaches of this
// machine, and of elsewhere what policy names.
func TestNetworkPolicy(t *testing.T) {
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	girder, other := httptest.NewServer(hello), httptest.NewServer(hello)
	defer girder.Close()
	defer other.Close()
	port := func(s *httptest.Server) string {
		_, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	w := newWorld(t)
	get := "wget -q -O - http://host.docker.internal:"
	script := get + port(girder) + " || echo no girder; " + get + port(other) + " || echo no other; nslookup elsewhere.example 2>&1 | grep -q REFUSED && echo no name"
	if job := w.wait(w.submit(script, "network", "private").ID); !strings.Contains(w.log(job.ID), "no girder") || !strings.Contains(w.log(job.ID), "no other") {
		t.Errorf("without a policy: %s", w.log(job.ID))
	}
	w.stop()
	text := fmt.Sprintf("[socket]\nservices = [\"localhost:%s\"]\nhosts = [\"data.example:443\"]\n", port(girder))
	file := filepath.Join(filepath.Dir(w.config), "policy.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	w.configure("policy_file = " + file)
	w.start()
	if job := w.wait(w.submit(script, "network", "private").ID); !strings.HasPrefix(w.log(job.ID), "hello") || !strings.Contains(w.log(job.ID), "no other") || !strings.Contains(w.log(job.ID), "no name") {
		t.Errorf("with a policy: %s", w.log(job.ID))
	}
}
