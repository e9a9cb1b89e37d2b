package attempt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The files events and log are a preamble and then frames, little-endian:
//
//	preamble  "gwframe" and the format's version, 8 bytes
//	frame     uint32 length of the payload
//	          uint32 CRC-32C of everything in the frame but this field
//	          int64  nanoseconds since 1970
//	          uint8  type: 1 in events, the LogStream in log
//	          payload
//
// A frame that the file ends in is torn: its writer was interrupted, or is
// still at it. So is a header of zeros, which is what a file system leaves
// after a power cut where it had extended a file and not yet written to it.
const (
	frameHeader = 17
	// maxPayload bounds a frame, and with it what a reader holds in memory.
	maxPayload = 64 << 10
)

var (
	preamble   = []byte("gwframe\x01")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

type frame struct {
	typ     byte
	time    time.Time
	payload []byte // valid until the next read
}

func appendFrame(buf []byte, typ byte, t time.Time, payload []byte) []byte {
	start := len(buf)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload)))
	buf = append(buf, 0, 0, 0, 0)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.UnixNano()))
	buf = append(buf, typ)
	buf = append(buf, payload...)
	binary.LittleEndian.PutUint32(buf[start+4:], frameSum(buf[start:]))
	return buf
}

func frameSum(frame []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, frame[:4]), castagnoli, frame[8:])
}

// frameReader reads a file that may be growing, or not be there yet.
type frameReader struct {
	path   string
	f      *os.File // nil until the file exists
	offset int64    // of the next frame
	buf    []byte   // what was read beyond offset
	store  []byte   // what buf is a part of
}

// openFrames starts at an offset that a reader of the same file was at, or at
// the beginning with 0.
func openFrames(path string, offset int64) (*frameReader, error) {
	if offset < 0 || offset > 0 && offset < int64(len(preamble)) {
		return nil, fmt.Errorf("%w: offset %d in %s", ErrInvalid, offset, path)
	}
	r := &frameReader{path: path, offset: offset}
	return r, r.open()
}

func (r *frameReader) open() error {
	f, err := openNoFollow(r.path, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.f = f
	return err
}

func (r *frameReader) close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}

// next returns io.EOF when no complete frame follows, and may be called again
// after it. ErrCorrupt stays.
func (r *frameReader) next() (frame, error) {
	f, err := r.parse()
	if errors.Is(err, io.EOF) {
		r.buf = nil // a torn tail may be cut off and written anew: read it again
	}
	return f, err
}

func (r *frameReader) parse() (frame, error) {
	if r.f == nil {
		if err := r.open(); err != nil {
			return frame{}, err
		}
		if r.f == nil {
			return frame{}, io.EOF
		}
	}
	if r.offset == 0 {
		head, err := r.peek(len(preamble))
		if err != nil {
			return frame{}, err
		}
		n := len(preamble) - 1
		if !bytes.Equal(head[:n], preamble[:n]) {
			if allZero(head) {
				return frame{}, io.EOF
			}
			return frame{}, fmt.Errorf("%w: %s does not start as it should", ErrCorrupt, r.path)
		}
		if head[n] > preamble[n] {
			return frame{}, fmt.Errorf("%s: %w", r.path, ErrVersion)
		}
		r.take(len(preamble))
	}
	head, err := r.peek(frameHeader)
	if err != nil {
		return frame{}, err
	}
	if allZero(head) {
		return frame{}, io.EOF
	}
	size := binary.LittleEndian.Uint32(head)
	if size > maxPayload {
		return frame{}, fmt.Errorf("%w: %s at byte %d: length %d", ErrCorrupt, r.path, r.offset, size)
	}
	whole, err := r.peek(frameHeader + int(size))
	if err != nil {
		return frame{}, err
	}
	if binary.LittleEndian.Uint32(whole[4:]) != frameSum(whole) {
		return frame{}, fmt.Errorf("%w: %s at byte %d: checksum differs", ErrCorrupt, r.path, r.offset)
	}
	r.take(len(whole))
	return frame{
		typ:     whole[16],
		time:    time.Unix(0, int64(binary.LittleEndian.Uint64(whole[8:]))),
		payload: whole[frameHeader:],
	}, nil
}

// peek returns the next n bytes without moving on, or io.EOF.
func (r *frameReader) peek(n int) ([]byte, error) {
	for len(r.buf) < n {
		if room := max(32<<10, n); cap(r.store) < room {
			r.store = make([]byte, room)
		}
		r.store = r.store[:cap(r.store)]
		kept := copy(r.store, r.buf)
		got, err := r.f.ReadAt(r.store[kept:], r.offset+int64(kept))
		r.buf = r.store[:kept+got]
		if got == 0 {
			if err == nil {
				err = io.ErrNoProgress
			}
			return nil, err
		}
	}
	return r.buf[:n], nil
}

func (r *frameReader) take(n int) {
	r.buf = r.buf[n:]
	r.offset += int64(n)
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// frameWriter appends to a file whose attempt it has locked.
type frameWriter struct {
	f   *os.File
	end int64 // behind the last whole frame
	buf []byte
}

// createFrames opens a file for writing behind its last whole frame, which
// each is shown; a torn tail is cut off. A corrupt frame is an error: what
// follows it would be out of reach.
func createFrames(path string, gid int, each func(frame)) (*frameWriter, error) {
	f, err := openNoFollow(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		f, err = createOwned(path, gid)
	}
	if err != nil {
		return nil, err
	}
	w := &frameWriter{f: f}
	if err := w.resume(path, gid, each); err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

func (w *frameWriter) resume(path string, gid int, each func(frame)) error {
	if err := ownFile(w.f, gid); err != nil {
		return err
	}
	info, err := w.f.Stat()
	if err != nil {
		return err
	}
	r := &frameReader{path: path, f: w.f}
	for info.Size() > 0 {
		fr, err := r.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		each(fr)
	}
	w.end = r.offset
	if info.Size() > w.end {
		if err := w.f.Truncate(w.end); err != nil {
			return err
		}
	}
	if w.end == 0 {
		w.buf = append(w.buf, preamble...)
		return w.flush()
	}
	return nil
}

// reserve takes disk space behind the end without making the file longer. It
// is a precaution: a file system that cannot is no error.
func (w *frameWriter) reserve(size int64) {
	_ = unix.Fallocate(int(w.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, w.end, size)
}

func (w *frameWriter) add(typ byte, t time.Time, payload []byte) {
	w.buf = appendFrame(w.buf, typ, t, payload)
}

// flush writes what was added, all or nothing: after an error the file ends
// where it did and the frames are gone.
func (w *frameWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	n, err := w.f.WriteAt(w.buf, w.end)
	if err == nil {
		w.end += int64(n)
	} else {
		// Part of it may be in the file, whatever n says. Readers ignore that
		// if it cannot be cut off.
		_ = w.f.Truncate(w.end)
	}
	w.buf = w.buf[:0]
	return err
}
