package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/cgroup"
)

// sessions starts each runner as the leader of a session of its own, in a
// cgroup of its own where there is a v2 hierarchy.
type sessions struct {
	self []string // the command that is a runner's program
	base string   // cgroup path that all of this daemon's are below
	// program is what self names, where that is in memory and in no file; nil: none.
	program *os.File
	init    string // the file that is a container's init then
}

// newSessions starts runners as self, or as the program that is given.
func newSessions(self []string, program string, base string, logger *slog.Logger) *sessions {
	s := &sessions{self: self, base: base}
	if program != "" {
		if err := s.useProgram(program); err != nil {
			logger.Warn("Starting containers is slower than it could be", "error", err)
		}
	}
	return s
}

// named has no cgroup where there is no v2 hierarchy: what a runner leaves behind is
// found through its container's then.
func (s *sessions) named(name string) record {
	var st unix.Statfs_t
	if unix.Statfs(v2Root(), &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return record{}
	}
	return record{Cgroup: filepath.Join(s.base, runnersGroup, name)}
}

func (s *sessions) older(attempt.Dir) string { return "" }

func (s *sessions) spawn(_ context.Context, rec record, args []string, socket *os.File) (*process, error) {
	pidfd := -1
	command := append(s.self[1:len(s.self):len(s.self)], "runner", "--warm-fd", "3")
	if s.program != nil {
		command = append(command, "--init", s.init)
	}
	cmd := exec.Command(s.self[0], append(command, args...)...)
	cmd.Env = runnerEnvironment()
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	if rec.Cgroup != "" {
		path := filepath.Join(v2Root(), rec.Cgroup)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the runners' cgroup: %w", err)
		}
		if err := os.Mkdir(path, 0o755); err != nil {
			return nil, fmt.Errorf("cannot make a runner's cgroup: %w", err)
		}
		dir, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot open the runner's cgroup: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start a runner: %w", err), endCgroup(context.Background(), rec.Cgroup))
	}
	p, err := adopt(cmd, pidfd)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, errors.Join(err, endCgroup(context.Background(), rec.Cgroup))
	}
	return p, nil
}

// v2Root is where the v2 hierarchy is mounted: all there is, or beside v1.
func v2Root() string {
	if cgroup.Unified() {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// runnersGroup cannot be the name of an attempt, which ends in a number.
const runnersGroup = "runners"

func (s *sessions) describe(context.Context, record, string) error { return nil }

func (s *sessions) find(context.Context, record) (*process, error) { return nil, nil }

func (s *sessions) end(ctx context.Context, rec record) error { return endCgroup(ctx, rec.Cgroup) }

func (s *sessions) parent(record) string { return s.base }

func (s *sessions) close() {
	if s.program != nil {
		s.program.Close()
	}
}

// removeEmptyCgroups removes what is left of attempts and runners below a
// cgroup, and then the cgroup, in every hierarchy. It leaves what has processes,
// and what belongs to an attempt that has its work directory: its runner may be
// about to move a process there.
func removeEmptyCgroups(base, work string) {
	entries, err := os.ReadDir(work)
	if err != nil {
		return
	}
	inUse := make(map[string]bool, len(entries))
	for _, e := range entries {
		inUse[e.Name()] = true
	}
	roots := []string{"/sys/fs/cgroup"}
	if !cgroup.Unified() {
		roots, _ = filepath.Glob("/sys/fs/cgroup/*")
	}
	for _, root := range roots {
		top := filepath.Join(root, base)
		for _, pattern := range []string{runnersGroup + "/*", runnersGroup, "*"} {
			dirs, _ := filepath.Glob(filepath.Join(top, pattern))
			for _, dir := range dirs {
				if !inUse[filepath.Base(dir)] {
					// EBUSY is a live runner's, ENOTDIR one of the kernel's files.
					_ = unix.Rmdir(dir)
				}
			}
		}
		if len(inUse) == 0 {
			_ = unix.Rmdir(top)
		}
	}
}
