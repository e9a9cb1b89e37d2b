package systemd

import (
	"net"
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
