package scratch

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	blockSize = 4096
	// templatesKept is how many sizes are kept; jobs name few.
	templatesKept = 16
	// A change of what makes a template must change its name.
	templatePrefix = "ext4-2-"
	// features are all that it has; mkfs.ext4 has no defaults without its
	// configuration. Tables that are not used yet are not written (uninit_bg), all of
	// them lie together (flex_bg, one group), and there are no copies of the
	// superblock, which are for disks that break: the least to copy, and to free again.
	features = "none,extent,flex_bg,uninit_bg,sparse_super2,filetype,dir_index,large_file,huge_file,dir_nlink,extra_isize,64bit"
)

// openTemplate returns the empty file system of a size, made if need be.
func openTemplate(dir string, size int64) (*os.File, error) {
	name := filepath.Join(dir, templatePrefix+strconv.FormatInt(size, 10))
	f, err := os.Open(name)
	if !errors.Is(err, os.ErrNotExist) {
		if err != nil {
			return nil, fmt.Errorf("cannot open the template of a scratch disk: %w", err)
		}
		return f, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot keep the template of a scratch disk: %w", err)
	}
	forget(dir)
	tmp, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return nil, fmt.Errorf("cannot make the template of a scratch disk: %w", err)
	}
	err = tmp.Truncate(withOverhead(size))
	if err == nil {
		err = format(tmp.Name(), size)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
		tmp.Close()
		return nil, fmt.Errorf("cannot make the template of a scratch disk: %w", err)
	}
	return tmp, nil
}

// withOverhead is the size of a file in which size bytes of files have room
// beside the tables of the file system.
func withOverhead(size int64) int64 {
	return (size + size/32 + (1 << 20) + blockSize - 1) / blockSize * blockSize
}

func format(name string, size int64) error {
	program, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		for _, dir := range []string{"/usr/sbin", "/sbin"} {
			if _, statErr := os.Stat(filepath.Join(dir, "mkfs.ext4")); statErr == nil {
				program, err = filepath.Join(dir, "mkfs.ext4"), nil
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("%w: there is no mkfs.ext4; install e2fsprogs", ErrUnavailable)
	}
	cmd := exec.Command(program, "-q", "-F", "-b", strconv.Itoa(blockSize), "-m", "0", "-I", "256",
		"-N", strconv.FormatInt(max(size/bytesPerInode, 64), 10),
		"-O", features, "-G", "65536", "-E", "num_backup_sb=0,lazy_itable_init=1,nodiscard,root_owner=0:0", name)
	// The file system of a job is not described by whoever started the daemon.
	cmd.Env = []string{"MKE2FS_CONFIG=/dev/null"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %.300s", err, out)
	}
	return nil
}

// forget removes the templates that were made first, down to one less than are
// kept, and what a process that died has left.
func forget(dir string) {
	type template struct {
		name string
		made int64
	}
	var all []template
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			all = append(all, template{filepath.Join(dir, e.Name()), info.ModTime().UnixNano()})
		}
	}
	slices.SortFunc(all, func(a, b template) int { return cmp.Compare(a.made, b.made) })
	for len(all) >= templatesKept {
		_ = os.Remove(all[0].name)
		all = all[1:]
	}
}

// copySparse makes to the same as from, which has little data in it.
func copySparse(to, from *os.File) error {
	fi, err := from.Stat()
	if err == nil {
		err = to.Truncate(fi.Size())
	}
	for at := int64(0); err == nil; {
		var data, hole int64
		if data, err = from.Seek(at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err == nil {
			hole, err = from.Seek(data, unix.SEEK_HOLE)
		}
		if err == nil {
			_, err = io.Copy(io.NewOffsetWriter(to, data), io.NewSectionReader(from, data, hole-data))
		}
		at = hole
	}
	return fmt.Errorf("cannot copy the template of a scratch disk: %w", err)
}
