package image

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file reads foreign bytes and runs in the confined child only.

const (
	paxXattr = "SCHILY.xattr."

	maxXattrs     = 64      // of an entry
	maxXattrBytes = 3 << 10 // of an entry: what fits into every file system
	maxPath       = 4096
	maxName       = 255
)

// attributes of a directory wait until all its content is there: a mode may
// forbid writing and every new entry changes the time.
type attributes struct {
	mode     uint32
	uid, gid int
	mtime    unix.Timespec
}

type xattr struct {
	name  string
	value []byte
}

// extractor unpacks one layer below root. Every path is resolved by the kernel
// as if root were the root directory, so a link cannot lead out, and the last
// element of a path is never followed. Nobody else changes the tree meanwhile.
type extractor struct {
	u    *unpacker
	root int

	// parent is the directory opened last, for the many entries that share it.
	parent     int
	parentPath string
	stale      bool // an entry was replaced: the path may lead elsewhere now

	// By inode, for the directories and the files made here.
	dirs   map[uint64]attributes
	sums   map[uint64][sha256.Size]byte
	xattrs map[uint64][]xattr

	buf []byte
}

func (x *extractor) extract(r io.Reader) error {
	tr := tar.NewReader(bufio.NewReaderSize(r, 256<<10))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if err := x.count(); err != nil {
			return err
		}
		if err := x.entry(h, tr); err != nil {
			var known *blamed
			var errno unix.Errno
			if !errors.As(err, &known) && errors.As(err, &errno) {
				return fmt.Errorf("cannot unpack %.300q: %w", h.Name, err)
			}
			return err
		}
	}
}

// count counts an entry, or a directory that an entry implies.
func (x *extractor) count() error {
	if x.u.entries++; x.u.entries > x.u.limits.Entries {
		return blame(ErrTooLarge, "its layers have more than %d entries; raise the limit if it is to be trusted", x.u.limits.Entries)
	}
	return nil
}

// clean checks a path of the tar and makes it relative to the layer's root;
// "" is the root. A leading / or ./ means the root.
func (x *extractor) clean(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 || len(name) > maxPath {
		return "", blame(ErrHostile, "the path %.100q is too long or has a NUL", name)
	}
	depth := 0
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case element == "..":
			return "", blame(ErrHostile, "the path %.300q leads upwards", name)
		case len(element) > maxName:
			return "", blame(ErrHostile, "the path %.100q has a name of %d bytes", name, len(element))
		case element != "" && element != ".":
			depth++
		}
	}
	if depth > x.u.limits.Depth {
		return "", blame(ErrTooLarge, "the path %.100q is %d directories deep, %d are allowed", name, depth, x.u.limits.Depth)
	}
	return inside(name), nil
}

func (x *extractor) entry(h *tar.Header, content io.Reader) error {
	name, err := x.clean(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Uid >= idCount || h.Gid < 0 || h.Gid >= idCount {
		return blame(ErrUnsupported, "%.300q belongs to %d:%d, only ids up to %d can be mapped; change its owner in the image", h.Name, h.Uid, h.Gid, idCount-1)
	}
	attr := attributes{mode: uint32(h.Mode) & 0o7777, uid: h.Uid, gid: h.Gid, mtime: timespec(h.ModTime)}
	xattrs, err := keepXattrs(h)
	if err != nil {
		return err
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return blame(ErrHostile, "%.300q would replace the root directory", h.Name)
		}
		return x.describe(x.root, attr, xattrs, false)
	}
	dir, base := path.Split(name)
	parent, err := x.open(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(h.Name, parent, dir, base)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return x.directory(parent, base, attr, xattrs)
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return x.file(parent, base, h, attr, xattrs, content)
	case tar.TypeSymlink:
		return x.symlink(parent, base, h, attr)
	case tar.TypeLink:
		return x.hardlink(parent, base, h)
	case tar.TypeFifo:
		return x.skip(h)
	case tar.TypeChar, tar.TypeBlock:
		// Every container gets a /dev of its own, so what old images have there
		// is never seen.
		if strings.HasPrefix(name, "dev/") {
			return x.skip(h)
		}
		return blame(ErrHostile, "%.300q is a device node; build it without", h.Name)
	}
	return blame(ErrUnsupported, "%.300q is of the unknown type %q; pack the layer again", h.Name, h.Typeflag)
}

func (x *extractor) skip(h *tar.Header) error {
	if x.u.skipped.Count++; x.u.skipped.Count == 1 {
		x.u.skipped.First = fmt.Sprintf("%.300q", h.Name)
	}
	return nil
}

// timespec keeps times in what every file system can store.
func timespec(t time.Time) unix.Timespec {
	if t.Unix() < 0 || t.Unix() > 1<<32 {
		t = time.Unix(0, 0)
	}
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}

// keepXattrs returns the extended attributes that mean something to an
// unprivileged container. All others could only mean something to the host:
// security.* and trusted.* to its kernel, user.overlay.* to the overlay mount.
func keepXattrs(h *tar.Header) ([]xattr, error) {
	var kept []xattr
	bytes := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") {
			continue
		}
		bytes += len(name) + len(value)
		if len(name) > maxName || len(kept) == maxXattrs || bytes > maxXattrBytes {
			return nil, blame(ErrTooLarge, "%.300q has more than %d extended attributes or %d bytes of them", h.Name, maxXattrs, maxXattrBytes)
		}
		kept = append(kept, xattr{name, []byte(value)})
	}
	return kept, nil
}

const beneath = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// look opens a directory that exists.
func (x *extractor) look(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	return openat2(x.root, dir, unix.O_PATH|unix.O_DIRECTORY, beneath)
}

// open opens the directory of an entry and makes what is missing of it. The
// descriptor is the extractor's and good until the next call.
func (x *extractor) open(dir string) (int, error) {
	if x.parent >= 0 && !x.stale && x.parentPath == dir {
		return x.parent, nil
	}
	x.forgetParent()
	fd, err := x.look(dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if err = x.imply(dir); err == nil {
			fd, err = x.look(dir)
		}
	}
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return -1, blame(ErrHostile, "the path %.300q leads through a link to nowhere", dir)
	}
	if err != nil {
		return -1, err
	}
	x.parent, x.parentPath = fd, dir
	return fd, nil
}

func (x *extractor) forgetParent() {
	if x.parent >= 0 {
		unix.Close(x.parent)
	}
	x.parent, x.parentPath, x.stale = -1, "", false
}

// imply makes the directories of a path that no entry described.
func (x *extractor) imply(dir string) error {
	at, err := x.look("")
	if err != nil {
		return err
	}
	defer func() { unix.Close(at) }()
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		next, err := x.look(dir[:i])
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			if err := x.count(); err != nil {
				return err
			}
			base := path.Base(dir[:i])
			if isLink(at, base) {
				return err // to nowhere
			}
			if err := x.directory(at, base, attributes{mode: impliedMode(dir[:i])}, nil); err != nil {
				return err
			}
			next, err = x.look(dir[:i])
		}
		if err != nil {
			return err
		}
		unix.Close(at)
		at = next
	}
	return nil
}

// impliedMode is the mode of a directory that a layer uses without describing
// it. A lower layer's description is hidden by it, so the directories that must
// be open to all get what every image gives them.
func impliedMode(dir string) uint32 {
	switch dir {
	case "tmp", "var/tmp":
		return 0o1777
	}
	return 0o755
}

func isLink(dir int, base string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// clear removes what stands in the way of a new entry and tells whether that
// was a whiteout.
func (x *extractor) clear(dir int, base string) (wasWhiteout bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		x.stale = true
		return false, x.removeTree(dir, base, 0)
	case unix.S_IFLNK:
		x.stale = true
	}
	return isWhiteout(&st), unix.Unlinkat(dir, base, 0)
}

// removeTree removes a directory of the layer and forgets what was to become
// of the directories in it.
func (x *extractor) removeTree(dir int, base string, depth int) error {
	if depth > x.u.limits.Depth {
		return blame(ErrTooLarge, "its directories nest more than %d deep", x.u.limits.Depth)
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	delete(x.dirs, st.Ino)
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		err := unix.Unlinkat(fd, name, 0)
		if errors.Is(err, unix.EISDIR) {
			err = x.removeTree(fd, name, depth+1)
		}
		if err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, base, unix.AT_REMOVEDIR)
}

// directory makes a directory, or describes the one that is there.
func (x *extractor) directory(parent int, base string, attr attributes, xattrs []xattr) error {
	hides := false
	err := unix.Mkdirat(parent, base, 0o700)
	made := err == nil
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if hides, err = x.clear(parent, base); err == nil {
				err = unix.Mkdirat(parent, base, 0o700)
				made = true
			}
		}
	}
	if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := x.describe(fd, attr, xattrs, made); err != nil {
		return err
	}
	if hides {
		return x.makeOpaque(fd)
	}
	return nil
}

// describe notes what a directory gets in the end.
func (x *extractor) describe(fd int, attr attributes, xattrs []xattr, made bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if made {
		delete(x.xattrs, st.Ino) // of a removed file that had the number
	}
	x.dirs[st.Ino] = attr
	return x.setXattrs(fd, st.Ino, xattrs)
}

func (x *extractor) setXattrs(fd int, ino uint64, xattrs []xattr) error {
	for _, a := range xattrs {
		if err := unix.Fsetxattr(fd, a.name, a.value, 0); err != nil {
			return fmt.Errorf("cannot set extended attribute %.100q: %w", a.name, err)
		}
		x.xattrs[ino] = append(withoutXattr(x.xattrs[ino], a.name), a)
	}
	return nil
}

func withoutXattr(list []xattr, name string) []xattr {
	var out []xattr
	for _, a := range list {
		if a.name != name {
			out = append(out, a)
		}
	}
	return out
}

func (x *extractor) file(parent int, base string, h *tar.Header, attr attributes, xattrs []xattr, content io.Reader) error {
	if h.Size < 0 || h.Size > x.u.limits.Bytes-x.u.bytes {
		return blame(ErrTooLarge, "its files have more than %d bytes, with %.300q; raise the limit if it is to be trusted", x.u.limits.Bytes, h.Name)
	}
	x.u.bytes += h.Size
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC
	mode := attr.mode & 0o777
	if len(xattrs) > 0 {
		mode = 0o600 // attributes can be set on what the mode lets one write
	}
	fd, err := unix.Openat(parent, base, flags, mode)
	if errors.Is(err, unix.EEXIST) {
		if _, err = x.clear(parent, base); err == nil {
			fd, err = unix.Openat(parent, base, flags, mode)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	sum, err := x.fill(fd, h.Size, content)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	x.sums[st.Ino] = sum
	delete(x.xattrs, st.Ino) // of a removed file that had the number
	if err := x.setXattrs(fd, st.Ino, xattrs); err != nil {
		return err
	}
	if attr.uid != 0 || attr.gid != 0 {
		if err := unix.Fchown(fd, attr.uid, attr.gid); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 != attr.mode || attr.mode&0o7000 != 0 {
		// After the owner, because a new owner clears setuid.
		if err := unix.Fchmod(fd, attr.mode); err != nil {
			return err
		}
	}
	return setTime(parent, base, attr.mtime)
}

func setTime(dir int, base string, t unix.Timespec) error {
	return unix.UtimesNanoAt(dir, base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// fill writes the content and returns its digest.
func (x *extractor) fill(fd int, size int64, content io.Reader) (digest [sha256.Size]byte, err error) {
	sum := sha256.New()
	for left := size; left > 0; {
		n, err := content.Read(x.buf[:min(left, int64(len(x.buf)))])
		left -= int64(n)
		sum.Write(x.buf[:n])
		for p := x.buf[:n]; len(p) > 0; {
			m, err := unix.Write(fd, p)
			if err != nil && err != unix.EINTR {
				return digest, err
			}
			p = p[max(m, 0):]
		}
		if err == io.EOF && left > 0 {
			return digest, io.ErrUnexpectedEOF
		}
		if err != nil && err != io.EOF {
			return digest, err
		}
	}
	sum.Sum(digest[:0])
	return digest, nil
}

func (x *extractor) symlink(parent int, base string, h *tar.Header, attr attributes) error {
	if h.Linkname == "" || len(h.Linkname) >= maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
		return blame(ErrHostile, "the link %.300q has no possible target", h.Name)
	}
	err := unix.Symlinkat(h.Linkname, parent, base)
	if errors.Is(err, unix.EEXIST) {
		if _, err = x.clear(parent, base); err == nil {
			err = unix.Symlinkat(h.Linkname, parent, base)
		}
	}
	if err != nil {
		return err
	}
	if attr.uid != 0 || attr.gid != 0 {
		if err := unix.Fchownat(parent, base, attr.uid, attr.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return setTime(parent, base, attr.mtime)
}

// hardlink links to a file that this layer has unpacked before.
func (x *extractor) hardlink(parent int, base string, h *tar.Header) error {
	nowhere := func() error {
		return blame(ErrHostile, "%.300q is a hard link to %.300q, which is no file of the same layer", h.Name, h.Linkname)
	}
	target, err := x.clean(h.Linkname)
	if err != nil {
		return err
	}
	if target == "" {
		return nowhere()
	}
	dir, targetBase := path.Split(target)
	from, err := x.look(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nowhere()
	}
	defer unix.Close(from)
	var source, there unix.Stat_t
	err = unix.Fstatat(from, targetBase, &source, unix.AT_SYMLINK_NOFOLLOW)
	if kind := source.Mode & unix.S_IFMT; err != nil || kind != unix.S_IFREG && kind != unix.S_IFLNK {
		return nowhere()
	}
	err = unix.Fstatat(parent, base, &there, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		if there.Ino == source.Ino {
			return nil
		}
		if _, err := x.clear(parent, base); err != nil {
			return err
		}
	}
	err = unix.Linkat(from, targetBase, parent, base, 0)
	if errors.Is(err, unix.ENOENT) {
		return nowhere() // it went with what stood in the way
	}
	return err
}
