package network

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"girderworker/sandbox"
)

func mustRules(t *testing.T, n sandbox.Network) *rules {
	t.Helper()
	r, err := newRules(n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestDecide: what is closed stays closed, whatever is allowed.
func TestDecide(t *testing.T) {
	open := mustRules(t, sandbox.Network{Host: []string{"localhost:8080", "girder.lab:443", "[::1]:99", "192.0.2.7:80"}})
	wide := mustRules(t, sandbox.Network{Narrow: true, Allow: []string{"0.0.0.0/0", "::/0"}})
	narrow := mustRules(t, sandbox.Network{Narrow: true, Allow: []string{"192.0.2.0/24:80-90", "girder.example", "*.data.example:443"}})
	narrow.learn("girder.example", []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("169.254.169.254")})
	narrow.learn("a.data.example", []netip.Addr{netip.MustParseAddr("203.0.113.6")})
	narrow.learn("other.example", []netip.Addr{netip.MustParseAddr("203.0.113.7")})
	none := mustRules(t, sandbox.Network{Narrow: true})

	for _, c := range []struct {
		rules *rules
		to    string
		want  string // the target, or empty for refused
	}{
		{open, "203.0.113.5:80", "203.0.113.5:80"},
		{open, "[2001:db8::1]:80", "[2001:db8::1]:80"},
		{open, "[::ffff:203.0.113.5]:80", "203.0.113.5:80"},
		{open, "198.18.0.1:8080", "localhost:8080"},
		{open, "[fd67:6972:6465:7200::1]:8080", "localhost:8080"},
		{open, "198.18.0.1:99", "[::1]:99"},
		{open, "198.18.0.3:443", "girder.lab:443"},
		{open, "198.18.0.3:444", ""},
		{open, "198.18.0.1:8081", ""},
		{open, "192.0.2.7:80", "192.0.2.7:80"},
		{narrow, "192.0.2.1:80", "192.0.2.1:80"},
		{narrow, "192.0.2.1:91", ""},
		{narrow, "203.0.113.5:1", "203.0.113.5:1"},
		{narrow, "203.0.113.6:443", "203.0.113.6:443"},
		{narrow, "203.0.113.6:80", ""},
		{narrow, "203.0.113.7:443", ""},
		{narrow, "127.0.0.1:80", ""},
		{narrow, "169.254.169.254:80", ""},
		{none, "203.0.113.5:80", ""},
	} {
		if got, why := c.rules.decide(netip.MustParseAddrPort(c.to)); got != c.want || (got == "") == (why == "") {
			t.Errorf("%s: got %q, %q, want %q", c.to, got, why, c.want)
		}
	}
	own := hostAddresses(t)
	tried := 0
	for _, to := range append(own,
		"127.0.0.1", "127.0.0.53", "127.9.9.9", "0.0.0.0", "0.1.2.3", "::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0.0.0.0",
		"169.254.169.254", "169.254.1.1", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192",
		"224.0.0.1", "239.255.255.250", "255.255.255.255", "240.0.0.1", "ff02::1", "64:ff9b::7f00:1", "2002:7f00:1::", "198.18.0.1", "198.18.0.77") {
		for name, r := range map[string]*rules{"open": open, "wide": wide} {
			tried++
			if got, why := r.decide(netip.AddrPortFrom(netip.MustParseAddr(to), 22)); got != "" || why == "" {
				t.Errorf("%s: %s is let through to %q", name, to, got)
			}
		}
	}
	t.Logf("tried %d, all refused", tried)
}

func TestLearnedIsBounded(t *testing.T) {
	r := mustRules(t, sandbox.Network{Narrow: true, Allow: []string{"*.example"}})
	addr := netip.MustParseAddr("10.0.0.1")
	for range maxLearned + 10 {
		r.learn("a.example", []netip.Addr{addr})
		addr = addr.Next()
	}
	if n := len(r.learned); n != maxLearned {
		t.Errorf("%d addresses are remembered", n)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	f := &hostFiles{resolv: filepath.Join(dir, "resolv.conf"), hosts: filepath.Join(dir, "hosts")}
	for name, text := range map[string]string{
		f.resolv: "# x\nsearch lab\nnameserver 127.0.0.53\nnameserver bad\nnameserver ::1\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n",
		f.hosts:  "127.0.0.1 localhost\n127.0.1.1 me.lab\n10.1.2.3 Girder.Lab girder # x\n10.1.2.4 girder\n::1 six\nfd00::5 five\nx y\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.servers(); len(got) != 3 || got[0].String() != "127.0.0.53:53" || got[2].String() != "10.0.0.1:53" {
		t.Errorf("servers %v", got)
	}
	for name, want := range map[string]string{"girder.lab": "[10.1.2.3]", "girder": "[10.1.2.3 10.1.2.4]", "five": "[fd00::5]", "me.lab": "", "localhost": "", "six": ""} {
		got, ok := f.lookUp(name)
		text := ""
		if ok {
			text = strings.Join(strings.Fields(strings.ReplaceAll(sprint(got), ",", " ")), " ")
		}
		if text != want {
			t.Errorf("%s is %s, want %s", name, text, want)
		}
	}
	// A machine without either has nobody to ask, and says so at once.
	bare := &hostFiles{resolv: filepath.Join(dir, "no"), hosts: filepath.Join(dir, "no")}
	if got := bare.servers(); len(got) != 0 {
		t.Errorf("servers %v", got)
	}
}

func sprint(addresses []netip.Addr) string {
	var s []string
	for _, a := range addresses {
		s = append(s, a.String())
	}
	return "[" + strings.Join(s, " ") + "]"
}

// hostAddresses are this machine's own.
func hostAddresses(t *testing.T) (own []string) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().WithZone("").String())
		}
	}
	return own
}

// FuzzAnswer: a container may ask anything.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"host.docker.internal.", "girder.lab.", "x.example."} {
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 7, RecursionDesired: true})
		if b.StartQuestions() != nil || b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}) != nil {
			f.Fatal("cannot build a question")
		}
		m, err := b.Finish()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m)
	}
	rules, err := newRules(sandbox.Network{Narrow: true, Host: []string{"girder.lab:1"}})
	if err != nil {
		f.Fatal(err)
	}
	s := &server{rules: rules, counts: newCounts(), ctx: f.Context()}
	r := newResolver(s, "/nonexistent", "/nonexistent")
	f.Fuzz(func(t *testing.T, question []byte) {
		answer := r.answer(t.Context(), question, false)
		if answer == nil {
			return
		}
		var p dnsmessage.Parser
		head, err := p.Start(answer)
		if err != nil || !head.Response || head.ID != uint16(question[0])<<8|uint16(question[1]) {
			t.Fatalf("answer %x: %+v, %v", answer, head, err)
		}
		if slices.Contains([]dnsmessage.RCode{dnsmessage.RCodeSuccess, dnsmessage.RCodeRefused, dnsmessage.RCodeFormatError}, head.RCode) {
			return
		}
		t.Errorf("code %v", head.RCode)
	})
}
