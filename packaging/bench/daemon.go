package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serviceUser is who the daemon's unprivileged half runs as: a number that
// needs no entry in /etc/passwd.
const serviceUser = "65533"

// A daemon is the binary under test on a state directory of its own.
type daemon struct {
	dir    string
	socket string
	env    []string
	binary string
	cmd    *exec.Cmd
	log    string
}

// newDaemon starts a daemon; extra are GIRDER_WORKER_* settings.
func newDaemon(ctx context.Context, b *bench, name string, extra ...string) (*daemon, error) {
	d := &daemon{dir: filepath.Join(b.dir, name), binary: b.binary}
	if err := os.MkdirAll(filepath.Join(d.dir, "state"), 0o755); err != nil {
		return nil, err
	}
	// The machine's own policy is no part of what is measured; an empty one has the defaults.
	policy := filepath.Join(d.dir, "policy.toml")
	if err := os.WriteFile(policy, nil, 0o644); err != nil {
		return nil, err
	}
	d.socket = filepath.Join(d.dir, "run", "girder-worker.sock")
	d.log = filepath.Join(d.dir, "daemon.log")
	d.env = append(os.Environ(),
		"GIRDER_WORKER_STATE_DIR="+filepath.Join(d.dir, "state"),
		"GIRDER_WORKER_RUNTIME_DIR="+filepath.Join(d.dir, "run"),
		"GIRDER_WORKER_METRICS_ADDRESS=off",
		"GIRDER_WORKER_POLICY_FILE="+policy,
		"GIRDER_WORKER_USER="+serviceUser,
		"GIRDER_WORKER_GROUP="+serviceUser,
		"GIRDER_WORKER_LAUNCHER=session",
		"GIRDER_WORKER_SOCKET="+d.socket,
		"GIRDER_WORKER_LOGGING_LEVEL=warning",
	)
	d.env = append(d.env, extra...)
	return d, d.start(ctx)
}

func (d *daemon) start(ctx context.Context) error {
	log, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	d.cmd = exec.Command(d.binary, "daemon")
	d.cmd.Env = d.env
	d.cmd.Stderr, d.cmd.Stdout = log, log
	if err := d.cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the daemon: %w", err)
	}
	return d.ready(ctx)
}

// ready waits for the API to answer.
func (d *daemon) ready(ctx context.Context) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := d.dial()
		if err == nil {
			_, _, err = c.do(ctx, "GET", "/v1/status", nil)
			c.Close()
			if err == nil {
				return nil
			}
		}
		if time.Now().After(deadline) {
			tail, _ := os.ReadFile(d.log)
			return fmt.Errorf("cannot reach the daemon: %w; it said:\n%s", err, tail)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// stop ends the daemon and waits for it.
func (d *daemon) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.cmd.Wait()
}

// kill ends both halves at once.
func (d *daemon) kill(ctx context.Context) error {
	front, err := d.frontPID(ctx)
	if err != nil {
		return err
	}
	d.cmd.Process.Kill()
	syscall.Kill(front, syscall.SIGKILL)
	d.cmd.Wait()
	return nil
}

// killWarmRunner ends the runner that waits for its attempt, once there is one
// and the runner of the attempt before has gone.
func (d *daemon) killWarmRunner(ctx context.Context) error {
	for ctx.Err() == nil {
		commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			return err
		}
		var runners []int
		for _, path := range commands {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			command, err := os.ReadFile(path)
			if err == nil && strings.Contains(string(command), "runner\x00--warm-fd") && parent(pid) == d.cmd.Process.Pid {
				runners = append(runners, pid)
			}
		}
		if len(runners) == 1 && waits(runners[0]) {
			return syscall.Kill(runners[0], syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}

// parent is the parent's number: the second field after the name in stat.
func parent(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1])
	return ppid
}

// waits tells whether a runner has come to its socket, which it polls.
func waits(pid int) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		if to, _ := os.Readlink(link); to == "anon_inode:[eventpoll]" {
			return true
		}
	}
	return false
}

func (d *daemon) frontPID(ctx context.Context) (int, error) {
	c, err := d.dial()
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_, body, err := c.do(ctx, "GET", "/v1/status", nil)
	if err != nil {
		return 0, err
	}
	var status struct {
		PID int `json:"pid"`
	}
	return status.PID, json.Unmarshal(body, &status)
}

// importBusybox gives the daemon an image made on the spot.
func (d *daemon) importBusybox(ctx context.Context, b *bench) error {
	archive := filepath.Join(b.dir, "busybox.tar")
	if _, err := os.Stat(archive); errors.Is(err, os.ErrNotExist) {
		out, err := exec.CommandContext(ctx, "go", "run", "./sandbox/image/imagetest/mkimage", "-o", archive, "-name", "bench:latest").CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot make the image: %w: %s", err, out)
		}
	}
	return d.command(ctx, "images", "import", "--name", "bench:latest", archive)
}

// command runs the binary's command line against the daemon.
func (d *daemon) command(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, d.binary, args...)
	cmd.Env = append(os.Environ(), "GIRDER_WORKER_SOCKET="+d.socket)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot run girder-worker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// A conn is one kept connection to the API, as light as a client can be, so
// that the figure is the daemon's.
type conn struct {
	net.Conn
	r   *bufio.Reader
	buf bytes.Buffer
}

func (d *daemon) dial() (*conn, error) {
	c, err := net.Dial("unix", d.socket)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReaderSize(c, 1<<16)}, nil
}

// do sends one request and reads its whole answer; an answer of 400 and more is an error.
func (c *conn) do(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	c.buf.Reset()
	c.buf.WriteString(method + " " + path + " HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\nContent-Length: ")
	c.buf.WriteString(strconv.Itoa(len(body)))
	c.buf.WriteString("\r\n\r\n")
	c.buf.Write(body)
	if _, err := c.Write(c.buf.Bytes()); err != nil {
		return 0, nil, err
	}
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return 0, nil, err
	}
	answer, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err == nil && res.StatusCode >= 400 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, res.Status, answer)
	}
	return res.StatusCode, answer, err
}

// runJob submits a document and waits for its end, over one connection.
func (c *conn) runJob(ctx context.Context, document []byte) error {
	_, body, err := c.do(ctx, "POST", "/v1/jobs", document)
	if err != nil {
		return err
	}
	var job struct {
		ID       string `json:"id"`
		State    string `json:"state"`
		ExitCode *int   `json:"exit_code"`
		Error    string `json:"error"`
	}
	if err := json.Unmarshal(body, &job); err != nil {
		return err
	}
	for {
		_, body, err := c.do(ctx, "GET", "/v1/jobs/"+job.ID+"/wait?timeout=30", nil)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, &job); err != nil {
			return err
		}
		switch job.State {
		case "succeeded":
			return nil
		case "failed", "canceled":
			return fmt.Errorf("job %s ended %s: %s", job.ID, job.State, job.Error)
		}
	}
}
