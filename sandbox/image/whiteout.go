package image

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// This file reads foreign bytes and runs in the confined child only.

// How a layer's tar says that something of lower layers is gone, and how
// overlayfs says that a directory hides what lower layers have in it.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	opaqueXattr    = "user.overlay.opaque"
)

// isWhiteout tells whether a file is what overlayfs takes for a removed one.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// makeOpaque hides what lower layers have in a directory.
func (x *extractor) makeOpaque(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	return x.setXattrs(fd, st.Ino, []xattr{{opaqueXattr, []byte("y")}})
}

// whiteout hides a name, or all names, of lower layers. What this layer itself
// has there stays, whichever came first.
func (x *extractor) whiteout(full string, parent int, dir, base string) error {
	if base == opaqueMarker {
		if dir == "" {
			return blame(ErrUnsupported, "it hides everything below its root directory; squash it")
		}
		fd, err := unix.Openat(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return x.makeOpaque(fd)
	}
	if strings.HasPrefix(base, whiteoutPrefix+whiteoutPrefix) {
		return nil // aufs' own bookkeeping
	}
	name := strings.TrimPrefix(base, whiteoutPrefix)
	if name == "" || name == "." || name == ".." {
		return blame(ErrHostile, "%.300q hides no file that could be", full)
	}
	err := unix.Mknodat(parent, name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(parent, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return x.makeOpaque(fd)
}
