package daemon

import (
	"runtime/debug"
	"time"
)

// settleAfter is when what a start or an image has left in memory is given back.
const settleAfter = 2 * time.Second

// settle gives memory back in a while.
func settle() *time.Timer { return time.AfterFunc(settleAfter, debug.FreeOSMemory) }
