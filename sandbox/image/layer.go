package image

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// This file reads foreign bytes and runs in the confined child only.

// progressEvery is how often an import tells how far it is.
const progressEvery = 200 * time.Millisecond

// unpackArchive is the worker's work for an import. It writes below dir.
func unpackArchive(f *os.File, dir string, req *request, out *json.Encoder, answers io.Reader) error {
	limits := req.Limits
	spool := func() (*os.File, error) {
		name := filepath.Join(dir, "spool")
		spool, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		return spool, os.Remove(name)
	}
	keys, err := parseKeys(req.Keys)
	if err != nil {
		return err
	}
	var over *Signature
	if len(req.Signature) > 0 {
		if f, over, err = keys.overArchive(f, req.Signature, limits, spool); err != nil {
			return err
		}
	}
	a, err := openArchive(f, limits, spool)
	if err != nil {
		return err
	}
	a.absent = map[string]bool{}
	for _, id := range req.Absent {
		a.absent[id] = true
	}
	p, err := a.plan(limits)
	if err != nil {
		return err
	}
	if err := a.sign(p, keys, over); err != nil {
		return err
	}
	if err := out.Encode(message{Plan: p.images}); err != nil {
		return err
	}
	var reply answer
	if err := json.NewDecoder(answers).Decode(&reply); err != nil {
		return fmt.Errorf("cannot read the answer to the plan: %w", err)
	}
	done := map[string]bool{}
	for _, hex := range reply.Have {
		done["sha256:"+hex] = true
	}
	u := &unpacker{archive: a, dir: dir, limits: limits, out: out}
	u.progress.Layers = len(p.blobs)
	for _, b := range p.blobs {
		u.progress.Total += b.member.size
	}
	for _, b := range p.blobs {
		u.progress.Layer++
		switch {
		case b.missing && !done[b.diffID]:
			err = blame(ErrCorrupt, "layer %s was left out and is not in the store any more; pull again", b.diffID)
		case b.missing:
		case done[b.diffID]:
			err = u.check(b, func(io.Reader) error { return nil })
		default:
			err = u.unpack(b)
		}
		if err != nil {
			return err
		}
		done[b.diffID] = true
	}
	if u.skipped.Count > 0 {
		if err := out.Encode(message{Skipped: &u.skipped}); err != nil {
			return err
		}
	}
	return out.Encode(message{Done: true})
}

// unpacker unpacks the layers of one archive, within one set of limits.
type unpacker struct {
	archive *archive
	dir     string
	limits  Limits
	out     *json.Encoder

	bytes   int64 // of files unpacked
	stream  int64 // of layer tars read
	entries int64
	skipped skipped

	read     atomic.Int64 // stored bytes of layers
	progress Progress
	told     time.Time
}

// check reads a blob to its end by way of use and compares its digests.
func (u *unpacker) check(b blob, use func(io.Reader) error) error {
	stored, unpacked := sha256.New(), sha256.New()
	raw := io.Reader(&counter{r: u.archive.open(b.member), n: &u.read})
	if b.digest != "" {
		raw = io.TeeReader(raw, stored)
	}
	head := bufio.NewReaderSize(raw, 256<<10)
	dec, err := decompress(head)
	if err != nil {
		return err
	}
	defer dec.Close()
	tee := &hashingReader{r: dec, sum: unpacked, u: u}
	if err := use(tee); err != nil {
		return damaged(err, b.name)
	}
	// Padding behind the end of the tar counts for the digests too.
	if _, err := io.CopyBuffer(io.Discard, onlyReader{tee}, make([]byte, 256<<10)); err != nil {
		return damaged(err, b.name)
	}
	dec.Close() // and with it what it may have started
	if _, err := io.Copy(io.Discard, head); err != nil {
		return damaged(err, b.name)
	}
	if got := hex.EncodeToString(stored.Sum(nil)); b.digest != "" && got != hexOf(b.digest) {
		return mismatch(b.name, hexOf(b.digest), got)
	}
	if got := hex.EncodeToString(unpacked.Sum(nil)); got != hexOf(b.diffID) {
		return mismatch(b.name+" unpacked", hexOf(b.diffID), got)
	}
	return nil
}

// counter counts the stored bytes of layers. A decompressor may read ahead in a
// goroutine of its own.
type counter struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// hashingReader is the stream of a layer's tar: hashed, bounded, and told of.
type hashingReader struct {
	r   io.Reader
	sum hash.Hash
	u   *unpacker
}

func (h *hashingReader) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	h.sum.Write(p[:n])
	h.u.stream += int64(n)
	if now := time.Now(); now.Sub(h.u.told) >= progressEvery {
		h.u.told = now
		h.u.progress.Read = h.u.read.Load()
		if err := h.u.out.Encode(message{Progress: &h.u.progress}); err != nil {
			return n, err
		}
	}
	if most := h.u.limits.Bytes + 4096*h.u.limits.Entries; h.u.stream > most {
		return n, blame(ErrTooLarge, "its layers unpack to more than %d bytes (a compression bomb?); raise the limit if it is to be trusted", most)
	}
	return n, err
}

// unpack unpacks a layer into the directory named by its diff id.
func (u *unpacker) unpack(b blob) error {
	name := filepath.Join(u.dir, hexOf(b.diffID))
	if err := os.Mkdir(name, 0o700); err != nil {
		return err
	}
	root, err := unix.Open(name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	x := &extractor{
		u: u, root: root, parent: -1,
		dirs: map[uint64]attributes{}, sums: map[uint64][sha256.Size]byte{}, xattrs: map[uint64][]xattr{},
		buf: make([]byte, 256<<10),
	}
	defer x.forgetParent()
	bytes, entries := u.bytes, u.entries
	if err := u.check(b, x.extract); err != nil {
		return err
	}
	x.forgetParent()
	tree, err := (&tree{finish: x.dirs, sums: x.sums, xattrs: x.xattrs, depth: u.limits.Depth}).digest(root)
	if err != nil {
		return err
	}
	return u.out.Encode(message{Layer: &unpackedLayer{DiffID: b.diffID, Size: u.bytes - bytes, Entries: u.entries - entries, Tree: tree}})
}
