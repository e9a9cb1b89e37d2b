package rabbittest

import (
	"os/exec"
	"runtime"
)

// startLocked starts a process from a thread that lives as long as this
// process: the parent-death signal is sent when the thread that started it ends.
func startLocked(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err <- cmd.Start()
		select {}
	}()
	return <-err
}
