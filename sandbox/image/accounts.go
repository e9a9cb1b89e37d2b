package image

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// This file reads foreign bytes and runs in the confined child only.

const (
	maxAccountFile = 1 << 20 // bytes of /etc/passwd or /etc/group
	maxAccounts    = 4096    // lines of one
	maxMembersAll  = 16384   // members of all groups together
	maxAccountID   = 1<<31 - 1
)

// inspectRoot looks at the image's root file system, which is this process's.
func inspectRoot() (*accounts, error) {
	for _, name := range []string{"dev", "proc", "sys"} {
		info, err := os.Lstat("/" + name)
		if isNotExist(err) || err == nil && info.IsDir() {
			continue
		}
		if err != nil {
			return nil, err
		}
		what := "no directory"
		if info.Mode()&os.ModeSymlink != 0 {
			what = "a link"
		}
		return nil, blame(ErrHostile, "its /%s is %s, which could lead mounts astray; build it with a directory there", name, what)
	}
	var out accounts
	if err := eachAccount("/etc/passwd", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		uid, errUID := accountID(f[2])
		gid, errGID := accountID(f[3])
		if f[0] == "" || errUID != nil || errGID != nil {
			return true
		}
		u := User{Name: f[0], UID: uid, GID: gid}
		if len(f) > 5 {
			u.Home = f[5]
		}
		out.Users = append(out.Users, u)
		return len(out.Users) <= maxAccounts
	}); err != nil {
		return nil, err
	}
	members := 0
	if err := eachAccount("/etc/group", func(f []string) bool {
		if len(f) < 3 {
			return true
		}
		gid, err := accountID(f[2])
		if f[0] == "" || err != nil {
			return true
		}
		g := Group{Name: f[0], GID: gid}
		if len(f) > 3 && f[3] != "" {
			g.Members = strings.Split(f[3], ",")
			members += len(g.Members)
		}
		out.Groups = append(out.Groups, g)
		return len(out.Groups) <= maxAccounts && members <= maxMembersAll
	}); err != nil {
		return nil, err
	}
	return &out, nil
}

func accountID(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err == nil && (n < 0 || n > maxAccountID) {
		err = strconv.ErrRange
	}
	return n, err
}

// eachAccount hands over the fields of each line, until line says that these
// are too many.
func eachAccount(path string, line func(fields []string) bool) error {
	f, err := openRegular(path)
	if err != nil || f == nil {
		return err
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxAccountFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, maxAccountFile+2)
	for lines.Scan() {
		if text := strings.TrimSpace(lines.Text()); text != "" && text[0] != '#' && !line(strings.Split(text, ":")) {
			return blame(ErrTooLarge, "its %s has more than %d lines or %d members", path, maxAccounts, maxMembersAll)
		}
	}
	if limited.N <= 0 {
		return blame(ErrTooLarge, "its %s has more than %d bytes", path, maxAccountFile)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read the image's %s: %w", path, err)
	}
	return nil
}

// openRegular opens a regular file of the image, following the image's own
// links. It returns nil where there is none.
func openRegular(path string) (*os.File, error) {
	fd, err := openat2(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the image's %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openat2 opens by the given rules of resolution.
func openat2(dir int, path string, flags, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, path, how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}
