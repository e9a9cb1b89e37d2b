package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// ranges gives out the slices of the id range. Whoever has files that outlive
// their container keeps one for good, since those files may be of any id of it:
// a setuid one, too, which must never turn into somebody else's. The other slices
// are for jobs of the message queue that leave nothing on this machine; they go
// round, so that an id is nobody's for as long as possible.
//
// Owners get slices from the bottom of the range, others from its top.
type ranges struct {
	path string
	ids  IDRange

	mu     sync.Mutex
	owners map[string]int // slice, by owner
	busy   map[int]int    // live attempts, by slice
	last   int            // given out from the top
}

// rangesFile is ids.json.
type rangesFile struct {
	Version int `json:"version"`
	// Base is the range's first id when this was written. Slices of another
	// range are other ids.
	Base   int            `json:"base"`
	Owners map[string]int `json:"owners"`
}

// queueOwner has the slice of the message queue's jobs that write into
// directories of this machine: what they share is theirs.
const queueOwner = "amqp"

func userOwner(uid int) string { return strconv.Itoa(uid) }

func loadRanges(state string, ids IDRange) (*ranges, error) {
	r := &ranges{path: filepath.Join(state, "ids.json"), ids: ids, owners: map[string]int{}, busy: map[int]int{}, last: ids.slices()}
	data, err := os.ReadFile(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read whose ids are whose: %w", err)
	}
	var file rangesFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil || file.Version != 1 {
		return nil, fmt.Errorf("cannot read whose ids are whose: %s is damaged or of a newer release (%v); remove it only when files of ids from %d on are gone", r.path, err, ids.Base)
	}
	if file.Base != ids.Base {
		return r, nil
	}
	for owner, slice := range file.Owners {
		if slice < 0 || slice >= ids.slices() {
			return nil, fmt.Errorf("cannot use the id range: user %s has ids beyond its end; make id_size at least %d", owner, (slice+2)*sliceSize)
		}
		r.owners[owner] = slice
	}
	return r, nil
}

// take returns the slice for an attempt: its owner's, or for "" one that nobody
// else has. It is to be released.
func (r *ranges) take(owner string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	slice, ok := r.owners[owner]
	if !ok {
		var err error
		if slice, err = r.free(owner == ""); err != nil {
			return 0, err
		}
		if owner != "" {
			r.owners[owner] = slice
			if err := r.save(); err != nil {
				delete(r.owners, owner)
				return 0, err
			}
		}
	}
	r.busy[slice]++
	return slice, nil
}

// hold is take for an attempt that has its slice already.
func (r *ranges) hold(slice int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy[slice]++
}

func (r *ranges) release(slice int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.busy[slice]--; r.busy[slice] <= 0 {
		delete(r.busy, slice)
	}
}

func (r *ranges) free(fromTop bool) (int, error) {
	owned := make(map[int]bool, len(r.owners))
	for _, slice := range r.owners {
		owned[slice] = true
	}
	n := r.ids.slices()
	for i := range n {
		slice := i
		if fromTop {
			slice = (r.last - 1 - i + 2*n) % n
		}
		if !owned[slice] && r.busy[slice] == 0 {
			if fromTop {
				r.last = slice
			}
			return slice, nil
		}
	}
	err := fmt.Errorf("all %d slices of the id range are given out, %d of them to people for good; make id_size larger", n, len(r.owners))
	if len(r.owners) < n { // attempts that end give theirs back
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return 0, err
}

// save is durable before anything gets an id of the slice.
func (r *ranges) save() error {
	data, err := json.Marshal(rangesFile{1, r.ids.Base, r.owners})
	if err == nil {
		err = writeSynced(r.path+".new", append(data, '\n'))
	}
	if err == nil {
		err = os.Rename(r.path+".new", r.path)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(r.path))
	}
	if err != nil {
		return fmt.Errorf("cannot keep whose ids are whose: %w", err)
	}
	return nil
}

func syncDirectory(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
