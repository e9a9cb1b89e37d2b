package girder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// NewFile describes a file that is to be made.
type NewFile struct {
	// ParentType is "item" or "folder". In a folder every file gets an item of
	// its own, named like it, or "NAME (1)" and so on where that is taken.
	ParentType string
	ParentID   string
	Name       string
	Size       int64
	MimeType   string // empty: not known
	Reference  string // handed to whoever handles Girder's data.process; empty: none
}

// Upload is an upload that the server knows of. Its JSON form is all that is needed
// to go on with it in another process: keep that before sending the first byte, and
// the file will exist once, however often the sending is interrupted.
type Upload struct {
	ID         string `json:"id"`
	ParentType string `json:"parent_type,omitempty"`
	ParentID   string `json:"parent_id,omitempty"`
	// FileID is the file whose contents are replaced; empty: a new file.
	FileID string `json:"file_id,omitempty"`
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	// Since is a moment before the file was made, by the server's clock.
	Since time.Time `json:"since"`

	fresh bool // nothing was sent yet, as far as this process knows
}

// uploadDocument is the answer to what begins or continues an upload: Girder's
// document of the upload, or when that is complete, of the file.
type uploadDocument struct {
	File
	ModelType string `json:"_modelType"`
	Received  *int64 `json:"received"`

	serverTime time.Time
}

func (d *uploadDocument) setServerTime(t time.Time) { d.serverTime = t }

func (d *uploadDocument) isFile() bool { return d.ModelType == "file" || d.Received == nil }

func section(content io.ReaderAt, offset, length int64) func() io.Reader {
	return func() io.Reader { return io.NewSectionReader(content, offset, length) }
}

func (f NewFile) query() (url.Values, error) {
	if f.ParentType != "item" && f.ParentType != "folder" {
		return nil, fmt.Errorf("cannot upload into a %.20q: want an item or a folder", f.ParentType)
	}
	if f.Size < 0 {
		return nil, fmt.Errorf("cannot upload %d bytes", f.Size)
	}
	q := url.Values{"parentType": {f.ParentType}, "parentId": {f.ParentID}, "name": {f.Name}, "size": {strconv.FormatInt(f.Size, 10)}}
	if f.MimeType != "" {
		q.Set("mimeType", f.MimeType)
	}
	if f.Reference != "" {
		q.Set("reference", f.Reference)
	}
	return q, checkID(f.ParentType, f.ParentID)
}

// BeginUpload announces a new file. An empty file is complete with that: then the
// second result is not nil and the first is of no use.
func (c *Client) BeginUpload(ctx context.Context, f NewFile) (Upload, *File, error) {
	query, err := f.query()
	if err != nil {
		return Upload{}, nil, err
	}
	u := Upload{ParentType: f.ParentType, ParentID: f.ParentID, Name: f.Name, Size: f.Size}
	if f.Size == 0 {
		done, err := c.makeWhole(ctx, u, query, nil)
		return Upload{}, &done, err
	}
	return c.begin(ctx, u, call{method: http.MethodPost, path: "file", query: query})
}

// BeginReplacement announces new contents for a file. Until all of them have
// arrived the file keeps the old ones. No contents at all are complete at once, as
// with [Client.BeginUpload].
func (c *Client) BeginReplacement(ctx context.Context, f File, size int64, reference string) (Upload, *File, error) {
	if err := checkID("file", f.ID); err != nil {
		return Upload{}, nil, err
	}
	query := url.Values{"size": {strconv.FormatInt(size, 10)}}
	if reference != "" {
		query.Set("reference", reference)
	}
	return c.begin(ctx, Upload{FileID: f.ID, Name: f.Name, Size: size},
		call{method: http.MethodPut, path: "file/" + f.ID + "/contents", query: query})
}

// begin makes the call that answers an upload document. Made twice, the server has
// two uploads, of which one is never sent to: no file comes of it.
func (c *Client) begin(ctx context.Context, u Upload, r call) (Upload, *File, error) {
	var doc uploadDocument
	r.repeatable = true
	if err := c.do(ctx, r, &doc); err != nil {
		return Upload{}, nil, err
	}
	if err := checkID("upload", doc.ID); err != nil {
		return Upload{}, nil, err
	}
	if doc.isFile() {
		if doc.Size == nil || *doc.Size != u.Size {
			return Upload{}, nil, fmt.Errorf("cannot begin to upload %.200q: %w: it calls the file complete", u.Name, ErrAnswer)
		}
		return Upload{}, &doc.File, nil
	}
	u.ID, u.Since, u.fresh = doc.ID, doc.Created, true
	return u, nil, nil
}

// SendUpload sends the contents, u.Size bytes, from where the server's part ends to
// the end, and returns the finished file. It goes on after failures, as often in a
// row as [Retry] says without a byte in between. sent, which may be nil, is told
// how much the server has. An upload that was already finished ends well: its file
// is looked for. On other errors the upload stays as it is, to be resumed or
// canceled.
func (c *Client) SendUpload(ctx context.Context, u Upload, content io.ReaderAt, sent func(offset int64)) (File, error) {
	if err := checkID("upload", u.ID); err != nil {
		return File{}, err
	}
	if sent == nil {
		sent = func(int64) {}
	}
	fail := func(offset int64, err error) (File, error) {
		return File{}, fmt.Errorf("cannot upload %.200q beyond byte %d of %d: %w", u.Name, offset, u.Size, err)
	}
	var offset, best int64
	known, failures := u.fresh, 0
	for {
		var doc uploadDocument
		var err error
		switch {
		case !known:
			offset, err = c.settledOffset(ctx, u)
			if errors.Is(err, errUploadGone) {
				return c.finished(ctx, u, err)
			}
			known = err == nil
		case offset == u.Size: // all is there, but the server did not get to make a file of it
			err = c.once(ctx, call{method: http.MethodPost, path: "file/completion", query: url.Values{"uploadId": {u.ID}}}, &doc)
			if err == nil {
				return c.complete(u, doc)
			}
			known = false
		default:
			n := min(c.chunkSize, u.Size-offset)
			whole := &lengthReader{at: content, offset: offset, left: n}
			err = c.once(ctx, call{
				method: http.MethodPost, path: "file/chunk",
				query:   url.Values{"offset": {strconv.FormatInt(offset, 10)}, "uploadId": {u.ID}},
				content: whole.open, length: n,
			}, &doc)
			if short := whole.err(); short != nil {
				return fail(offset, short)
			}
			switch {
			case err != nil:
				known = false
			case doc.isFile():
				return c.complete(u, doc)
			case *doc.Received != offset+n:
				return fail(offset, fmt.Errorf("%w: the server counts %d bytes", ErrAnswer, *doc.Received))
			default:
				offset += n
			}
		}
		if err == nil {
			if offset > best {
				best, failures = offset, 0
			}
			sent(offset)
			continue
		}
		if ctx.Err() != nil {
			return fail(offset, contextual(ctx, err, true))
		}
		temporary, _ := judge(err)
		// Refused because of what an earlier try did? The offset will tell.
		moved := errors.Is(err, ErrOffset) || errors.Is(err, ErrNoSuch)
		if failures++; !temporary && !moved || failures >= c.retry.Attempts {
			return fail(offset, err)
		}
		if err := c.rest(ctx, failures, err); err != nil {
			return fail(offset, err)
		}
	}
}

// lengthReader reads a chunk and notices when there is less than announced, which
// net/http would tell as a broken connection.
type lengthReader struct {
	at     io.ReaderAt
	offset int64
	left   int64
	failed errorBox
}

// open returns the chunk from its beginning. It is called once a try.
func (r *lengthReader) open() io.Reader {
	return &chunkReader{section: io.NewSectionReader(r.at, r.offset, r.left), want: r.left, failed: &r.failed}
}

func (r *lengthReader) err() error { return r.failed.get() }

type chunkReader struct {
	section *io.SectionReader
	want    int64
	failed  *errorBox
}

func (r *chunkReader) Read(p []byte) (int, error) {
	n, err := r.section.Read(p)
	r.want -= int64(n)
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF):
		r.failed.set(fmt.Errorf("cannot read the contents: %w", err))
	case r.want > 0:
		r.failed.set(fmt.Errorf("%w: %d bytes are missing at the end", ErrContents, r.want))
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// errUploadGone is the server's answer for an upload that was finished or canceled.
var errUploadGone = errors.New("the upload is not there any more")

// settledOffset asks for the offset until it is the same twice: a server may still
// be busy with what came of a chunk that broke off, and would mix the next one into it.
func (c *Client) settledOffset(ctx context.Context, u Upload) (int64, error) {
	for before := int64(-1); ; {
		offset, err := c.offset(ctx, u)
		if err != nil || offset == before {
			return offset, err
		}
		before = offset
		if err := c.sleep(ctx, c.retry.First); err != nil {
			return 0, err
		}
	}
}

func (c *Client) offset(ctx context.Context, u Upload) (int64, error) {
	var answer struct{ Offset *int64 }
	err := c.once(ctx, call{method: http.MethodGet, path: "file/offset", query: url.Values{"uploadId": {u.ID}}}, &answer)
	switch {
	case errors.Is(err, ErrNoSuch):
		return 0, fmt.Errorf("%w: %w", errUploadGone, err)
	case err != nil:
		return 0, err
	case answer.Offset == nil || *answer.Offset < 0 || *answer.Offset > u.Size:
		return 0, fmt.Errorf("%w: no offset of a file of %d bytes", ErrAnswer, u.Size)
	}
	return *answer.Offset, nil
}

func (c *Client) complete(u Upload, doc uploadDocument) (File, error) {
	if doc.Size == nil || *doc.Size != u.Size || !objectID.MatchString(doc.ID) {
		return File{}, fmt.Errorf("cannot finish the upload of %.200q: %w: not a file of %d bytes", u.Name, ErrAnswer, u.Size)
	}
	return doc.File, nil
}

// finished finds the file of an upload that the server knows no more.
func (c *Client) finished(ctx context.Context, u Upload, gone error) (File, error) {
	f, found, err := c.Uploaded(ctx, u)
	switch {
	case err != nil:
		return File{}, fmt.Errorf("cannot find out whether %.200q was uploaded: %w", u.Name, err)
	case !found:
		return File{}, fmt.Errorf("cannot resume the upload of %.200q, and there is no such file: %w", u.Name, gone)
	}
	return f, nil
}

// Uploaded looks for the file that an upload has become: its name and size, made
// since the upload began. The artifacts of a job are listed by the plugin that
// takes them, which need not know how.
func (c *Client) Uploaded(ctx context.Context, u Upload) (File, bool, error) {
	matches := func(f File) bool {
		// Girder keeps milliseconds, but answers microseconds at first.
		since := u.Since.Truncate(time.Millisecond)
		return f.Size != nil && *f.Size == u.Size && !f.Created.Truncate(time.Millisecond).Before(since)
	}
	if u.FileID != "" {
		f, err := c.File(ctx, u.FileID)
		return f, err == nil && matches(f), err
	}
	among := func(files iter.Seq2[File, error]) (File, bool, error) {
		for f, err := range files {
			if err != nil {
				return File{}, false, err
			}
			if f.Name == u.Name && matches(f) {
				return f, true, nil
			}
		}
		return File{}, false, nil
	}
	switch u.ParentType {
	case "item":
		return among(c.ItemFiles(ctx, u.ParentID))
	case "job":
		return among(list[File](ctx, c, "job", u.ParentID, "job/"+u.ParentID+"/artifact", url.Values{}))
	}
	for item, err := range c.FolderItems(ctx, u.ParentID) {
		if err != nil {
			return File{}, false, err
		}
		if item.Name != u.Name && !strings.HasPrefix(item.Name, u.Name+" (") {
			continue
		}
		if f, found, err := among(c.ItemFiles(ctx, item.ID)); found || err != nil {
			return f, found, err
		}
	}
	return File{}, false, nil
}

// UploadWhole makes a file of at most [MaxChunkSize] with a single call. There is
// nothing to resume: when a try may have made the file, it is looked for before the
// next one, in the time of the server. Two calls for files of one name and size in
// one folder must therefore not run at the same time.
func (c *Client) UploadWhole(ctx context.Context, f NewFile, content io.ReaderAt) (File, error) {
	query, err := f.query()
	if err != nil {
		return File{}, err
	}
	if f.Size > MaxChunkSize {
		return File{}, fmt.Errorf("cannot upload %.200q with one call: it has %d bytes, the limit is %d", f.Name, f.Size, MaxChunkSize)
	}
	return c.makeWhole(ctx, Upload{ParentType: f.ParentType, ParentID: f.ParentID, Name: f.Name, Size: f.Size}, query, content)
}

func (c *Client) makeWhole(ctx context.Context, u Upload, query url.Values, content io.ReaderAt) (File, error) {
	v, err := c.version(ctx)
	if err != nil {
		return File{}, err
	}
	u.Since = v.time
	for n := 1; ; n++ {
		whole := &lengthReader{at: content, left: u.Size}
		r := call{method: http.MethodPost, path: "file", query: query}
		if u.Size > 0 {
			r.content, r.length = whole.open, u.Size
		}
		var doc uploadDocument
		err := c.do(ctx, r, &doc)
		if short := whole.err(); short != nil {
			return File{}, fmt.Errorf("cannot upload %.200q: %w", u.Name, short)
		}
		if err == nil {
			if !doc.isFile() {
				return File{}, fmt.Errorf("cannot upload %.200q: %w: the server has not taken all of it", u.Name, ErrAnswer)
			}
			return c.complete(u, doc)
		}
		if !errors.Is(err, ErrUncertain) || ctx.Err() != nil {
			return File{}, err
		}
		if slept := c.rest(ctx, n, err); slept != nil {
			return File{}, slept
		}
		if !u.Since.IsZero() {
			done, found, lookup := c.Uploaded(ctx, u)
			if found || lookup != nil {
				return done, lookup
			}
		}
		if u.Since.IsZero() || n >= c.retry.Attempts {
			return File{}, err
		}
	}
}

// CancelUpload makes the server forget an upload. One that it does not know is no error.
func (c *Client) CancelUpload(ctx context.Context, u Upload) error {
	if err := checkID("upload", u.ID); err != nil {
		return err
	}
	err := c.do(ctx, call{method: http.MethodDelete, path: "file/upload/" + u.ID, repeatable: true}, nil)
	if errors.Is(err, ErrNoSuch) {
		return nil
	}
	return err
}
