//go:build linux && cgo && seccomp

package runc

/*
#include "filter_thread.h"
#include "slack.h"
*/
import "C"

import (
	"fmt"
	"os"
	"runtime"
	"syscall"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // enters the namespaces before Go starts
)

// controlFD is where the first process of a container, before it becomes the
// job's, finds its control socket: libcontainer passes extra files from 3 on.
const controlFD = 3

// init runs the process as the inside of a container if it was started for
// that, and then does not return: libcontainer starts containers by running the
// same program again as "<program> init". It is here and not in package main
// because packages are initialised in the order of their paths: what follows
// (net/http, the metrics) would cost every start of a container milliseconds.
//
// It also binds the main goroutine to the main thread. libcontainer enters a
// container's mount namespace in a thread that is thrown away afterwards; if
// it came to be the main thread, which cannot be thrown away, the process would
// hold the container's mounts for ever and /proc/self would show them.
func init() {
	runtime.LockOSThread()
	if len(os.Args) != 2 || os.Args[1] != "init" || os.Getenv("_LIBCONTAINER_INITPIPE") == "" {
		return
	}
	// libcontainer would compile the seccomp filter anew in each container. The
	// runner sends it compiled instead, and a thread installs it for the whole
	// process when libcontainer has dropped all privileges and waits on its
	// FIFO for the word to run the job. It is a thread of C because Go would
	// need milliseconds to notice that it may run.
	if err := C.start_filter_thread(controlFD); err != 0 {
		fmt.Fprintf(os.Stderr, "cannot start the filter thread: %v\n", syscall.Errno(err))
		os.Exit(255)
	}
	// This thread is the one that executes the job.
	C.sleep_exactly()
	// What libcontainer prints as a last resort, above all why the job could
	// not be executed, is for the runner and not for the job's output. The
	// socket closes on exec.
	os.Stderr = os.NewFile(controlFD, "control")
	libcontainer.Init()
}
