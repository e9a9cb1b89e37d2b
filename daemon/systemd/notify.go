// Package systemd is what the daemon asks of the service manager: to be told
// when it is ready, well or stopping, the sockets that were opened for it, and
// transient services that PID 1 runs. Without systemd, all of it but the
// services does nothing.
package systemd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// The messages of sd_notify(3) that the daemon sends.
const (
	Ready    = daemon.SdNotifyReady
	Stopping = daemon.SdNotifyStopping
	Alive    = daemon.SdNotifyWatchdog
)

// Status is the message that `systemctl status` shows, one line.
func Status(line string) string {
	return "STATUS=" + strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, line)
}

// Reloading is the message that begins a reload; Ready ends it. Services of
// Type=notify-reload need the time in it.
func Reloading() string {
	var ts unix.Timespec
	// The clock is always there on Linux; a zero would only delay the reload's end.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, ts.Nano()/1000)
}

// Notify sends messages to the service manager. Only the main process of a
// service is listened to.
func Notify(messages ...string) error {
	if _, err := daemon.SdNotify(false, strings.Join(messages, "\n")); err != nil {
		return fmt.Errorf("cannot notify systemd: %w", err)
	}
	return nil
}

// Watchdog is how often the service manager wants to hear [Alive]; 0 is never.
func Watchdog() (time.Duration, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("cannot read the watchdog's interval: %w", err)
	}
	return every, nil
}

// Sockets are the descriptors that the service manager opened for this process,
// by FileDescriptorName=. They are the caller's. The environment forgets them,
// so that no child takes them for its own.
func Sockets() map[string][]*os.File { return activation.FilesWithNames() }

// maxCredential is systemd's own bound.
const maxCredential = 1 << 20

// Credential is what the service manager keeps for this process under a name,
// without white space around it; empty where there is none, see
// systemd.exec(5), LoadCredential=.
func Credential(name string) (string, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", nil
	}
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the credential %s: %w", name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCredential))
	if err != nil {
		return "", fmt.Errorf("cannot read the credential %s: %w", name, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// ToJournal tells whether stderr is a stream into the journal, which knows the
// time of every line itself.
func ToJournal() bool { return os.Getenv("JOURNAL_STREAM") != "" }

// WithoutTime is a ReplaceAttr for slog that drops the time of a record.
func WithoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
