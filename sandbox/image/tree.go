package image

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// This file walks what foreign bytes became and runs in the confined child only.

// tree makes the digest of an unpacked layer: everything that a container can
// see of it, so that a change is found later. While unpacking it also gives the
// directories their attributes, and takes the digests and extended attributes of
// what it need not read again.
type tree struct {
	finish map[uint64]attributes // nil: read all, change nothing
	sums   map[uint64][sha256.Size]byte
	xattrs map[uint64][]xattr
	depth  int
	sum    hash.Hash
}

// digest returns the digest of the directory open as root.
func (t *tree) digest(root int) (string, error) {
	t.sum = sha256.New()
	fd, err := unix.Openat(root, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	if err := t.directory(os.NewFile(uintptr(fd), "."), "", 0); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(t.sum.Sum(nil)), nil
}

// verifyTree makes the digest of the tree that is this process's root.
func verifyTree() (string, error) {
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(root)
	return (&tree{depth: maxPath}).digest(root)
}

// directory takes in a directory, which it closes, after everything in it.
func (t *tree) directory(f *os.File, name string, depth int) error {
	defer f.Close()
	if depth > t.depth {
		return blame(ErrTooLarge, "its directories nest more than %d deep", t.depth)
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	fd := int(f.Fd())
	for _, child := range names {
		if err := t.entry(fd, child, depth); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if t.finish != nil {
		attr, ok := t.finish[st.Ino]
		if !ok {
			attr = attributes{mode: 0o755} // the root, where no entry describes it
		}
		if err := t.apply(fd, attr); err != nil {
			return err
		}
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
	}
	st.Nlink, st.Size = 0, 0 // differ between file systems
	return t.record(name, &st, nil, fd)
}

func (t *tree) apply(fd int, attr attributes) error {
	if err := setTime(fd, ".", attr.mtime); err != nil { // while the mode lets one in
		return err
	}
	if err := unix.Fchown(fd, attr.uid, attr.gid); err != nil {
		return err
	}
	return unix.Fchmod(fd, attr.mode)
}

func (t *tree) entry(dir int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return t.directory(os.NewFile(uintptr(fd), name), name, depth+1)
	case unix.S_IFREG:
		return t.file(dir, name, &st)
	case unix.S_IFLNK:
		target := make([]byte, maxPath)
		n, err := unix.Readlinkat(dir, name, target)
		if err != nil {
			return err
		}
		return t.record(name, &st, target[:n], -1)
	}
	return t.record(name, &st, nil, -1)
}

func (t *tree) file(dir int, name string, st *unix.Stat_t) error {
	if t.finish != nil {
		content := t.sums[st.Ino]
		return t.record(name, st, content[:], -1)
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	content := sha256.New()
	if _, err := io.Copy(content, f); err != nil {
		return fmt.Errorf("cannot read %.300q: %w", name, err)
	}
	return t.record(name, st, content.Sum(nil), fd)
}

// record takes in one entry; fd is where its extended attributes can be read, -1
// where it can have none.
func (t *tree) record(name string, st *unix.Stat_t, content []byte, fd int) error {
	var xattrs []xattr
	switch kind := st.Mode & unix.S_IFMT; {
	case t.finish != nil && (kind == unix.S_IFREG || kind == unix.S_IFDIR):
		xattrs = t.xattrs[st.Ino]
	case t.finish == nil && fd >= 0:
		var err error
		if xattrs, err = readXattrs(fd); err != nil {
			return err
		}
	}
	slices.SortFunc(xattrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	t.bytes([]byte(name))
	size := st.Size
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		size = 0
	}
	t.numbers(uint64(st.Mode), uint64(st.Uid), uint64(st.Gid), uint64(st.Nlink), uint64(size),
		uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec), st.Rdev, uint64(len(xattrs)))
	t.bytes(content)
	for _, a := range xattrs {
		t.bytes([]byte(a.name))
		t.bytes(a.value)
	}
	return nil
}

func (t *tree) bytes(p []byte) {
	t.numbers(uint64(len(p)))
	t.sum.Write(p)
}

func (t *tree) numbers(list ...uint64) {
	for _, n := range list {
		t.sum.Write(binary.LittleEndian.AppendUint64(nil, n))
	}
}

// readXattrs returns the attributes in user., the only ones that unpacking sets.
func readXattrs(fd int) ([]xattr, error) {
	size, err := unix.Flistxattr(fd, nil)
	if err != nil || size == 0 {
		return nil, err
	}
	list := make([]byte, size)
	if size, err = unix.Flistxattr(fd, list); err != nil {
		return nil, err
	}
	var out []xattr
	for name := range strings.SplitSeq(string(list[:size]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		value := make([]byte, maxXattrBytes+maxName)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			return nil, err
		}
		out = append(out, xattr{name, value[:n]})
	}
	return out, nil
}
