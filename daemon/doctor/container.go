package doctor

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
)

// greeting is what the container of the check writes.
const greeting = "hello from girder-worker doctor\n"

// program is a whole ELF file that writes greeting and exits with 0, so that a
// container can be tried on a machine without an image: write(1, ...), exit(0).
func program(arch string) []byte {
	var code []byte
	machine := uint16(0)
	switch arch {
	case "amd64":
		machine = 62
		code = append(code, 0xb8, 1, 0, 0, 0, 0xbf, 1, 0, 0, 0, 0x48, 0x8d, 0x35, 16, 0, 0, 0, 0xba, byte(len(greeting)), 0, 0, 0, 0x0f, 0x05,
			0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05)
	case "arm64":
		machine = 183
		for _, word := range []uint32{
			0xd2800020, 0x100000e1, 0xd2800002 | uint32(len(greeting))<<5, 0xd2800808, 0xd4000001, // write
			0xd2800000, 0xd2800ba8, 0xd4000001, // exit
		} {
			code = binary.LittleEndian.AppendUint32(code, word)
		}
	default:
		return nil
	}
	code = append(code, greeting...)
	const headers, base = 64 + 56, 0x400000
	size := uint64(headers + len(code))
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9)...)
	for _, v := range []any{
		uint16(2), machine, uint32(1), uint64(base + headers), uint64(64), uint64(0), uint32(0), // a program; its entry and headers
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), // all of it, to be read and run
	} {
		b, _ = binary.Append(b, binary.LittleEndian, v) // fixed sizes: it cannot fail
	}
	return append(b, code...)
}

// archive is a docker-archive of one image with the program alone.
func archive(name, arch string) ([]byte, error) {
	pack := func(mode int64, files ...any) ([]byte, error) {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := 0; i < len(files); i += 2 {
			data := files[i+1].([]byte)
			if err := w.WriteHeader(&tar.Header{Name: files[i].(string), Mode: mode, Size: int64(len(data))}); err != nil {
				return nil, err
			}
			if _, err := w.Write(data); err != nil {
				return nil, err
			}
		}
		err := w.Close()
		return b.Bytes(), err
	}
	layer, err := pack(0o755, "doctor", program(arch))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": arch, "os": "linux", "config": map[string]any{"Entrypoint": []string{"/doctor"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return pack(0o644, "manifest.json", manifest, "config.json", config, "layer.tar", layer)
}

// containerTime is how long the container may take; a slot may have to come free.
const containerTime = 2 * time.Minute

// container runs a job as anybody would. Without a network it is a daemon of its
// own that runs it, where one can be started: what runs then has never seen one.
func (p *patient) container(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, containerTime)
	defer cancel()
	if program(runtime.GOARCH) == nil {
		return skip("no built-in image for %s: try one of yours with `girder-worker run`", runtime.GOARCH)
	}
	c, where := p.client, "through the daemon"
	if p.Offline && p.root {
		own, stop, err := p.ownDaemon(ctx)
		if err != nil {
			return bad("", "cannot start a daemon without a network: %v", err)
		}
		defer stop()
		c, where = own, "through a daemon of its own without a network"
	} else if p.status == nil {
		return skip("the daemon does not answer")
	} else if p.status.Paused || p.status.Draining {
		return skip("the daemon is paused: no job starts")
	}
	began := time.Now()
	output, err := try(ctx, c)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return warn("are all slots taken? `girder-worker status`, `girder-worker jobs`", "a job did not end within %v", containerTime)
	case err != nil:
		return bad("`journalctl -u girder-worker` has the whole story; the checks above say what is missing", "cannot run a job: %v", err)
	case output != greeting:
		return bad("", "a job wrote %q instead of %q", output, greeting)
	}
	return ok("a job ran and was removed again, in %v, %s", time.Since(began).Round(time.Millisecond), where)
}

// try imports the built-in image, runs it, and removes both.
func try(ctx context.Context, c *client.Client) (output string, err error) {
	name := fmt.Sprintf("girder-worker-doctor-%d:latest", os.Getpid())
	data, err := archive(name, runtime.GOARCH)
	if err != nil {
		return "", err
	}
	// What was made is removed whatever happened to ctx.
	after, end := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer end()
	if _, err := c.ImportImage(ctx, bytes.NewReader(data), name, true); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.RemoveImage(after, name)) }()
	document, err := json.Marshal(map[string]any{
		"image": name, "name": "girder-worker doctor", "priority": 9, "timeout": "1m", "network": "none",
		"resources": map[string]any{"cpus": 0.1, "memory": "32m", "log": "64k", "scratch": "8m"},
	})
	if err != nil {
		return "", err
	}
	job, err := c.Submit(ctx, document)
	if err != nil {
		return "", err
	}
	id := job.ID
	defer func() {
		if ctx.Err() != nil {
			if _, cancelErr := c.Cancel(after, id, "doctor waits no longer"); cancelErr == nil {
				_, _ = c.Wait(after, id, client.Patience{})
			}
		}
		if _, removeErr := c.Remove(after, id); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove job %s: %w", id, removeErr))
		}
	}()
	if job, err = c.Wait(ctx, id, client.Patience{}); err != nil {
		return "", err
	}
	if job.ExitCode == nil || *job.ExitCode != 0 {
		return "", fmt.Errorf("the job failed: %s %s", job.Error, job.Reason)
	}
	err = c.Log(ctx, id, client.LogOptions{Stream: apitype.StreamStdout}, func(f *apitype.LogFrame) error {
		output += string(f.Output())
		return nil
	})
	return output, err
}

// ownDaemon starts a daemon in this network namespace, on directories that are
// removed with it, with the users and the ids of the machine's.
func (p *patient) ownDaemon(ctx context.Context) (_ *client.Client, stop func(), err error) {
	dir, err := os.MkdirTemp("", "girder-worker-doctor-")
	if err != nil {
		return nil, nil, err
	}
	remove := func() { os.RemoveAll(dir) }
	if err = os.Chmod(dir, 0o711); err == nil { // the front is another user
		text := fmt.Sprintf("[girder_worker]\nstate_dir = %[1]s/state\nruntime_dir = %[1]s/run\nsocket = %[1]s/run/s\nmetrics_address = off\nlauncher = session\npolicy_file = %[1]s/policy.toml\n"+
			"user = %[2]s\ngroup = %[3]s\nadmin_group = %[4]s\nid_base = %[5]d\nid_size = %[6]d\nslots = 1\n[logging]\nlevel = error\n",
			dir, p.config.User, p.config.Group, p.config.AdminGroup, p.config.IDs.Base, p.config.IDs.Size)
		err = os.WriteFile(filepath.Join(dir, "worker.cfg"), []byte(text), 0o644)
	}
	if err != nil {
		remove()
		return nil, nil, err
	}
	var said bytes.Buffer
	cmd := exec.Command(p.Self[0], append(p.Self[1:len(p.Self):len(p.Self)], "daemon", "--config", filepath.Join(dir, "worker.cfg"))...)
	cmd.Stdout, cmd.Stderr = &said, &said
	// A runner that outlives the daemon for a moment keeps its output open.
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")} // none of the machine's GIRDER_WORKER_ variables
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		remove()
		return nil, nil, err
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	c := client.New(filepath.Join(dir, "run", "s"), 0)
	stop = func() {
		c.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-exited
		}
		remove()
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := c.Version(ctx); err == nil {
			return c, stop, nil
		}
		select {
		case <-tick.C:
		case <-exited:
			stop()
			return nil, nil, errors.New(lastLine(said.String()))
		case <-ctx.Done():
			stop()
			return nil, nil, fmt.Errorf("it does not answer: %w; %s", ctx.Err(), lastLine(said.String()))
		}
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
