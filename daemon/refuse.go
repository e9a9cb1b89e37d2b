package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"girderworker/daemon/apitype"
	"girderworker/daemon/config"
	"girderworker/daemon/policy"
	"girderworker/daemon/systemd"
)

// ExitConfig is what a daemon ends with whose configuration or policy is bad:
// EX_CONFIG of sysexits.h. It is none that Go's runtime ends with (2, for a
// panic), because the service manager does not start the daemon again after it.
const ExitConfig = 78

// isConfiguration tells errors that last until somebody corrects a file.
func isConfiguration(err error) bool {
	var options config.Invalid
	var rules *policy.Invalid
	return errors.As(err, &options) || errors.As(err, &rules)
}

// tellManager has `systemctl status` say which option is wrong, and everyone
// who has connected to the service manager's socket. Left there, their
// connections would start the daemon again at once, for as long as they wait.
func tellManager(err error) {
	problems := strings.Split(config.MaskURLs(err.Error()), "\n")
	text := problems[0]
	if more := len(problems) - 1; more > 0 {
		text = fmt.Sprintf("%s (and %d more)", text, more)
	}
	// What ends the daemon is told by it in any case.
	_ = systemd.Notify(systemd.Status("Bad configuration: " + text))
	answer := apitype.Failure{Error: apitype.Error{
		Kind:    apitype.KindUnavailable,
		Message: "the daemon cannot start, its configuration is bad: " + text + "; `systemctl status girder-worker` says more to the machine's admin",
	}}
	for _, files := range systemd.Sockets() {
		for _, f := range files {
			turnAway(f, answer)
			f.Close()
		}
	}
}

// turnAway answers all who wait at a listening socket, without reading what they ask.
func turnAway(listener *os.File, answer apitype.Failure) {
	body, err := json.Marshal(answer)
	if err != nil {
		return
	}
	response := fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
	fd := int(listener.Fd())
	if unix.SetNonblock(fd, true) != nil {
		return
	}
	for {
		conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != nil {
			return // nobody is left; or the service manager's limit on starts has to do
		}
		// The buffer of a new connection has room for it. Who has left needs none.
		_, _ = unix.Write(conn, response)
		unix.Close(conn)
	}
}
