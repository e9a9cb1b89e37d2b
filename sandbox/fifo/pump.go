package fifo

import (
	"crypto/sha256"
	"errors"
	"io"
)

const (
	// A chunk is what is hashed at once: so much that waking the one that hashes
	// costs little beside it.
	chunkSize = 512 << 10
	// chunks is how far copying may be ahead of hashing.
	chunks = 4
	// readFrom is the room that a chunk must have left to be read into.
	readFrom = 64 << 10
)

type total struct {
	bytes int64
	hash  [sha256.Size]byte
}

// pump copies src to dst, each read at once, and hashes what dst took. Hashing
// costs as much as reading and writing together, so it has a goroutine of its own,
// which pump waits for and which gets a chunk when it is full. The bytes are read
// once: what is hashed is what was written, even when the source changes meanwhile
// (which splice could not promise).
func pump(dst io.Writer, src io.Reader) (sum total, readErr, writeErr error) {
	var (
		hash  = sha256.New()
		full  chan []byte // written, to be hashed
		free  = make(chan []byte, chunks)
		done  = make(chan struct{})
		made  int
		start = func() {
			full = make(chan []byte, chunks)
			go func() {
				defer close(done)
				for b := range full {
					hash.Write(b)
					free <- b[:0]
				}
			}()
		}
	)
	var buf []byte // as far as it is filled; not yet hashed
	for readErr == nil && writeErr == nil {
		if buf == nil {
			// Short streams, which most are, need one buffer.
			select {
			case buf = <-free:
			default:
				if made < chunks {
					buf = make([]byte, 0, chunkSize)
					made++
				} else {
					buf = <-free
				}
			}
		}
		var n int
		n, readErr = src.Read(buf[len(buf):cap(buf)])
		if n > 0 {
			n, writeErr = dst.Write(buf[len(buf) : len(buf)+n])
			buf = buf[:len(buf)+n]
			sum.bytes += int64(n)
		}
		if cap(buf)-len(buf) >= readFrom {
			continue
		}
		if full == nil {
			start()
		}
		full <- buf
		buf = nil
	}
	if full == nil {
		hash.Write(buf)
	} else {
		if buf != nil {
			full <- buf
		}
		close(full)
		<-done
	}
	hash.Sum(sum.hash[:0])
	if errors.Is(readErr, io.EOF) {
		readErr = nil
	}
	return sum, readErr, writeErr
}
