package attempt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// UploadTurns is how many attempts of one daemon upload at a time. The others
// wait for their turn without a process.
const UploadTurns = 16

// TakeTurn takes one of the turns of a state directory until the file is closed,
// or its process ends. It is nil where all are taken.
func TakeTurn(state string) (*os.File, error) {
	dir := filepath.Join(state, "uploads")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot take a turn to upload: %w", err)
	}
	for n := range UploadTurns {
		f, err := openNoFollow(filepath.Join(dir, strconv.Itoa(n)), os.O_RDWR|os.O_CREATE, 0o600)
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
