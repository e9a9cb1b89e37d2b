package monitor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/cgroup"
)

// A launcher executes runners so that they outlive the daemon, and ends what
// they leave. All its methods are safe for concurrent use.
type launcher interface {
	// named is the record, but for the process, of the runner of that name, which no
	// other has had.
	named(name string) record
	// older is the unit of an attempt whose record tells of none.
	older(d attempt.Dir) string
	// spawn executes a runner that waits for an attempt on its socket, with arguments
	// besides. After an error no process is left.
	spawn(ctx context.Context, rec record, args []string, socket *os.File) (*process, error)
	// describe has those who look at the machine's services told what the runner does.
	describe(ctx context.Context, rec record, description string) error
	// find returns a runner whose process the record does not tell; nil is none.
	find(ctx context.Context, rec record) (*process, error)
	// end ends what is left of a runner besides its container, after its own end.
	end(ctx context.Context, rec record) error
	// parent is the cgroup that is the parent of those of a runner's containers.
	parent(rec record) string
	// close is the end of the launcher. Runners live on.
	close()
}

// record is what the lock file says about its holder. The lock itself, not the
// record, tells whether there is one.
type record struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"`
	// Cgroup is the runner's own, on the v2 hierarchy; Unit its service.
	Cgroup string `json:"cgroup,omitempty"`
	Unit   string `json:"unit,omitempty"`
}

func recordPath(d attempt.Dir) string { return filepath.Join(d.Path(), "lock") }

// recordSize is more than a record needs. What is left is filled with blanks, so that
// nothing of a longer one before it is left.
const recordSize = 256

func writeRecord(lock io.WriterAt, rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("cannot encode a record: %w", err)
	}
	data = append(data, bytes.Repeat([]byte{' '}, max(0, recordSize-len(data)))...)
	if _, err := lock.WriteAt(data, 0); err != nil {
		return fmt.Errorf("cannot record the runner: %w", err)
	}
	return nil
}

// readRecord returns the zero record when there is none, or a torn one.
func readRecord(d attempt.Dir) (rec record, err error) {
	f, err := os.Open(recordPath(d))
	if errors.Is(err, os.ErrNotExist) {
		return record{}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("cannot read the record of %s: %w", d.ID(), err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return record{}, fmt.Errorf("cannot read the record of %s: %w", d.ID(), err)
	}
	if json.Unmarshal(data, &rec) != nil {
		return record{}, nil
	}
	return rec, nil
}

// endCgroup kills what is in a cgroup and removes it. Empty is none.
func endCgroup(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	g, err := cgroup.At(path)
	if err != nil {
		return err
	}
	if !g.Exists() {
		return nil
	}
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return g.Remove()
}
