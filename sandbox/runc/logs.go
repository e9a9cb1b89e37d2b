//go:build linux && cgo && seccomp

package runc

import (
	"log/slog"
	"strings"

	"github.com/sirupsen/logrus"
)

// forwardLogs makes libcontainer's own log go to l. It logs to the process's
// standard logger of a library, there is no other way.
func forwardLogs(l *slog.Logger) {
	logrus.SetFormatter(bareFormatter{})
	logrus.SetOutput(logWriter{l})
}

// bareFormatter leaves time and level to slog.
type bareFormatter struct{}

func (bareFormatter) Format(e *logrus.Entry) ([]byte, error) { return []byte(e.Message), nil }

// logWriter logs each write, which logrus makes one a message.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.Warn("libcontainer: " + strings.TrimSpace(string(p)))
	return len(p), nil
}
