package girder

import (
	"errors"
	"testing"
)

func TestRefuseLocal(t *testing.T) {
	for address, refused := range map[string]bool{
		"127.0.0.1:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "169.254.169.254:80": true, "[fe80::1%lo]:80": true,
		"0.0.0.0:80": true, "224.0.0.1:80": true, "192.0.2.1:80": false, "10.0.0.1:443": false, "[2001:db8::1]:443": false,
	} {
		if err := refuseLocal("tcp", address, nil); errors.Is(err, ErrRedirect) != refused {
			t.Errorf("%s: got %v", address, err)
		}
	}
}

// A redirect from a server elsewhere must not reach this machine: the dialer is told
// by the transport, so the two are tried together.
func TestRedirectToThisMachine(t *testing.T) {
	c, err := New(Config{API: "http://girder.test/api/v1"})
	if err != nil {
		t.Fatal(err)
	}
	tr := c.http.Transport.(*transport)
	if _, err := tr.foreign.DialContext(t.Context(), "tcp", "127.0.0.1:1"); !errors.Is(err, ErrRedirect) {
		t.Errorf("got %v", err)
	}
}
