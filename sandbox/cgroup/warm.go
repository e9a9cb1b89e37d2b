package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Warm makes the next moves of processes between control groups fast, on the
// whole machine and for some milliseconds. A first move waits for an RCU grace
// period (5 to 9 ms), those that follow closely do not; Warm does an idle one,
// so that the wait overlaps with work. It blocks for that long.
func Warm() error {
	// Moving ourselves to where we are changes nothing, and takes the same lock.
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 {
			continue
		}
		hierarchy := filepath.Join(root, strings.TrimPrefix(fields[1], "name="))
		if fields[1] == "" && !Unified() {
			hierarchy = filepath.Join(root, "unified")
		}
		if err := writeFile(filepath.Join(hierarchy, fields[2], "cgroup.procs"), "0"); err == nil {
			return nil
		}
	}
	return errors.New("cannot find this process in a control group")
}
