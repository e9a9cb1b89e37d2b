package peer

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLogins: the first line of a user counts, and a file that has changed is read again.
func TestLogins(t *testing.T) {
	passwd := filepath.Join(t.TempDir(), "passwd")
	var l Logins
	want := func(uid int, name string) {
		t.Helper()
		if got := l.in(passwd, uid); got != name {
			t.Errorf("user %d is %q, want %q", uid, got, name)
		}
	}
	want(7, "")
	for _, step := range []struct{ text, name string }{
		{"root:x:0:0::/:/bin/sh\nada:x:7:7::/home/ada:/bin/sh\nalso:x:7:7::/:\n+@netgroup\n", "ada"},
		{"root:x:0:0::/:/bin/sh\neve:x:7:7::/home/eve:/bin/sh\nalso:x:7:7::/:\n+@netgroup\n", "eve"},
		{"root:x:0:0::/:/bin/sh\n", ""},
	} {
		// As those who change it do.
		if err := os.WriteFile(passwd+"+", []byte(step.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(passwd+"+", passwd); err != nil {
			t.Fatal(err)
		}
		want(7, step.name)
		want(0, "root")
		want(8, "")
	}
	if got := l.Of(0); got != "root" {
		t.Errorf("this machine's user 0 is %q", got)
	}
}
