package monitor

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// free checks that nobody else has an id of the range: no user, no group, and
// no range that other container programs give out. etc is /etc.
func (r IDRange) free(etc string) error {
	for _, file := range []struct {
		name        string
		first, size int // fields; size -1 is a single id
	}{
		{"passwd", 2, -1},
		{"group", 2, -1},
		{"subuid", 1, 2},
		{"subgid", 1, 2},
	} {
		path := filepath.Join(etc, file.name)
		f, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("cannot check the id range: %w", err)
		}
		s := bufio.NewScanner(f)
		for s.Scan() {
			fields := strings.Split(s.Text(), ":")
			if len(fields) <= max(file.first, file.size) {
				continue
			}
			first, err := strconv.Atoi(fields[file.first])
			size := 1
			if err == nil && file.size >= 0 {
				size, err = strconv.Atoi(fields[file.size])
			}
			if err != nil {
				continue
			}
			if first < r.Base+r.Size && r.Base < first+size {
				f.Close()
				return fmt.Errorf("cannot use the id range %d to %d: %s gives %s an id of it; choose another with id_base and id_size",
					r.Base, r.Base+r.Size-1, path, fields[0])
			}
		}
		err = s.Err()
		f.Close()
		if err != nil {
			return fmt.Errorf("cannot check the id range: %w", err)
		}
	}
	return nil
}
