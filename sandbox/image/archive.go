package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// This file reads foreign bytes and runs in the confined child only.

const (
	maxMembers = 100_000 // files in an archive
	maxLinks   = 10      // links in a row, inside an archive

	copyHint    = "copy or save the archive again"
	formatsHint = "make one with `docker save`, `podman save --format oci-archive` or `skopeo copy`"
)

// archive is an image archive, indexed: a tar file whose members can be read in
// any order.
type archive struct {
	file    io.ReaderAt
	members map[string]member // by clean path
	// documents is how many bytes of JSON may still be read.
	documents int64
	// absent are the diff ids of layers that need not be in it.
	absent map[string]bool
	// signatures are the descriptors of what is about an image's signatures.
	signatures []descriptor
}

// member is a file of the archive: a part of it, or a link to another.
type member struct {
	offset, size int64
	link         string // clean path of what it stands for, "" for a file
}

// openArchive indexes f. What cannot be read in any order, because it is a pipe
// or compressed, is first written out to the file that spool makes.
func openArchive(f *os.File, limits Limits, spool func() (*os.File, error)) (*archive, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read archive: %w", err)
	}
	if info.IsDir() {
		return nil, blame(ErrUnsupported, "the archive is a directory; give a file, or a tar of the layout")
	}
	var stream io.Reader = f
	if info.Mode().IsRegular() {
		stream = io.NewSectionReader(f, 0, info.Size())
	}
	head := bufio.NewReaderSize(stream, 1<<20)
	how, err := compression(head)
	if err != nil {
		return nil, err
	}
	a := &archive{documents: limits.Documents}
	if how == plain && info.Mode().IsRegular() {
		a.file = f
		return a, a.indexMembers(info.Size())
	}
	r, err := decompress(head)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	body := bufio.NewReaderSize(r, 1<<20)
	if err := beginsLikeTar(body); err != nil {
		return nil, err // before an endless stream fills the disk
	}
	out, err := spool()
	if err != nil {
		return nil, err
	}
	// Layers may be stored plain in the archive, with headers around.
	most := limits.Bytes + limits.Documents + 4096*limits.Entries
	n, err := io.CopyBuffer(onlyWriter{out}, io.LimitReader(onlyReader{body}, most+1), make([]byte, 1<<20))
	if err != nil {
		return nil, damaged(err, "the archive")
	}
	if n > most {
		return nil, blame(ErrTooLarge, "the archive unpacks to more than %d bytes; raise the limit if it is to be trusted", most)
	}
	a.file = out
	return a, a.indexMembers(n)
}

func beginsLikeTar(r *bufio.Reader) error {
	head, err := r.Peek(512)
	if err != nil && err != io.EOF {
		return damaged(err, "the archive")
	}
	if _, err := tar.NewReader(bytes.NewReader(head)).Next(); errors.Is(err, tar.ErrHeader) || err == io.EOF {
		return notAnArchive()
	}
	return nil
}

func notAnArchive() error {
	return blame(ErrUnsupported, "the file is no image archive; %s", formatsHint)
}

// onlyWriter and onlyReader hide all other methods, so that io.CopyBuffer uses
// its buffer.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// indexMembers notes where each file is. The tar reader asks for headers only:
// it seeks over the contents.
func (a *archive) indexMembers(size int64) error {
	a.members = map[string]member{}
	section := io.NewSectionReader(a.file, 0, size)
	tr := tar.NewReader(section)
	for count := 0; ; count++ {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrHeader) && count == 0 {
			return notAnArchive()
		}
		if err != nil {
			return damaged(err, "the archive")
		}
		if count >= maxMembers {
			return blame(ErrTooLarge, "the archive has more than %d files", maxMembers)
		}
		name := inside(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			if isSparse(h) {
				return blame(ErrUnsupported, "the archive holds %q as a sparse file; pack it again without", h.Name)
			}
			offset, err := section.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			if h.Size > size-offset {
				return blame(ErrCorrupt, "the archive ends within %q; %s", h.Name, copyHint)
			}
			a.members[name] = member{offset: offset, size: h.Size}
		case tar.TypeSymlink:
			target := h.Linkname
			if !path.IsAbs(target) {
				target = path.Join(path.Dir("/"+name), target)
			}
			a.members[name] = member{link: inside(target)}
		case tar.TypeLink:
			a.members[name] = member{link: inside(h.Linkname)}
		}
	}
	return nil
}

// inside makes any path a clean one relative to the archive.
func inside(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

func isSparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// find looks a file up, through links inside the archive.
func (a *archive) find(name string) (member, bool) {
	name = inside(name)
	for range maxLinks {
		m, ok := a.members[name]
		if !ok || m.link == "" {
			return m, ok
		}
		name = m.link
	}
	return member{}, false
}

func (a *archive) open(m member) io.Reader { return io.NewSectionReader(a.file, m.offset, m.size) }

// document reads a JSON document whole.
func (a *archive) document(name string) ([]byte, error) {
	m, ok := a.find(name)
	if !ok {
		return nil, blame(ErrCorrupt, "%s is missing in the archive; %s", name, copyHint)
	}
	if m.size > a.documents {
		return nil, blame(ErrTooLarge, "%s has %d bytes, too many for a document", name, m.size)
	}
	a.documents -= m.size
	data := make([]byte, m.size)
	if _, err := io.ReadFull(a.open(m), data); err != nil {
		return nil, damaged(err, name)
	}
	return data, nil
}

func decodeDocument(name string, data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return blame(ErrCorrupt, "%s is not the document that it should be (%v); %s", name, err, copyHint)
	}
	return nil
}

// damaged tells what a failed read of foreign bytes means.
func damaged(err error, what string) error {
	var known *blamed
	var errno unix.Errno
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &errno): // of the machine, not of the archive
		return fmt.Errorf("cannot read or unpack %s: %w", what, err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return blame(ErrCorrupt, "%s ends too early; %s", what, copyHint)
	}
	return blame(ErrCorrupt, "%s cannot be read (%v); %s", what, err, copyHint)
}
