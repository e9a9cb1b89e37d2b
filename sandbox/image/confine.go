package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// UnpackCommand is the hidden sub-command under which the binary, and every test
// binary that imports images, must call [Main] before it does anything else:
//
//	if len(os.Args) > 1 && os.Args[1] == image.UnpackCommand {
//		os.Exit(image.Main(os.Args[2:]))
//	}
const UnpackCommand = "unpack"

const (
	stageSetup  = "setup"
	stageWorker = "worker"

	idCount = 65536 // ids that images may use, from 0

	maxMessages = 64 << 20 // bytes that a child may send
	maxComplain = 16 << 10 // bytes kept of a child's stderr

	archiveFD = 3
	answerFD  = 4
	readyFD   = 5 // worker only
)

// confine runs a confined child for req and hands its messages to on, one after
// the other. What on returns for a plan is sent back. The child is dead when
// confine returns, and with it everything it started.
//
// There are two processes. The first has the new namespaces and, in them, every
// capability; it never sees the archive. It starts the second, the worker, with
// the few capabilities of the task, and pivots the mount namespace, and so both,
// into the request's root. Only then the worker gets its order. The first gets its
// own, and starts the second, when begun has returned, which may be nil.
func (s *Store) confine(ctx context.Context, req request, archive *os.File, begun func(pid int) error, on func(message) (any, error)) error {
	order, err := json.Marshal(req)
	if err != nil {
		return err
	}
	results, resultsChild, err := os.Pipe()
	if err != nil {
		return err
	}
	defer results.Close()
	defer resultsChild.Close()
	answersChild, answers, err := os.Pipe()
	if err != nil {
		return err
	}
	defer answers.Close()
	defer answersChild.Close()
	if archive == nil {
		if archive, err = os.Open(os.DevNull); err != nil {
			return err
		}
		defer archive.Close()
	}

	running, kill := context.WithCancel(ctx)
	defer kill()
	var complaint limitedBuffer
	cmd := exec.CommandContext(running, "/proc/self/exe", UnpackCommand, stageSetup)
	cmd.Dir = "/"
	// The Go runtime must not keep the host's cgroup files open.
	cmd.Env = []string{"GOTRACEBACK=single", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"}
	if raceDetector {
		cmd.Env = append(cmd.Env, "GORACE=atexit_sleep_ms=0") // else every child sleeps a second at its end
	}
	orders, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Stdout = resultsChild
	cmd.Stderr = &complaint
	cmd.ExtraFiles = []*os.File{archive, answersChild}
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP,
		UidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: idCount}},
		GidMappings:                []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: idCount}},
		GidMappingsEnableSetgroups: true,
		Pdeathsig:                  syscall.SIGKILL,
	}
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		// Pdeathsig comes when the thread ends that started the child, so the
		// thread is kept until the child has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("cannot start the confined unpacker (are user namespaces allowed here, see user.max_user_namespaces?): %w", err)
	}
	resultsChild.Close()
	answersChild.Close()

	var heard error
	if begun != nil {
		heard = begun(cmd.Process.Pid)
	}
	if heard == nil {
		// A child that does not take it shows when its messages end.
		_, _ = orders.Write(order)
		orders.Close()
		heard = hear(results, answers, on)
	}
	if heard != nil {
		kill()
	}
	waited := <-ended
	switch silent := heard == nil || errors.Is(heard, errSilence); {
	case !silent:
		return heard
	case context.Cause(ctx) != nil && waited != nil:
		return context.Cause(ctx)
	case waited != nil:
		return fmt.Errorf("the confined unpacker died (%w): %s", waited, firstLine(complaint.String()))
	}
	return heard
}

// errSilence: the child ended before its messages, or within one.
var errSilence = errors.New("the confined unpacker broke off")

// hear reads messages until the child closes its end.
func hear(results io.Reader, answers io.Writer, on func(message) (any, error)) error {
	lines := bufio.NewReaderSize(io.LimitReader(results, maxMessages), 64<<10)
	decoder := json.NewDecoder(lines)
	for {
		var m message
		if err := decoder.Decode(&m); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: %v", errSilence, err)
		}
		if m.Refusal != nil {
			return m.Refusal.err()
		}
		reply, err := on(m)
		if err != nil {
			return err
		}
		if reply != nil {
			// A child that is gone shows when its messages end.
			if err := json.NewEncoder(answers).Encode(reply); err != nil && !errors.Is(err, syscall.EPIPE) {
				return err
			}
		}
	}
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, maxComplain-b.Len()))])
	return len(p), nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line == "" {
		return "it said nothing; too little memory would look like this"
	}
	return printable(line)
}
