package girder

import (
	"errors"
	"io"
	"strings"
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

// A message says where Girder is and where a stream is posted to; neither is where
// a cloud tells the machine its secrets.
func TestNobodyIsThere(t *testing.T) {
	for address, refused := range map[string]bool{
		"169.254.169.254:80": true, "[::ffff:169.254.169.254]:80": true, "[fe80::1%lo]:80": true, "[fd00:ec2::254]:80": true,
		"100.100.100.200:80": true, "224.0.0.1:80": true, "[ff02::1]:80": true,
		"127.0.0.1:8080": false, "192.0.2.1:80": false, "[2001:db8::1]:443": false,
	} {
		if err := refuseNobody("tcp", address, nil); errors.Is(err, ErrAddress) != refused {
			t.Errorf("%s: got %v", address, err)
		}
	}
	for _, to := range []string{"http://169.254.169.254/latest/api/token", "http://[::ffff:a9fe:a9fe]/", "http://[fd00:ec2::254]/"} {
		if err := PostStream(t.Context(), Session{}, to, nil, io.NopCloser(strings.NewReader("x"))); !errors.Is(err, ErrAddress) {
			t.Errorf("a stream to %s: %v", to, err)
		}
		c, err := New(Config{API: to})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.File(t.Context(), strings.Repeat("0", 24)); !errors.Is(err, ErrAddress) {
			t.Errorf("a file of %s: %v", to, err)
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
