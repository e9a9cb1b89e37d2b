package runner

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"girderworker/sandbox/network"
)

// Where the network's process finds the container's device and its socket.
const (
	networkTun  = 3
	networkConn = 4
)

const (
	// networkMemory is what the garbage collector keeps to; networkData what the
	// kernel lets it have, however the packets are made. It is not the
	// container's memory that the buffers are in.
	networkMemory = 256 << 20
	networkData   = 1 << 30
	networkFiles  = 4096
)

// NetworkMain is the sub-command "network", started by a runner with the
// identity of the job's submitter: what a container connects to, the submitter
// connects to. It ends with its runner.
func NetworkMain([]string) int {
	if err := networkMain(); err != nil {
		fmt.Fprintln(os.Stderr, "network:", err)
		return 1
	}
	return 0
}

func networkMain() error {
	if err := checkUnprivileged(); err != nil {
		return err
	}
	if err := unix.SetNonblock(networkConn, true); err != nil {
		return fmt.Errorf("this command is for a runner to start: %w", err)
	}
	unix.CloseOnExec(networkTun)
	unix.CloseOnExec(networkConn)
	debug.SetMemoryLimit(networkMemory)
	for resource, limit := range map[int]uint64{unix.RLIMIT_DATA: networkData, unix.RLIMIT_NOFILE: networkFiles, unix.RLIMIT_CORE: 0} {
		if err := lowerLimit(resource, limit); err != nil {
			return fmt.Errorf("cannot limit this process: %w", err)
		}
	}
	conn := os.NewFile(networkConn, "runner")
	said := bufio.NewReader(conn)
	line, err := said.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("cannot learn what the network is: %w", err)
	}
	var config network.Config
	if err := json.Unmarshal(line, &config); err != nil {
		return fmt.Errorf("cannot learn what the network is: %w", err)
	}
	ctx, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		// The runner has no more to say: the container has ended, or it has.
		_, _ = io.Copy(io.Discard, said)
		end()
	}()
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", NetworkCommand)
	report, err := network.Serve(ctx, os.NewFile(networkTun, "tun"), config, logger)
	if err != nil {
		return err
	}
	return json.NewEncoder(conn).Encode(report)
}

// lowerLimit sets a limit, unless it is lower already.
func lowerLimit(resource int, limit uint64) error {
	var have unix.Rlimit
	if err := unix.Getrlimit(resource, &have); err != nil {
		return err
	}
	want := unix.Rlimit{Cur: min(limit, have.Max), Max: min(limit, have.Max)}
	return unix.Setrlimit(resource, &want)
}
