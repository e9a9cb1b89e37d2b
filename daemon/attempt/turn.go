package attempt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// UploadTurns is how many attempts of one daemon upload at a time, beside one of
// each owner. The others wait for their turn without a process.
const UploadTurns = 16

// TurnOwner is whose the attempts are that have a turn of their own among them, so
// that nobody who keeps all others, with a server that never answers, holds up
// anybody else. What came from the message queue has one owner.
func (i Identity) TurnOwner() string {
	if i.Source == "amqp" {
		return "queue"
	}
	return "user-" + strconv.Itoa(i.UID)
}

// TakeTurn takes the owner's turn, or one of those of all, in a state directory,
// until the file is closed or its process ends. It is nil where all are taken.
func TakeTurn(state, owner string) (*os.File, error) {
	dir := filepath.Join(state, "uploads")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot take a turn to upload: %w", err)
	}
	for n := -1; n < UploadTurns; n++ {
		name := owner
		if n >= 0 {
			name = strconv.Itoa(n)
		}
		f, err := openNoFollow(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
		if err == nil {
			if err = flock(f); err == nil {
				return f, nil
			}
			f.Close()
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot take a turn to upload: %w", err)
		}
	}
	return nil, nil
}
