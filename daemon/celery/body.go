package celery

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"compress/zlib"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// MaxBody is the default of [Options.MaxBody]: what the queue can keep.
const MaxBody = 16 << 20

// content returns the body of a delivery as text: base64 undone, inflated, in
// UTF-8. The content type must be JSON.
func content(d Delivery, limit int) ([]byte, *Error) {
	if err := checkType(d.Properties.ContentType); err != nil {
		return nil, err
	}
	body := d.Body
	if size := max(d.Omitted, uint64(len(body))); size > uint64(limit) {
		return nil, failed(ReasonTooLarge, "the body has %d bytes, at most %d are allowed", size, limit)
	}
	f := headerFields(d.Headers)
	transfer, compression := f.text("body_encoding", maxName), f.text("compression", maxName)
	if err := f.err(); err != nil {
		return nil, &Error{Fail, ReasonHeader, err}
	}
	encoding := strings.ToLower(d.Properties.ContentEncoding)
	if encoding == "base64" {
		encoding, transfer = "", "base64"
	}
	switch encoding {
	case "", utf8Name, "utf8", "us-ascii", "ascii", "binary":
	default:
		return nil, failed(ReasonEncoding, "content encoding %s: only utf-8, ascii, binary and base64 are understood", quote(encoding))
	}
	switch transfer {
	case "":
	case "base64":
		decoded, err := base64.StdEncoding.AppendDecode(nil, body)
		if err != nil {
			return nil, failed(ReasonEncoding, "the body is not the base64 that it is said to be: %w", err)
		}
		body = decoded
	default:
		return nil, failed(ReasonEncoding, "body encoding %s: only base64 is understood", quote(transfer))
	}
	body, err := inflate(body, compression, limit)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(body) {
		return nil, failed(ReasonBody, "the body is not UTF-8")
	}
	return body, nil
}

// checkType refuses by name what Celery can send and only Python can read, or what
// is code. girder_io is jsonpickle, and says application/json.
func checkType(contentType string) *Error {
	name, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		name = strings.ToLower(strings.TrimSpace(contentType))
	}
	refuse := func(what, why string) *Error {
		return failed(ReasonContentType, "the body is %s: %s; send it with the serializer json or girder_io", what, why)
	}
	switch name {
	case typeJSON, "girder_io", "json", "text/json":
		return nil
	case "":
		return failed(ReasonContentType, "the message does not say what its body is: content type is empty")
	case "application/x-python-serialize", "pickle":
		return refuse("a pickle", "reading one runs code of whoever sent it")
	case "application/x-yaml", "application/yaml", "text/yaml", "yaml":
		return refuse("YAML", "it is not read here")
	case "application/x-msgpack", "application/msgpack", "msgpack":
		return refuse("msgpack", "it is not read here")
	case "application/data":
		return refuse("raw bytes", "they hold no arguments")
	}
	return refuse("of type "+quote(contentType), "that is unknown")
}

// inflate undoes kombu's compression: the header names it by a content type or an alias.
func inflate(body []byte, compression string, limit int) ([]byte, *Error) {
	var open func(io.Reader) (io.Reader, error)
	switch strings.ToLower(compression) {
	case "", "identity", "none":
		return body, nil
	case "application/x-gzip", "gzip", "zlib", "application/zlib":
		// kombu's "gzip" is what zlib.compress gives; others mean gzip by it.
		open = func(r io.Reader) (io.Reader, error) { return zlib.NewReader(r) }
		if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
			open = func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
		}
	case "application/x-bz2", "bzip2", "bzip", "bz2":
		open = func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }
	case "application/zstd", "zstd", "zstandard":
		open = func(r io.Reader) (io.Reader, error) {
			// One decoder at a time, without goroutines.
			z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
				zstd.WithDecoderMaxMemory(uint64(limit)+1), zstd.WithDecoderMaxWindow(max(uint64(limit), zstd.MinWindowSize)))
			if err != nil {
				return nil, err
			}
			return z.IOReadCloser(), nil
		}
	default:
		return nil, failed(ReasonCompression, "compression %s: only zlib, bzip2 and zstd are understood", quote(compression))
	}
	tooLarge := failed(ReasonTooLarge, "the body inflates to more than %d bytes", limit)
	r, err := open(bytes.NewReader(body))
	if err == nil {
		var out []byte
		out, err = io.ReadAll(io.LimitReader(r, int64(limit)+1))
		if c, ok := r.(io.Closer); ok {
			c.Close() // decoders of memory: nothing is left to fail
		}
		if err == nil && len(out) > limit {
			return nil, tooLarge
		}
		if err == nil {
			return out, nil
		}
	}
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return nil, tooLarge
	}
	return nil, failed(ReasonCompression, "the body is not the %s that it is said to be: %w", quote(compression), err)
}

// span is where one value of a document stands, which must be valid JSON (with NaN).
type span struct{ key, value []byte }

// spans are the elements of the array, or the members of the object, that doc is.
// A jsonpickle tuple counts as the array in it.
func spans(doc []byte) ([]span, error) {
	s := &scanner{in: doc}
	top, err := s.elements()
	if err != nil {
		return nil, err
	}
	if len(top) == 1 && string(top[0].key) == `"py/tuple"` {
		return spans(top[0].value)
	}
	return top, nil
}

// scanner finds where values end. It relies on the document having been parsed
// before; what it still checks is that it stays within it.
type scanner struct {
	in  []byte
	pos int
}

var errSpan = errors.New("the parts of the body cannot be told apart")

func (s *scanner) space() byte {
	for s.pos < len(s.in) {
		switch c := s.in[s.pos]; c {
		case ' ', '\t', '\n', '\r', ',', ':':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) elements() ([]span, error) {
	open := s.space()
	if open != '[' && open != '{' {
		return nil, errSpan
	}
	s.pos++
	var out []span
	for {
		switch s.space() {
		case 0:
			return nil, errSpan
		case ']', '}':
			return out, nil
		}
		var e span
		if open == '{' {
			e.key = s.value()
			s.space()
		}
		if e.value = s.value(); len(e.value) == 0 {
			return nil, errSpan
		}
		out = append(out, e)
	}
}

// value passes over one value and returns it.
func (s *scanner) value() []byte {
	start, depth := s.pos, 0
	for s.pos < len(s.in) {
		switch c := s.in[s.pos]; c {
		case '"':
			s.text()
		case '[', '{':
			depth++
			s.pos++
		case ']', '}':
			if depth == 0 {
				return s.in[start:s.pos]
			}
			depth--
			s.pos++
		case ' ', '\t', '\n', '\r', ',', ':':
			if depth == 0 {
				return s.in[start:s.pos]
			}
			s.pos++
			continue
		default:
			for s.pos < len(s.in) && !bytes.ContainsRune([]byte(" \t\n\r,:[]{}\""), rune(s.in[s.pos])) {
				s.pos++
			}
		}
		if depth == 0 {
			return s.in[start:s.pos]
		}
	}
	return s.in[start:s.pos]
}

func (s *scanner) text() {
	for s.pos++; s.pos < len(s.in); s.pos++ {
		switch s.in[s.pos] {
		case '\\':
			s.pos++
		case '"':
			s.pos++
			return
		}
	}
	s.pos = len(s.in)
}

// part is the element with an index, or of a key, among spans.
func part(all []span, index int, key string) []byte {
	for i, e := range all {
		if e.key == nil && i == index || e.key != nil && string(e.key) == fmt.Sprintf("%q", key) {
			return e.value
		}
	}
	return nil
}
