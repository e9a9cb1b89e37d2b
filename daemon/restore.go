package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"girderworker/daemon/config"
	"girderworker/daemon/monitor"
	"girderworker/queue"
)

// RestoreCommand is the process that reads a backup as the daemon's
// unprivileged user: DIR [--force].
const RestoreCommand = "restore-helper"

// Restored is what a restore has put in place.
type Restored = queue.Restored

// Restore puts a backup in place of the queue of a daemon that is stopped. It
// is called by root, who opens the file and reads nothing of it.
func Restore(ctx context.Context, sources config.Sources, backup *os.File, force bool) (Restored, error) {
	c, _, err := config.Load(sources)
	if err != nil {
		return Restored{}, err
	}
	if os.Geteuid() != 0 {
		return Restored{}, errors.New("cannot restore: it must be done as root")
	}
	who, err := lookUp(&c)
	if err != nil {
		return Restored{}, err
	}
	lock, err := monitor.Occupy(c.StateDir, who.uid, who.gid)
	if err != nil {
		return Restored{}, fmt.Errorf("%w; a daemon has to be stopped first: systemctl stop girder-worker", err)
	}
	defer lock.Close()
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return Restored{}, fmt.Errorf("cannot restore: %w", err)
	}
	defer self.Close()
	args := []string{RestoreCommand, filepath.Join(c.StateDir, "queue")}
	if force {
		args = append(args, "--force")
	}
	cmd := exec.CommandContext(ctx, "/proc/self/fd/3", args...)
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(who.uid), Gid: uint32(who.gid)}, Pdeathsig: syscall.SIGTERM,
	}
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = backup, &out, &said
	if err := cmd.Run(); err != nil {
		if text := strings.TrimSpace(said.String()); text != "" {
			err = errors.New(text)
		}
		return Restored{}, err
	}
	var r Restored
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return Restored{}, fmt.Errorf("cannot tell what was restored: %w", err)
	}
	return r, nil
}

// RestoreHelper is [RestoreCommand]: it reads the backup from in and writes what
// it held to out.
func RestoreHelper(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 || len(args) > 2 || len(args) == 2 && args[1] != "--force" {
		return errors.New("this command is for the program's own use")
	}
	r, err := queue.Restore(ctx, args[0], in, len(args) == 2)
	if errors.Is(err, queue.ErrNotEmpty) {
		err = fmt.Errorf("%w; --force puts the backup in its place and keeps the old files beside it", err)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(r)
}
