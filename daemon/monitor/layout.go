package monitor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"girderworker/daemon/attempt"
)

// The state directory:
//
//	<state>/          root 0711: the front reaches what is below through it
//	    lock          flock(2)ed by both halves of a daemon while either lives
//	    queue/        the front's, 0700
//	    spool/        the front's, 0700
//	    jobs/         root 0700, and by an ACL the front may read
//	    work/         root 0700: containers give the files in it any owner and mode
//	    images/       root 0750, and by an ACL the front may read
//	    images/drop/  root 0755
//	    cache/        root 0700; also what the next attempt begins with
//
// The ACL is there because people who may submit are members of the group
// that the front's files have: the group's permission alone would let them read
// each other's jobs.
type layout struct{ state string }

func (l layout) jobs() string  { return filepath.Join(l.state, "jobs") }
func (l layout) work() string  { return filepath.Join(l.state, "work") }
func (l layout) image() string { return filepath.Join(l.state, "images") }
func (l layout) cache() string { return filepath.Join(l.state, "cache") }

// prepare makes what is missing, and puts right what it owns.
func (l layout) prepare(uid, gid int) error {
	for _, dir := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
		readable bool // by the front
	}{
		{"queue", 0o700, uid, gid, false},
		{"spool", 0o700, uid, gid, false},
		{"jobs", 0o700, 0, 0, true},
		{"work", 0o700, 0, 0, false},
		{"images", 0o750, 0, gid, true},
		{"cache", 0o700, 0, 0, false},
	} {
		path := filepath.Join(l.state, dir.name)
		if err := ownDirectory(path, dir.mode, dir.uid, dir.gid); err != nil {
			return l.explain(err)
		}
		if !dir.readable {
			continue
		}
		if err := letRead(path, uid); err != nil {
			return l.explain(err)
		}
	}
	// What a crash left unnamed.
	nameless, err := filepath.Glob(filepath.Join(l.jobs(), attempt.TempPattern))
	for _, dir := range nameless {
		err = errors.Join(err, os.Remove(dir))
	}
	return errors.Join(err, l.sweepSpares())
}

// lockPatience is how long a monitor waits for the halves of the one before
// it: the front of a monitor that was killed needs a moment to notice.
const lockPatience = 3 * time.Second

// lock makes the state directory and takes its lock. The file is to be passed
// to the front, so that the lock is free only when both are gone.
func (l layout) lock() (*os.File, error) {
	err := os.Mkdir(l.state, 0o711)
	if err != nil && !errors.Is(err, os.ErrExist) {
		return nil, l.explain(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(l.state, &st); err != nil {
		return nil, l.explain(err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return nil, fmt.Errorf("cannot use the state directory: %s is not a directory", l.state)
	case int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("cannot use the state directory: %s belongs to user %d; give it to root or choose another with --state-dir", l.state, st.Uid)
	}
	if err := os.Chmod(l.state, 0o711); err != nil {
		return nil, l.explain(err)
	}
	f, err := os.OpenFile(filepath.Join(l.state, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, l.explain(err)
	}
	deadline := time.Now().Add(lockPatience)
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("cannot use the state directory: %s is in use by another daemon", l.state)
			}
			return nil, l.explain(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	// A full disk shows here, and not in the middle of a job.
	if err := writeProbe(f); err != nil {
		f.Close()
		return nil, l.explain(err)
	}
	return f, nil
}

// writeProbe needs one new block.
func writeProbe(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		return err
	}
	return f.Sync()
}

// explain says what to do about an error of the state directory.
func (l layout) explain(err error) error {
	advice := ""
	switch {
	case errors.Is(err, unix.EROFS):
		advice = "; remount it for writing, or choose another with --state-dir"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		advice = "; make room on its file system"
	case errors.Is(err, unix.ENOENT):
		advice = "; its parent directory does not exist"
	}
	return fmt.Errorf("cannot use the state directory: %w%s", err, advice)
}

func ownDirectory(path string, mode os.FileMode, uid, gid int) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	f, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if os.Geteuid() == 0 {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return f.Chmod(mode)
}

// letRead gives one more user the right to list and enter a directory, by a
// POSIX ACL of version 2 (acl(5); linux/posix_acl_xattr.h), all little-endian.
func letRead(path string, uid int) error {
	const (
		userObj, user, groupObj, mask, other = 0x01, 0x02, 0x04, 0x10, 0x20
		none                                 = 0xffffffff
	)
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{userObj, 7, none}, {user, 5, uint32(uid)}, {groupObj, 0, none}, {mask, 5, none}, {other, 0, none}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Lsetxattr(path, "system.posix_acl_access", acl, 0); err != nil {
		return fmt.Errorf("cannot let user %d read %s: %w", uid, path, err)
	}
	return nil
}

// Occupy makes the state directory ready and takes its lock, as a daemon would.
// Who has the file that is returned keeps daemons away.
func Occupy(state string, uid, gid int) (*os.File, error) {
	l := layout{state}
	f, err := l.lock()
	if err != nil {
		return nil, err
	}
	if err := l.prepare(uid, gid); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
