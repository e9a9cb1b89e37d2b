package monitor

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

// unmountBelow detaches every mount at or below dir, the last made first. A
// runner makes its mounts in a namespace of its own, which dies with it; this
// is for one that died while it had not.
func unmountBelow(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot list mounts: %w", err)
	}
	defer f.Close()
	points, err := mountsBelow(f, dir)
	if err != nil {
		return fmt.Errorf("cannot list mounts: %w", err)
	}
	for i := len(points) - 1; i >= 0; i-- {
		err := unix.Unmount(points[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// A detached parent takes its children along.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cannot unmount %s: %w", points[i], err)
		}
	}
	return nil
}

// mountsBelow returns the mount points at or below dir in the order of a
// mountinfo file, which is the order of mounting.
func mountsBelow(mountinfo io.Reader, dir string) (points []string, err error) {
	s := bufio.NewScanner(mountinfo)
	s.Buffer(nil, 1<<20) // overlay's options name every layer
	for s.Scan() {
		fields := strings.SplitN(s.Text(), " ", 6)
		if len(fields) < 6 {
			continue
		}
		point := unescape(fields[4])
		if point == dir || strings.HasPrefix(point, dir+"/") {
			points = append(points, point)
		}
	}
	return points, s.Err()
}

// unescape undoes the kernel's \040 for what would break a line into fields.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
