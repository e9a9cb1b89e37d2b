package girder

import (
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Download is the contents of a file, read from the server as they are taken. A
// connection that breaks or stands still is replaced by one that goes on from
// there. The end, io.EOF, comes only when the size is the file's, and so is the
// SHA-512 where the server has told it; anything else is an error.
type Download struct {
	c    *Client
	ctx  context.Context
	file File
	size int64 // -1: not known
	read int64
	sum  hash.Hash // nil: there is none to compare with

	response *http.Response // nil between connections
	timer    *timer
	failures int // in a row, since the last byte
	resumed  bool
	err      error // what every further Read returns
}

// Download begins to read a file. The context ends the whole of it. The caller
// closes what it gets.
func (c *Client) Download(ctx context.Context, f File) (*Download, error) {
	if err := checkID("file", f.ID); err != nil {
		return nil, err
	}
	d := &Download{c: c, ctx: ctx, file: f, size: -1}
	if f.Size != nil {
		if d.size = *f.Size; d.size < 0 {
			return nil, fmt.Errorf("cannot download file %s: %w: its size is %d", f.ID, ErrAnswer, d.size)
		}
	}
	if f.SHA512 != "" {
		d.sum = sha512.New()
	}
	if err := c.again(ctx, true, d.connect); err != nil {
		return nil, err
	}
	return d, nil
}

// Size returns the number of bytes that the file has, -1 when the server does not
// know (it did not say how long a link's target is).
func (d *Download) Size() int64 { return d.size }

// connect asks for what is still missing.
func (d *Download) connect() error {
	token, err := d.c.token.get(d.ctx, d.c)
	if err != nil {
		return err
	}
	// A try of its own, so that a token which has ended is replaced.
	err = d.open(token)
	if status := (*StatusError)(nil); errors.As(err, &status) && status.Status == http.StatusUnauthorized && d.c.token.drop(token) {
		if token, err = d.c.token.get(d.ctx, d.c); err != nil {
			return err
		}
		err = d.open(token)
	}
	return err
}

func (d *Download) open(token string) error {
	r := call{method: http.MethodGet, path: "file/" + d.file.ID + "/download", header: http.Header{}}
	if d.read > 0 {
		r.header.Set("Range", fmt.Sprintf("bytes=%d-", d.read))
	}
	response, timer, err := d.c.send(d.ctx, r, token)
	if err != nil {
		return err
	}
	timer.reset(d.c.stall)
	if err := d.check(r, response, timer); err != nil {
		response.Body.Close()
		timer.end()
		return err
	}
	d.response, d.timer = response, timer
	return nil
}

// check holds an answer against what was asked for and is known.
func (d *Download) check(r call, response *http.Response, timer *timer) error {
	if e := response.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return d.wrong("it came in the encoding %.100q", e)
	}
	length := response.ContentLength // -1: not told
	switch {
	case response.StatusCode == http.StatusOK && d.read == 0:
	case response.StatusCode == http.StatusPartialContent && d.read > 0:
		first, total, ok := contentRange(response.Header.Get("Content-Range"))
		if !ok || first != d.read {
			return d.wrong("asked for byte %d on, got %.100q", d.read, response.Header.Get("Content-Range"))
		}
		if d.size >= 0 && total >= 0 && total != d.size {
			return d.wrong("it had %d bytes, now it has %d", d.size, total)
		}
	case response.StatusCode == http.StatusOK: // the server does not know ranges
		if d.size >= 0 && length >= 0 && length != d.size {
			return d.wrong("it had %d bytes, now it has %d", d.size, length)
		}
		if _, err := io.CopyN(io.Discard, &timedReader{response.Body, timer}, d.read); err != nil {
			return &answerError{r, err}
		}
		return nil
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		return d.wrong("it ends before byte %d", d.read)
	default:
		return statusError(r, response)
	}
	if length >= 0 {
		switch total := d.read + length; {
		case d.size < 0:
			d.size = total
		case total != d.size:
			return d.wrong("it should have %d bytes, the server sends %d", d.size, total)
		}
	}
	return nil
}

func (d *Download) wrong(format string, args ...any) error {
	return fmt.Errorf("cannot download file %s: %w: "+format, append([]any{d.file.ID, ErrContents}, args...)...)
}

// contentRange reads "bytes 2-9/10"; total is -1 when it is "*".
func contentRange(s string) (first, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, all, ok2 := strings.Cut(s, "/")
	from, _, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if all == "*" {
		return first, -1, true
	}
	total, err = strconv.ParseInt(all, 10, 64)
	return first, total, err == nil
}

// Read reads the next bytes. It goes on after failures, as often in a row as
// [Retry] says without a byte in between.
func (d *Download) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for d.err == nil {
		n, err := d.response.Body.Read(p)
		d.timer.progress()
		if n > 0 {
			d.failures = 0
			d.read += int64(n)
			if d.sum != nil {
				d.sum.Write(p[:n])
			}
		}
		switch {
		case d.size >= 0 && d.read > d.size:
			d.err = d.wrong("it should have %d bytes, the server sends more", d.size)
			return 0, d.err
		case err == nil:
		case d.read == d.size, d.size < 0 && errors.Is(err, io.EOF):
			d.err = d.finish()
		default:
			d.err = d.resume(cause(d.ctx, d.response.Request.Context(), err))
		}
		if n > 0 {
			return n, nil // what comes after it is told by the next call
		}
	}
	return 0, d.err
}

// resume connects again after a failure, or says why not.
func (d *Download) resume(err error) error {
	d.disconnect()
	if d.ctx.Err() != nil {
		return context.Cause(d.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	for {
		if d.failures++; d.failures >= d.c.retry.Attempts || d.size < 0 {
			return fmt.Errorf("cannot download file %s beyond byte %d of %d: %w", d.file.ID, d.read, d.size, err)
		}
		if err := d.c.rest(d.ctx, d.failures, err); err != nil {
			return err
		}
		if err = d.connect(); err == nil {
			d.resumed = true
			return nil
		}
		if d.ctx.Err() != nil {
			return context.Cause(d.ctx)
		}
		if temporary, _ := judge(err); !temporary {
			return err
		}
	}
}

// finish checks the whole and returns io.EOF, or what is wrong with it.
func (d *Download) finish() error {
	d.disconnect()
	switch {
	case d.sum != nil:
		if got := hex.EncodeToString(d.sum.Sum(nil)); !strings.EqualFold(got, d.file.SHA512) {
			return d.wrong("its SHA-512 is %s, Girder says %.128q", got, d.file.SHA512)
		}
	case d.resumed && !d.file.Created.IsZero():
		// Parts of it came at different times: of the same contents?
		now, err := d.c.File(d.ctx, d.file.ID)
		if err != nil {
			return fmt.Errorf("cannot download file %s: cannot see whether it changed: %w", d.file.ID, err)
		}
		if !now.Created.Equal(d.file.Created) || now.Size == nil || *now.Size != d.size {
			return d.wrong("it was replaced while it was read")
		}
	}
	return io.EOF
}

func (d *Download) disconnect() {
	if d.response != nil {
		d.timer.end() // first: closing a body may read it to the end
		d.response.Body.Close()
		d.response = nil
	}
}

// Close ends the download wherever it is.
func (d *Download) Close() error {
	d.disconnect()
	if d.err == nil {
		d.err = errors.New("cannot read a closed download")
	}
	return nil
}
