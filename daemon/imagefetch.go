package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/image/registry"
)

// FetchCommand is the hidden sub-command of [ImageFetch].
const FetchCommand = "images-fetch"

// fetchOutput is the descriptor that the image is written to.
const fetchOutput = 3

// fetchMessage is a line of what the fetching process says.
type fetchMessage struct {
	// Begin: there is something to fetch, and it will be written.
	Begin    bool               `json:"begin,omitempty"`
	Progress *registry.Progress `json:"progress,omitempty"`
	// Result or Error is the last.
	Result *registry.Result `json:"result,omitempty"`
	Kind   string           `json:"kind,omitempty"` // of the error
	Error  string           `json:"error,omitempty"`
}

var fetchKinds = map[string]error{
	"unreachable": registry.ErrUnreachable,
	"denied":      registry.ErrDenied,
	"no-image":    registry.ErrNoSuchImage,
	"bad-image":   registry.ErrBadImage,
}

// fetchMemory bounds what a registry can have the process keep.
const fetchMemory = 1 << 30

// ImageFetch is the hidden sub-command images-fetch: it talks to a registry, as
// the daemon's unprivileged user and in a process of its own, so that what a
// stranger's server says is read by nobody who has anything to lose. It reads one
// [registry.Request], writes the image to a descriptor and lines of
// [fetchMessage] to out.
func ImageFetch(ctx context.Context, in io.Reader, out io.Writer) error {
	if os.Geteuid() == 0 {
		return errors.New("cannot fetch an image: this is not root's to do")
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	for resource, limit := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 256, unix.RLIMIT_DATA: fetchMemory} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return fmt.Errorf("cannot limit resource %d: %w", resource, err)
		}
	}
	var r registry.Request
	if err := json.NewDecoder(io.LimitReader(in, 16<<20)).Decode(&r); err != nil {
		return fmt.Errorf("cannot understand the request: %w", err)
	}
	lines := json.NewEncoder(out)
	var broken error
	say := func(m fetchMessage) { broken = errors.Join(broken, lines.Encode(m)) }
	image := os.NewFile(fetchOutput, "image")
	result, err := registry.Fetch(ctx, r, image,
		func() { say(fetchMessage{Begin: true}) },
		func(p registry.Progress) { say(fetchMessage{Progress: &p}) })
	last := fetchMessage{Result: &result}
	if err != nil {
		last = fetchMessage{Error: err.Error()}
		for kind, sentinel := range fetchKinds {
			if errors.Is(err, sentinel) {
				last.Kind = kind
			}
		}
	}
	say(last)
	return broken
}
