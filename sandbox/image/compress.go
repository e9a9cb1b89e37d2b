package image

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// This file reads foreign bytes and runs in the confined child only.

const (
	maxWindow    = 128 << 20 // bytes of history that a zstd stream may ask for
	otherPackers = "unpack it, or use gzip or zstd"
)

type packing int

const (
	plain packing = iota
	gzipped
	zstandard
)

// compression tells by its first bytes how a stream is packed.
func compression(r *bufio.Reader) (packing, error) {
	head, err := r.Peek(6)
	if err != nil && err != io.EOF {
		return plain, fmt.Errorf("cannot read archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return zstandard, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return plain, blame(ErrUnsupported, "the archive is packed with bzip2; %s", otherPackers)
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return plain, blame(ErrUnsupported, "the archive is packed with xz; %s", otherPackers)
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return plain, blame(ErrUnsupported, "the archive is a zip file; %s", formatsHint)
	}
	return plain, nil
}

// decompress unpacks a stream by what it is, whatever its media type says.
func decompress(r *bufio.Reader) (io.ReadCloser, error) {
	how, err := compression(r)
	if err != nil {
		return nil, err
	}
	switch how {
	case gzipped:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, damaged(err, "the compressed data")
		}
		return z, nil
	case zstandard:
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, damaged(err, "the compressed data")
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}
