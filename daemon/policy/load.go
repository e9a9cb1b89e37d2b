package policy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"girderworker/transforms"
)

// DefaultFile is where the policy of an installed daemon is. It need not be there.
const DefaultFile = "/etc/girder-worker/policy.toml"

// Read reads a policy's file for root: it must be root's own, and so must the
// directory that it is in, and nobody else may write either. No file is no text:
// the built-in policy.
func Read(file string) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	defer f.Close()
	if err := rootsOwn(int(f.Fd()), file, unix.S_IFREG); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	defer dir.Close()
	if err := rootsOwn(int(dir.Fd()), dir.Name(), unix.S_IFDIR); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	return data, nil
}

func rootsOwn(fd int, name string, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("cannot read the policy: %w", &os.PathError{Op: "fstat", Path: name, Err: err})
	}
	if st.Mode&unix.S_IFMT != kind || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return &Invalid{name, []Problem{{0, fmt.Sprintf(
			"it is not used: it must belong to root, and nobody else may write it (it belongs to user %d, mode %04o)", st.Uid, st.Mode&0o7777)}}}
	}
	return nil
}

// SystemNames looks names up in /etc/passwd and /etc/group alone. A number needs
// no entry there: directory services have their users elsewhere.
func SystemNames() Names {
	find := func(get func(string) (string, error)) func(string) (int, error) {
		return func(name string) (int, error) {
			id, err := get(name)
			if err != nil {
				id = name
			}
			n, err := strconv.ParseUint(id, 10, 31)
			return int(n), err
		}
	}
	return Names{
		User: find(func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}),
		Group: find(func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}),
	}
}

// Clip makes the defaults of a job that names no limits small enough for r.
func (r *Rights) Clip(d transforms.Defaults) transforms.Defaults {
	d.Resources.CPUs = least(d.Resources.CPUs, r.cpus)
	d.Resources.Memory = least(d.Resources.Memory, r.memory)
	d.Resources.PIDs = least(d.Resources.PIDs, r.pids)
	d.Resources.Shm = least(d.Resources.Shm, r.shm)
	d.Resources.Scratch = least(d.Resources.Scratch, r.scratch)
	d.Resources.Log = least(d.Resources.Log, r.log)
	d.Timeout = least(d.Timeout, r.time)
	if !r.girderKey {
		d.Girder = ""
	}
	return d
}

// least has 0 for no limit.
func least[T ~int64 | ~float64](n T, most *T) T {
	if most != nil && (n == 0 || n > *most) {
		return *most
	}
	return n
}
