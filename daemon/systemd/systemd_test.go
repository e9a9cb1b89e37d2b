package systemd

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Notify(Ready, Status("two\nlines")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(buf[:n]); got != "READY=1\nSTATUS=two lines" {
		t.Errorf("sent %q", got)
	}
}

func TestNotifyWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify(Ready); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}

func TestWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", "")
	if every, err := Watchdog(); err != nil || every.Seconds() != 3 {
		t.Errorf("every %v, %v", every, err)
	}
	t.Setenv("WATCHDOG_PID", "1")
	if every, err := Watchdog(); err != nil || every != 0 {
		t.Errorf("another process's watchdog: %v, %v", every, err)
	}
	t.Setenv("WATCHDOG_PID", "")
	t.Setenv("WATCHDOG_USEC", "soon")
	if _, err := Watchdog(); err == nil {
		t.Error("a bad interval was taken")
	}
}

func TestCredential(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if v, err := Credential("broker"); v != "" || err != nil {
		t.Errorf("without a service manager: %q, %v", v, err)
	}
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if v, err := Credential("broker"); v != "" || err != nil {
		t.Errorf("none of that name: %q, %v", v, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "broker"), []byte("amqp://u:p@h/\n"), 0o400); err != nil {
		t.Fatal(err)
	}
	if v, err := Credential("broker"); v != "amqp://u:p@h/" || err != nil {
		t.Errorf("read %q, %v", v, err)
	}
	if _, err := Credential("."); err == nil {
		t.Error("a directory was taken for a credential")
	}
}

func TestSliceCgroup(t *testing.T) {
	for slice, want := range map[string]string{
		"system.slice":        "/system.slice",
		"girder-worker.slice": "/girder.slice/girder-worker.slice",
	} {
		if got := SliceCgroup(slice); got != want {
			t.Errorf("%s is %s, want %s", slice, got, want)
		}
	}
}
