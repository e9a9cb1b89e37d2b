package runner

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"girderworker/transforms/girder"
)

func TestReach(t *testing.T) {
	for _, c := range []struct {
		transfers string // by spaces
		host, to  string
		says      string // "" passes
	}{
		{"*", "girder.lab", "192.0.2.1:443", ""},
		{"*", "girder.lab", "[2001:db8::1]:443", ""},
		{"*", "127.0.0.1", "127.0.0.1:80", "an address of this machine"},
		{"*", "127.9.9.9", "127.9.9.9:80", "an address of this machine"},
		{"*", "[::1]", "[::1]:80", "an address of this machine"},
		{"*", "0.0.0.0", "0.0.0.0:80", "an address of this machine"},
		{"*", "rebound.lab", "127.0.0.1:80", "an address of this machine"},
		{"* local", "127.0.0.1", "127.0.0.1:80", ""},
		{"local", "girder.lab", "192.0.2.1:443", "girder.lab (192.0.2.1:443) is not among transfers"},
		{"", "girder.lab", "192.0.2.1:443", "is not among transfers"},
		{"* 127.0.0.1:9000", "127.0.0.1", "127.0.0.1:9000", ""},
		{"* 127.0.0.1:9000", "127.0.0.1", "127.0.0.1:9001", "an address of this machine"},
		{"girder.lab", "GIRDER.lab.", "127.0.0.1:8080", ""}, // it is the admin who says so
		{"*.lab:443", "girder.lab", "192.0.2.1:443", ""},
		{"*.lab:443", "girder.lab", "192.0.2.1:80", "is not among transfers"},
		{"10.0.0.0/8", "x", "10.1.2.3:80", ""},
		{"10.0.0.0/8", "x", "11.1.2.3:80", "is not among transfers"},
	} {
		r, err := newReach(append([]string{}, strings.Fields(c.transfers)...))
		if err != nil {
			t.Fatal(err)
		}
		err = r.judge(c.host, netip.MustParseAddrPort(c.to))
		if (err == nil) != (c.says == "") || err != nil && (!errors.Is(err, girder.ErrAddress) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%q: %s at %s: %v", c.transfers, c.host, c.to, err)
		}
	}
	if _, err := newReach([]string{"a b"}); err == nil {
		t.Error("what is no destination is one")
	}
}

// hidden is a service of this machine that nobody may reach; it counts who does.
func hidden(t *testing.T) (address string, calls *atomic.Int64) {
	t.Helper()
	calls = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		_, _ = io.WriteString(w, "secret of the machine")
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), calls
}

// rebound has every name lead to one address and then to another.
func rebound(t *testing.T, first, then string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var asked atomic.Int64
	go func() {
		defer close(done)
		buffer := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buffer[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response = true
			q := m.Questions[0]
			if q.Type == dnsmessage.TypeA {
				address := then
				if asked.Add(1) == 1 {
					address = first
				}
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
				}}
			}
			answer, err := m.Pack()
			if err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		<-done
	})
}

// TestHostileTargets: what a message names on this machine is not connected to, however
// it gets there; the task's own Girder is.
func TestHostileTargets(t *testing.T) {
	secret, calls := hidden(t)
	_, port, _ := net.SplitHostPort(secret)
	var location atomic.Value
	location.Store("")
	own := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to := location.Load().(string); to != "" {
			http.Redirect(w, r, to, http.StatusFound)
			return
		}
		_, _ = io.WriteString(w, `{"_id": "`+strings.Repeat("0", 24)+`", "name": "f", "itemId": "`+strings.Repeat("0", 24)+`"}`)
	}))
	t.Cleanup(own.Close)
	r, err := newReach([]string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	file := func(api string, isOwn bool, s girder.Session) error {
		s.Reach = r.guard(isOwn)
		c, err := girder.New(girder.Config{API: api, Session: s, Retry: girder.Retry{Attempts: 1}})
		if err != nil {
			return err
		}
		_, err = c.File(t.Context(), strings.Repeat("0", 24))
		return err
	}
	if err := file(own.URL+"/api/v1", true, girder.Session{}); err != nil {
		t.Errorf("the task's own Girder on this machine: %v", err)
	}
	if err := file(own.URL+"/api/v1", false, girder.Session{}); !errors.Is(err, girder.ErrAddress) {
		t.Errorf("another Girder on this machine: %v", err)
	}
	tried := map[string]func() error{
		"a server":       func() error { return file("http://"+secret+"/api/v1", false, girder.Session{}) },
		"its name":       func() error { return file("http://localhost:"+port+"/api/v1", false, girder.Session{}) },
		"its other name": func() error { return file("http://[::ffff:127.0.0.1]:"+port+"/api/v1", false, girder.Session{}) },
		"no address":     func() error { return file("http://0.0.0.0:"+port+"/api/v1", false, girder.Session{}) },
		"a stream": func() error {
			return girder.PostStream(t.Context(), girder.Session{Reach: r.guard(false)}, "http://"+secret+"/", nil, io.NopCloser(strings.NewReader("x")))
		},
		"a proxy": func() error {
			return file("http://girder.test/api/v1", false, girder.Session{Proxies: map[string]string{"http": secret}})
		},
		"a proxy of the own server": func() error {
			return file(own.URL+"/api/v1", true, girder.Session{Proxies: map[string]string{"http": secret}})
		},
		"a redirect of the own server": func() error {
			location.Store("http://" + secret + "/")
			defer location.Store("")
			return file(own.URL+"/api/v1", true, girder.Session{})
		},
		"a redirect to its name": func() error {
			location.Store("http://localhost:" + port + "/")
			defer location.Store("")
			return file(own.URL+"/api/v1", true, girder.Session{})
		},
		"a redirect to the metadata": func() error {
			location.Store("http://169.254.169.254/latest/meta-data/")
			defer location.Store("")
			return file(own.URL+"/api/v1", true, girder.Session{})
		},
		"the metadata of its own server": func() error { return file("http://169.254.169.254/api/v1", true, girder.Session{}) },
	}
	refused := 0
	for name, try := range tried {
		if err := try(); err == nil || !errors.Is(err, girder.ErrAddress) && !errors.Is(err, girder.ErrRedirect) {
			t.Errorf("%s: %v", name, err)
		} else {
			refused++
		}
	}
	// A name that leads elsewhere when it is looked at and here when it is used: it is
	// judged by what it leads to when it is used.
	rebound(t, "192.0.2.1", "127.0.0.1")
	if addresses, err := net.DefaultResolver.LookupHost(t.Context(), "girder.lab.example"); err != nil || addresses[0] != "192.0.2.1" {
		t.Fatalf("%v, %v", addresses, err)
	}
	if err := file("http://girder.lab.example:"+port+"/api/v1", false, girder.Session{}); !errors.Is(err, girder.ErrAddress) || !strings.Contains(err.Error(), "an address of this machine") {
		t.Errorf("a name that was bound anew: %v", err)
	} else {
		refused++
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("it was reached %d times", n)
	}
	t.Logf("tried %d, refused %d", len(tried)+1, refused)
}
