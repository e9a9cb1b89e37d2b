package monitor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
	"girderworker/sandbox/cgroup"
)

// sessions starts each runner as the leader of a session of its own, in a
// cgroup of its own where there is a v2 hierarchy. One runner is kept warm: it
// has been executed and waits for its attempt.
type sessions struct {
	self   []string // the command that is a runner's program
	base   string   // cgroup path that all of this daemon's are below
	layout layout
	logger *slog.Logger
	// program is what self names, where that is in memory and in no file; nil: none.
	program *os.File
	init    string // the file that is a container's init then

	// begun is part of the names of cgroups: the record of a runner that an
	// earlier monitor started must never mean one of ours.
	begun int64

	mu     sync.Mutex
	next   int         // number of the next runner's cgroup
	disk   int64       // the scratch space of the last attempt; 0 is none yet
	warm   *warmRunner // nil while one is being made, or none could be
	making chan struct{}
	closed bool
	wg     sync.WaitGroup
}

type warmRunner struct {
	*process
	socket *os.File
	cgroup string
}

// refill is how long after a start the next runner is made: it would compete
// for the processor with the one that was just started.
const refill = 10 * time.Millisecond

// handover is how long a runner may take to answer; a machine may be very busy.
const handover = time.Minute

// newSessions starts runners as self, or as the program that is given.
func newSessions(self []string, program string, base string, layout layout, logger *slog.Logger) *sessions {
	s := &sessions{self: self, base: base, layout: layout, logger: logger, begun: time.Now().UnixNano()}
	if program != "" {
		if err := s.useProgram(program); err != nil {
			s.logger.Warn("Starting containers is slower than it could be", "error", err)
		}
	}
	s.prepare(0)
	return s
}

// prepare makes the next warm runner after a while.
func (s *sessions) prepare(after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.making != nil || s.warm != nil {
		return
	}
	made := make(chan struct{})
	s.making = made
	s.wg.Go(func() {
		time.Sleep(after)
		w, err := s.spawn(nil)
		if err != nil {
			s.logger.Warn("Cannot keep a runner ready; the next attempt starts slower", "error", err)
		}
		s.mu.Lock()
		s.making = nil
		if s.closed && w != nil {
			defer s.discard(w)
		} else {
			s.warm = w
		}
		s.mu.Unlock()
		close(made)
	})
}

// take returns a runner that waits for its attempt.
func (s *sessions) take(ctx context.Context) (*warmRunner, error) {
	s.mu.Lock()
	w, making := s.warm, s.making
	s.warm = nil
	s.mu.Unlock()
	if w == nil && making != nil {
		// It is nearly there, and of several that wait one gets it.
		select {
		case <-making:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		s.mu.Lock()
		w, s.warm = s.warm, nil
		s.mu.Unlock()
	}
	if w != nil {
		return w, nil
	}
	return s.spawn(nil)
}

func (s *sessions) start(ctx context.Context, d attempt.Dir, lock *attempt.Lock, scratch int64) (_ *process, err error) {
	defer lock.Close()
	if scratch > 0 {
		s.mu.Lock()
		s.disk = scratch
		s.mu.Unlock()
	}
	defer s.prepare(refill)
	// A warm runner may have died while it waited: then a fresh one gets the attempt.
	for try := 0; ; try++ {
		w, err := s.take(ctx)
		if err != nil {
			return nil, err
		}
		if err := w.record(d); err != nil {
			s.discard(w)
			return nil, err
		}
		if err = w.send(d, lock); err == nil {
			return w.process, nil
		}
		s.discard(w)
		if try > 0 {
			// As with one that dies a moment later: its attempt is lost, and the job is not.
			s.logger.Error("A runner died before it had its attempt", "attempt", d.ID(), "error", err)
			return nil, nil
		}
		s.logger.Warn("A runner that was kept ready failed; taking another", "attempt", d.ID(), "error", err)
	}
}

// record comes before the lock is theirs, so that whoever finds it locked finds a record.
func (w *warmRunner) record(d attempt.Dir) error {
	err := writeRecord(d, record{PID: w.pid, Start: w.start, Cgroup: w.cgroup})
	if err == nil {
		err = w.socket.SetReadDeadline(time.Now().Add(handover))
	}
	return err
}

// send gives a runner its attempt. After an error it must be discarded.
func (w *warmRunner) send(d attempt.Dir, lock *attempt.Lock) error {
	err := attempt.SendStart(w.socket, d, lock)
	if err == nil {
		w.socket.Close()
	}
	return err
}

// spawn executes a runner that waits for an attempt on its socket. It has a container
// ready for the request in ahead, where that is not nil.
func (s *sessions) spawn(ahead *os.File) (_ *warmRunner, err error) {
	ours, theirs, err := attempt.WarmPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	pidfd := -1
	args := append(s.self[1:len(s.self):len(s.self)], "runner", "--warm-fd", "3")
	s.mu.Lock()
	if ahead != nil {
		args = append(args, "--ahead-fd", "4")
	} else if s.disk > 0 {
		args = append(args, "--scratch", strconv.FormatInt(s.disk, 10), "--cache", s.layout.cache(), "--work", s.layout.work())
	}
	s.mu.Unlock()
	if s.program != nil {
		args = append(args, "--init", s.init)
	}
	cmd := exec.Command(s.self[0], args...)
	cmd.Env = runnerEnvironment()
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	if ahead != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, ahead)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd}
	group, err := s.newCgroup()
	if err != nil {
		return nil, err
	}
	if group != "" {
		dir, err := os.OpenFile(filepath.Join(v2Root(), group), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return nil, fmt.Errorf("cannot open the runner's cgroup: %w", err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start a runner: %w", err), endCgroup(context.Background(), group))
	}
	p, err := adopt(cmd, pidfd)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, errors.Join(err, endCgroup(context.Background(), group))
	}
	return &warmRunner{p, ours, group}, nil
}

// runnerEnvironment is all that a runner inherits.
func runnerEnvironment() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range []string{"JOURNAL_STREAM", "TZ", "GOCOVERDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// discard ends a runner that has no attempt, or must not keep the one it has.
func (s *sessions) discard(w *warmRunner) {
	w.socket.Close()
	err := w.kill()
	if err == nil {
		err = w.wait(context.Background())
	}
	w.close()
	if err = errors.Join(err, endCgroup(context.Background(), w.cgroup)); err != nil {
		s.logger.Error("Cannot end a runner that was kept ready", "pid", w.pid, "error", err)
	}
}

// v2Root is where the v2 hierarchy is mounted: all there is, or beside v1.
func v2Root() string {
	if cgroup.Unified() {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/unified"
}

// newCgroup makes a cgroup for a runner. Without a v2 hierarchy runners have
// none, and what one leaves behind is found through its container's cgroup.
func (s *sessions) newCgroup() (string, error) {
	var st unix.Statfs_t
	if unix.Statfs(v2Root(), &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return "", nil
	}
	s.mu.Lock()
	s.next++
	name := strconv.FormatInt(s.begun, 36) + "-" + strconv.Itoa(s.next)
	s.mu.Unlock()
	group := filepath.Join(s.base, runnersGroup, name)
	path := filepath.Join(v2Root(), group)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("cannot make the runners' cgroup: %w", err)
	}
	if err := os.Mkdir(path, 0o755); err != nil {
		return "", fmt.Errorf("cannot make a runner's cgroup: %w", err)
	}
	return group, nil
}

// runnersGroup cannot be the name of an attempt, which ends in a number.
const runnersGroup = "runners"

func (s *sessions) find(context.Context, attempt.Dir) (*process, error) { return nil, nil }

func (s *sessions) reap(ctx context.Context, _ attempt.Dir, rec record) error {
	return endCgroup(ctx, rec.Cgroup)
}

func (s *sessions) cgroup(d attempt.Dir) string { return s.base + "/" + d.ID() }

// close ends the warm runner and removes the cgroups that are empty.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	w := s.warm
	s.warm = nil
	s.mu.Unlock()
	s.wg.Wait()
	if w != nil {
		s.discard(w)
	}
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
