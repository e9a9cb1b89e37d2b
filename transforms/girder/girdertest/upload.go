package girdertest

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type upload struct {
	id         string
	user       string
	parentType string // "item", "folder"; "" when a file is replaced
	parent     string
	file       string // that is replaced
	name       string
	mimeType   string
	reference  string
	size       int64
	created    time.Time
	stored     bool // its times have lost their microseconds

	busy     sync.Mutex // one chunk at a time
	temp     *os.File   // what has arrived, also of a chunk that broke off
	received int64      // as Girder's document says: whole chunks only
}

func hashOf(c content) string {
	sum := sha512.New()
	io.Copy(sum, io.NewSectionReader(c, 0, c.size))
	return hex.EncodeToString(sum.Sum(nil))
}

// File is what an administrator sees of a file.
type File struct {
	ID, Name, MimeType, Reference string
	Data                          []byte
}

func (f *file) public() File {
	data, err := io.ReadAll(io.NewSectionReader(f.content, 0, f.content.size))
	if err != nil {
		panic(err)
	}
	return File{ID: f.id, Name: f.name, MimeType: f.mimeType, Reference: f.reference, Data: data}
}

// Files returns the files of an item with their contents, oldest first.
func (s *Server) Files(itemID string) []File {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []File
	for _, f := range s.filesOf(itemID) {
		all = append(all, f.public())
	}
	return all
}

// Uploads returns how many uploads have been begun and neither finished nor canceled.
func (s *Server) Uploads() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.uploads)
}

func (s *Server) getFile(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := r.as(ScopeRead)
	f, err := s.findFile(r.PathValue("id"), u, accessRead)
	if err != nil {
		return nil, err
	}
	return s.fileDocument(f, u), nil
}

func (s *Server) download(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := s.findFile(r.PathValue("id"), r.as(ScopeRead), accessRead)
	if err != nil {
		return nil, err
	}
	if f.link != "" {
		return raw{func(w http.ResponseWriter) { http.Redirect(w, r.Request, f.link, http.StatusSeeOther) }}, nil
	}
	c, name, mimeType := f.content, f.name, f.mimeType
	first, end := int64(0), c.size
	for parameter, v := range map[string]*int64{"offset": &first, "endByte": &end} {
		if text := r.param(parameter); text != "" {
			if *v, err = strconv.ParseInt(text, 10, 64); err != nil {
				return nil, rest("Invalid value for integer parameter %s: %s.", parameter, text)
			}
		}
	}
	return raw{func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", mimeType)
		w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", name))
		if r.Header.Get("Range") == "" && (first != 0 || end != c.size) {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", first, end-1))
		}
		http.ServeContent(w, r.Request, "", time.Time{}, io.NewSectionReader(c, 0, c.size))
	}}, nil
}

func (s *Server) uploadDocument(u *upload) map[string]any {
	show := stamp(u.created)
	if u.stored {
		show = stamp(u.created.Truncate(time.Millisecond))
	}
	u.stored = true
	doc := map[string]any{
		"_id": u.id, "assetstoreId": assetstore, "created": show, "mimeType": u.mimeType, "name": u.name,
		"received": u.received, "sha512state": "b'" + strings.Repeat("0", 416) + "'", "size": u.size,
		"tempFile": "/assetstore/temp/tmp" + u.id[16:], "updated": stamp(s.config.Now()), "userId": u.user,
	}
	if u.file != "" {
		doc["fileId"] = u.file
	} else {
		doc["parentId"], doc["parentType"] = u.parent, u.parentType
	}
	if u.reference != "" {
		doc["reference"] = u.reference
	}
	return doc
}

// size reads the parameter of that name.
func size(r *request) (int64, error) {
	text := r.param("size")
	if text == "" {
		return 0, rest("Parameter \"size\" is required.")
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, rest("Invalid value for integer parameter size: %s.", text)
	}
	return n, nil
}

func (s *Server) postFile(r *request) (any, error) {
	u, body, err := s.beginFile(r)
	if err != nil {
		return nil, err
	}
	if u.size == 0 {
		return s.finish(u)
	}
	if body {
		return s.receive(r, u, r.Body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uploadDocument(u), nil
}

// beginFile makes the upload of a new file, and reports whether its first chunk came along.
func (s *Server) beginFile(r *request) (*upload, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, err := r.mustBe(ScopeWrite)
	if err != nil {
		return nil, false, err
	}
	u := &upload{user: user.id, parentType: r.param("parentType"), parent: r.param("parentId"), name: r.param("name"), mimeType: r.param("mimeType"), reference: r.param("reference")}
	switch u.parentType {
	case "item":
		_, err = s.findItem("parentId", u.parent, user, accessWrite)
	case "folder":
		_, err = s.findFolder("parentId", u.parent, user, accessWrite)
	default:
		err = rest("Invalid value for parentType: \"%s\". Allowed values: folder, item.", u.parentType)
	}
	if err != nil {
		return nil, false, err
	}
	if u.name == "" {
		return nil, false, rest("Parameter \"name\" is required.")
	}
	if u.size, err = size(r); err != nil {
		return nil, false, err
	}
	isForm := strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") || strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/")
	return u, !isForm && r.ContentLength != 0, s.begin(u)
}

// begin gives an upload its id and its place to collect what arrives; the caller
// holds the lock.
func (s *Server) begin(u *upload) error {
	if u.mimeType == "" {
		u.mimeType = "application/octet-stream"
	}
	temp, err := os.CreateTemp(s.dir, "upload-")
	if err != nil {
		return err
	}
	u.id, u.temp, u.created = s.newID(), temp, s.config.Now().UTC()
	s.uploads[u.id] = u
	return nil
}

func (s *Server) putContents(r *request) (any, error) {
	s.mu.Lock()
	user, err := r.mustBe(ScopeWrite)
	var f *file
	if err == nil {
		f, err = s.findFile(r.PathValue("id"), user, accessWrite)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	u := &upload{user: user.id, file: f.id, name: f.name, mimeType: f.mimeType, reference: r.param("reference")}
	if u.size, err = size(r); err == nil {
		err = s.begin(u)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if u.size == 0 {
		return s.finish(u)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uploadDocument(u), nil
}

// findUpload finds an upload for the one who began it.
func (s *Server) findUpload(r *request, parameter, id string) (*upload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, err := r.mustBe(ScopeWrite)
	if err != nil {
		return nil, err
	}
	u, err := find(s.uploads, "upload", parameter, id)
	if err != nil {
		return nil, err
	}
	if u.user != user.id {
		return nil, denied(http.StatusForbidden, "You did not initiate this upload.")
	}
	return u, nil
}

func (s *Server) postChunk(r *request) (any, error) {
	if strings.HasPrefix(r.Header.Get("Content-Type"), "multipart/form-data") {
		return nil, rest("Multipart encoding is no longer supported. Send the chunk in the request body, and other parameters in the query string.")
	}
	u, err := s.findUpload(r, "uploadId", r.param("uploadId"))
	if err != nil {
		return nil, err
	}
	offset, err := strconv.ParseInt(r.param("offset"), 10, 64)
	if err != nil {
		offset = 0
	}
	u.busy.Lock()
	received := u.received
	u.busy.Unlock()
	if offset != received {
		return nil, rest("Server has received %d bytes, but client sent offset %d.", received, offset)
	}
	return s.receive(r, u, r.Body)
}

// receive takes a chunk in. When the body breaks off, what came of it stays in the
// temporary file, but is not counted.
func (s *Server) receive(r *request, u *upload, body io.Reader) (any, error) {
	u.busy.Lock()
	defer u.busy.Unlock()
	check := func(n int64) error {
		switch {
		case u.received+n > u.size:
			return validation("", "Received too many bytes.")
		case u.received+n != u.size && n < s.config.MinChunk:
			return validation("", "Chunk is smaller than the minimum size.")
		}
		return nil
	}
	if r.ContentLength >= 0 {
		if err := check(r.ContentLength); err != nil {
			io.Copy(io.Discard, body)
			return nil, err
		}
	}
	at, err := u.temp.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(u.temp, io.LimitReader(body, u.size-at+1))
	if err != nil {
		return nil, err
	}
	if err := check(at + n - u.received); err != nil {
		u.temp.Truncate(u.received)
		return nil, err
	}
	u.received = at + n
	if u.received == u.size {
		return s.finish(u)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uploadDocument(u), nil
}

func (s *Server) getOffset(r *request) (any, error) {
	u, err := s.findUpload(r, "uploadId", r.param("uploadId"))
	if err != nil {
		return nil, err
	}
	u.busy.Lock()
	defer u.busy.Unlock()
	if u.received, err = u.temp.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	return map[string]any{"offset": u.received}, nil
}

func (s *Server) postCompletion(r *request) (any, error) {
	u, err := s.findUpload(r, "uploadId", r.param("uploadId"))
	if err != nil {
		return nil, err
	}
	u.busy.Lock()
	defer u.busy.Unlock()
	if u.received != u.size {
		return nil, rest("Server has only received %d bytes, but the file should be %d bytes.", u.received, u.size)
	}
	return s.finish(u)
}

// finish makes a file of an upload.
func (s *Server) finish(u *upload) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, u.id)
	c := content{u.temp, u.size}
	var f *file
	if u.file != "" {
		f = s.files[u.file]
		f.content.close()
		f.content = c
	} else {
		itemID := u.parent
		if u.parentType == "folder" {
			itemID = s.addItem(u.parent, s.freeName(u.parent, u.name)).id
		}
		f = s.addFile(itemID, u.name, c)
	}
	now := s.config.Now().UTC()
	f.creator, f.mimeType, f.reference = u.user, u.mimeType, u.reference
	if s.config.SHA512 {
		f.sha512 = hashOf(c)
	}
	f.created = now
	doc := s.fileDocument(f, s.users[u.user])
	f.created = now.Truncate(time.Millisecond) // the first answer is more precise than all later ones
	return doc, nil
}

// freeName is a name, or with a number behind it where that is taken in the folder.
func (s *Server) freeName(folderID, name string) string {
	taken := func(name string) bool {
		for _, i := range s.items {
			if i.folder == folderID && i.name == name {
				return true
			}
		}
		for _, f := range s.folders {
			if f.parent == folderID && f.name == name {
				return true
			}
		}
		return false
	}
	free := name
	for n := 1; taken(free); n++ {
		free = fmt.Sprintf("%s (%d)", name, n)
	}
	return free
}

func (s *Server) deleteUpload(r *request) (any, error) {
	u, err := s.findUpload(r, "id", r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	u.busy.Lock()
	defer u.busy.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, u.id)
	u.temp.Close()
	return map[string]any{"message": "Upload canceled."}, nil
}

// postArtifact and listArtifacts are as in the branch of Girder that they come
// from (job-artifacts at 1cbfb8d90, plugins/jobs/girder_jobs/job_rest.py): no release
// has them but with a plugin.
func (s *Server) postArtifact(r *request) (any, error) {
	s.mu.Lock()
	user, err := r.mustBe(ScopeWrite)
	var j *job
	if err == nil {
		j, err = find(s.jobs, "job", "id", r.PathValue("id"))
	}
	if err == nil && !user.admin && user.id != j.user {
		err = denied(http.StatusForbidden, "Write access denied for job %s (user %s).", j.id, user.id)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	want, err := size(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != want {
		return nil, rest("Received %d bytes, expected %d.", len(data), want)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.addFile("", r.param("name"), content{bytes.NewReader(data), want})
	f.job, f.creator = j.id, user.id
	if m := r.param("mimeType"); m != "" && m != "None" {
		f.mimeType = m
	}
	return s.fileDocument(f, user), nil
}

func (s *Server) listArtifacts(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	user, err := r.mustBe(ScopeRead)
	if err != nil {
		return nil, err
	}
	j, err := find(s.jobs, "job", "id", r.PathValue("id"))
	if err == nil && !user.admin && user.id != j.user {
		err = denied(http.StatusForbidden, "Read access denied for job %s (user %s).", j.id, user.id)
	}
	if err != nil {
		return nil, err
	}
	var all []*file
	for _, f := range s.files {
		if f.job == j.id {
			all = append(all, f)
		}
	}
	page, err := paged(r, all, func(a, b *file) bool { return a.name < b.name })
	return documents(page, func(f *file) map[string]any { return s.fileDocument(f, user) }), err
}

// Artifacts returns the files attached to a job, oldest first.
func (s *Server) Artifacts(jobID string) []File {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*file
	for _, f := range s.files {
		if f.job == jobID {
			all = append(all, f)
		}
	}
	sortByOrder(all)
	var out []File
	for _, f := range all {
		out = append(out, f.public())
	}
	return out
}
