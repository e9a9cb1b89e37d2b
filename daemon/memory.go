package daemon

import (
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settleAfter is when what a start, an image or a job has left in memory is given
// back: not between jobs that follow one another.
const settleAfter = 5 * time.Second

// settle gives memory back in a while.
func settle() *time.Timer {
	return time.AfterFunc(settleAfter, func() {
		debug.FreeOSMemory()
		unmapCode()
	})
}

// unmapCode lets go of the pages of the program's code and constants, most of
// which only a start needs. Those that are needed again come from the page cache, or from
// the file, as they first did. What cannot be let go of stays.
func unmapCode() {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	before := ""
	for line := range strings.Lines(string(maps)) {
		var from, to uintptr
		var mode string
		if n, _ := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n < 3 || !strings.HasSuffix(line, " "+self+"\n") {
			continue
		}
		// They are never written to, so that nothing is lost with a page of them.
		// What is read-only further on may have been written to at the start.
		if mode == "r-xp" || mode == "r--p" && before == "r-xp" {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
		before = mode
	}
}
