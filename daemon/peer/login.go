package peer

import (
	"bytes"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Logins are the login names of /etc/passwd, for display. A static binary has nothing
// else, and a directory service must not be able to stall a socket. The file is read
// again when it has changed. The zero value is ready, and safe for concurrent use.
type Logins struct {
	mu   sync.Mutex
	file unix.Stat_t // as it was when it was read
	name map[string]string
}

// Of is a user's name; "" where there is none.
func (l *Logins) Of(uid int) string { return l.in("/etc/passwd", uid) }

func (l *Logins) in(passwd string, uid int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var now unix.Stat_t
	if err := unix.Stat(passwd, &now); err != nil {
		return ""
	}
	if l.name == nil || now.Ino != l.file.Ino || now.Size != l.file.Size || now.Ctim != l.file.Ctim {
		text, err := os.ReadFile(passwd)
		if err != nil {
			return ""
		}
		l.file, l.name = now, map[string]string{}
		for line := range bytes.Lines(text) {
			fields := bytes.SplitN(line, []byte(":"), 4)
			if len(fields) == 4 && l.name[string(fields[2])] == "" {
				l.name[string(fields[2])] = string(fields[0])
			}
		}
	}
	return l.name[strconv.Itoa(uid)]
}
