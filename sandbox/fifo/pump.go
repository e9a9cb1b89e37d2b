package fifo

import (
	"crypto/sha256"
	"errors"
	"io"
)

const (
	// A chunk of 128 KiB through a pipe of 1 MiB is as fast as larger ones, and
	// still fits the processor's cache when it is hashed.
	chunkSize = 128 << 10
	// chunks is how far copying may be ahead of hashing.
	chunks = 4
	// shareFrom is how much must come at once before a goroutine for the
	// hashing is worth its start.
	shareFrom = 16 << 10
)

type total struct {
	bytes int64
	hash  [sha256.Size]byte
}

// pump copies src to dst and hashes what dst took. Hashing costs as much as
// reading and writing together, so it has a goroutine of its own, which pump
// waits for. The bytes are read once: what is hashed is what was written, even
// when the source changes meanwhile (which splice could not promise).
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
					free <- b[:cap(b)]
				}
			}()
		}
	)
	for readErr == nil && writeErr == nil {
		// Short streams, which most are, need one buffer.
		var buf []byte
		select {
		case buf = <-free:
		default:
			if made < chunks {
				buf = make([]byte, chunkSize)
				made++
			} else {
				buf = <-free
			}
		}
		var n int
		n, readErr = src.Read(buf)
		if n > 0 {
			n, writeErr = dst.Write(buf[:n])
			sum.bytes += int64(n)
		}
		switch {
		case full == nil && n < shareFrom:
			hash.Write(buf[:n])
			free <- buf
		default:
			if full == nil {
				start()
			}
			full <- buf[:n]
		}
	}
	if full != nil {
		close(full)
		<-done
	}
	hash.Sum(sum.hash[:0])
	if errors.Is(readErr, io.EOF) {
		readErr = nil
	}
	return sum, readErr, writeErr
}
