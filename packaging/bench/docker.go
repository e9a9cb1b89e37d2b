package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A docker is a Docker daemon of its own below the temporary directory, without
// a bridge and without touching the host's rules.
type docker struct {
	socket string
	cmd    *exec.Cmd
}

// newDocker starts one, or returns nil where Docker is not installed.
func newDocker(ctx context.Context, b *bench) (*docker, error) {
	for _, name := range []string{"dockerd", "docker"} {
		if _, err := exec.LookPath(name); err != nil {
			return nil, nil
		}
	}
	dir := filepath.Join(b.dir, "docker")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &docker{socket: "unix://" + filepath.Join(dir, "sock")}
	d.cmd = exec.Command("dockerd", "--host", d.socket, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--bridge", "none", "--iptables=false", "--ip-masq=false", "--storage-driver", "overlay2")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start dockerd: %w", err)
	}
	deadline := time.Now().Add(60 * time.Second)
	for d.do(ctx, "version") != nil {
		if time.Now().After(deadline) || ctx.Err() != nil {
			d.stop()
			text, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("dockerd did not come up:\n%s", text)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return d, d.do(ctx, "load", "--input", filepath.Join(b.dir, "busybox.tar"))
}

func (d *docker) run(ctx context.Context) error {
	return d.do(ctx, "run", "--rm", "--network", "none", "bench:latest", "/bin/true")
}

func (d *docker) do(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "docker", append([]string{"--host", d.socket}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot run docker %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// stop ends the daemon, and with it its containerd.
func (d *docker) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.cmd.Wait()
}
