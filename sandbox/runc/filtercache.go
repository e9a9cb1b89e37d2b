//go:build linux && cgo && seccomp

package runc

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// profileVersion names the profile that is linked in, and cacheFormat our way
// to compile it. Both go into the key of a cached filter: a change of either
// must not find the old one. A test holds profileVersion against go.mod.
const (
	profileVersion = "github.com/moby/profiles/seccomp v0.2.3"
	cacheFormat    = "2"
)

// filterCache keeps compiled filters in memory and in a directory that only
// root can write. What is in a file decides which system calls a container can
// make, so a file is used only if it is root's own and whole.
type filterCache struct {
	dir string

	mu      sync.Mutex
	filters map[string]*filter
}

// newFilterCache makes the directory if need be.
func newFilterCache(dir string) (*filterCache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the cache directory: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, fmt.Errorf("cannot look at the cache directory: %w", &fs.PathError{Op: "lstat", Path: dir, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("cannot use the cache directory %s: it must be a directory of root that no one else can write", dir)
	}
	return &filterCache{dir: dir, filters: make(map[string]*filter)}, nil
}

// get returns the filter for a process with these capabilities, from memory,
// from the directory or newly compiled. A directory that cannot be written
// costs time and nothing else: its error is returned beside the filter.
func (c *filterCache) get(capabilities []string, noSetUID bool) (_ *filter, cacheErr, err error) {
	key, err := filterKey(capabilities, noSetUID)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.filters[key]; f != nil {
		return f, nil, nil
	}
	f, err := c.load(key)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			cacheErr = err
		}
		if f, err = compileFilter(capabilities, noSetUID); err != nil {
			return nil, nil, err
		}
		cacheErr = errors.Join(cacheErr, c.store(key, f))
	}
	c.filters[key] = f
	return f, cacheErr, nil
}

// filterKey is a digest of all that a compiled filter depends on.
func filterKey(capabilities []string, noSetUID bool) (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	major, minor, micro := libseccomp.GetLibraryVersion()
	caps := slices.Clone(capabilities)
	slices.Sort(caps)
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n%s\nlibseccomp %d.%d.%d\n%s\n%v\n", cacheFormat, profileVersion, runtime.GOARCH,
		unix.ByteSliceToString(uts.Release[:]), major, minor, micro, strings.Join(slices.Compact(caps), ","), noSetUID)
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

func (c *filterCache) path(key string) string {
	return filepath.Join(c.dir, "seccomp-"+key+".bpf")
}

// A file is the flags (4 bytes, the machine's order), the program, and the
// SHA-256 of both.

func (c *filterCache) load(key string) (*filter, error) {
	name := c.path(key)
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot read a compiled seccomp filter: %w", err)
	}
	defer file.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return nil, fmt.Errorf("cannot read a compiled seccomp filter: %w", &fs.PathError{Op: "fstat", Path: name, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 || st.Nlink != 1 {
		return nil, fmt.Errorf("cannot trust the compiled seccomp filter %s: it must be a file of root's alone", name)
	}
	const largest = 4 + unix.BPF_MAXINSNS*sizeofSockFilter + sha256.Size
	data, err := io.ReadAll(io.LimitReader(file, largest+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read a compiled seccomp filter: %w", err)
	}
	body, sum := data[:max(0, len(data)-sha256.Size)], data[max(0, len(data)-sha256.Size):]
	want := sha256.Sum256(body)
	if len(data) > largest || len(body) < 4+sizeofSockFilter || (len(body)-4)%sizeofSockFilter != 0 || !bytes.Equal(sum, want[:]) {
		return nil, fmt.Errorf("cannot use the compiled seccomp filter %s: it is damaged", name)
	}
	return &filter{flags: binary.NativeEndian.Uint32(body), program: body[4:]}, nil
}

func (c *filterCache) store(key string, f *filter) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot keep the compiled seccomp filter: %w", err)
		}
	}()
	body := append(binary.NativeEndian.AppendUint32(nil, f.flags), f.program...)
	sum := sha256.Sum256(body)
	tmp, err := os.CreateTemp(c.dir, ".seccomp-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(append(body, sum[:]...))
	// A torn file would be found out by its sum, so that it need not be synced.
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), c.path(key))
}
