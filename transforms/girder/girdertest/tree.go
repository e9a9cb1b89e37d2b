package girdertest

import (
	"bytes"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

type folder struct {
	order      int
	id, parent string // the parent of a top folder is a user
	top        bool
	name       string
	owner      string
	public     bool
	readers    []string
	created    time.Time
}

type item struct {
	order      int
	id, folder string
	name       string
	created    time.Time
}

type file struct {
	order     int
	id, item  string // "": an artifact
	name      string
	mimeType  string
	creator   string
	created   time.Time
	link      string
	sha512    string
	content   content
	job       string // of an artifact
	reference string
}

// AddFolder makes a folder in a folder, or at the top of a user.
func (s *Server) AddFolder(parentID, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addFolder(parentID, name).id
}

func (s *Server) addFolder(parentID, name string) *folder {
	f := &folder{id: s.newID(), order: s.order, parent: parentID, name: name, created: s.stored()}
	if p := s.folders[parentID]; p != nil {
		f.owner, f.public, f.readers = p.owner, p.public, slices.Clone(p.readers)
	} else if s.users[parentID] != nil {
		f.owner, f.top = parentID, true
	} else {
		s.tb.Fatalf("no folder and no user %q to make a folder in", parentID)
	}
	s.folders[f.id] = f
	return f
}

// Share lets a user read what is in a folder, not below it.
func (s *Server) Share(folderID, userID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.folders[folderID].readers = append(s.folders[folderID].readers, userID)
}

// AddItem makes an item in a folder. No name is too strange.
func (s *Server) AddItem(folderID, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addItem(folderID, name).id
}

func (s *Server) addItem(folderID, name string) *item {
	if s.folders[folderID] == nil {
		s.tb.Fatalf("no folder %q to make an item in", folderID)
	}
	i := &item{id: s.newID(), order: s.order, folder: folderID, name: name, created: s.stored()}
	s.items[i.id] = i
	return i
}

// AddFile makes a file in an item.
func (s *Server) AddFile(itemID, name string, data []byte) string {
	return s.AddContent(itemID, name, bytes.NewReader(data), int64(len(data)))
}

// Content is what AddContent reads a file from, any part of it at any time.
type Content interface {
	ReadAt(p []byte, off int64) (int, error)
}

// AddContent makes a file whose contents are made when they are asked for. With
// [Config.SHA512] they are read once to begin with.
func (s *Server) AddContent(itemID, name string, data Content, size int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addFile(itemID, name, content{data, size}).id
}

// ReplaceContent gives a file new contents.
func (s *Server) ReplaceContent(fileID string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[fileID]
	f.content.close()
	f.content, f.created = content{bytes.NewReader(data), int64(len(data))}, s.stored()
	f.sha512 = hashOf(f.content)
}

// AddLink makes a file that is a link to a URL.
func (s *Server) AddLink(itemID, name, url string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.addFile(itemID, name, content{bytes.NewReader(nil), 0})
	f.link = url
	return f.id
}

func (s *Server) addFile(itemID, name string, c content) *file {
	if itemID != "" && s.items[itemID] == nil {
		s.tb.Fatalf("no item %q to make a file in", itemID)
	}
	f := &file{id: s.newID(), order: s.order, item: itemID, name: name, mimeType: "application/octet-stream", created: s.stored(), content: c}
	if i := s.items[itemID]; i != nil {
		f.creator = s.folders[i.folder].owner
	}
	if s.config.SHA512 {
		f.sha512 = hashOf(c)
	}
	s.files[f.id] = f
	return f
}

// stored is the time as it is kept: in milliseconds.
func (s *Server) stored() time.Time { return s.config.Now().UTC().Truncate(time.Millisecond) }

// stamp is a time as Girder writes it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000+00:00") }

// Access to folders, and with them to what is in them.
const (
	accessNone  = -1
	accessRead  = 0
	accessWrite = 1
	accessAdmin = 2
)

func (f *folder) level(u *user) int {
	switch {
	case u != nil && (u.admin || u.id == f.owner):
		return accessAdmin
	case f.public, u != nil && slices.Contains(f.readers, u.id):
		return accessRead
	}
	return accessNone
}

func allow(f *folder, u *user, level int, kind, id string) error {
	if f.level(u) >= level {
		return nil
	}
	what := map[int]string{accessRead: "Read", accessWrite: "Write", accessAdmin: "Admin"}[level]
	if u == nil {
		return denied(http.StatusUnauthorized, "%s access denied for %s %s (user None).", what, kind, id)
	}
	return denied(http.StatusForbidden, "%s access denied for %s %s (user %s).", what, kind, id, u.id)
}

var objectID = regexp.MustCompile(`^[0-9a-fA-F]{24}$`)

// find looks a document up the way Girder does, or fails in its words.
func find[T any](in map[string]*T, kind, parameter, id string) (*T, error) {
	if !objectID.MatchString(id) {
		return nil, validation(parameter, "Invalid ObjectId: %s", id)
	}
	doc := in[id]
	if doc == nil {
		return nil, rest("Invalid %s id (%s).", kind, id)
	}
	return doc, nil
}

func (s *Server) findFolder(parameter, id string, u *user, level int) (*folder, error) {
	f, err := find(s.folders, "folder", parameter, id)
	if err != nil {
		return nil, err
	}
	return f, allow(f, u, level, "folder", id)
}

func (s *Server) findItem(parameter, id string, u *user, level int) (*item, error) {
	i, err := find(s.items, "item", parameter, id)
	if err != nil {
		return nil, err
	}
	return i, allow(s.folders[i.folder], u, level, "item", id)
}

func (s *Server) findFile(id string, u *user, level int) (*file, error) {
	f, err := find(s.files, "file", "id", id)
	if err != nil {
		return nil, err
	}
	if f.item == "" {
		return f, nil
	}
	return f, allow(s.folders[s.items[f.item].folder], u, level, "file", id)
}

func (s *Server) folderDocument(f *folder, u *user) map[string]any {
	parentType, base := "folder", f
	if f.top {
		parentType = "user"
	}
	for !base.top {
		base = s.folders[base.parent]
	}
	size := int64(0)
	for _, i := range s.items {
		if i.folder == f.id {
			size += s.itemSize(i)
		}
	}
	return map[string]any{
		"_accessLevel": f.level(u), "_id": f.id, "_modelType": "folder", "baseParentId": base.parent, "baseParentType": "user",
		"created": stamp(f.created), "creatorId": f.owner, "description": "", "meta": map[string]any{}, "name": f.name,
		"parentCollection": parentType, "parentId": f.parent, "public": f.public, "size": size, "updated": stamp(f.created),
	}
}

func (s *Server) itemSize(i *item) int64 {
	size := int64(0)
	for _, f := range s.files {
		if f.item == i.id {
			size += f.content.size
		}
	}
	return size
}

func (s *Server) itemDocument(i *item) map[string]any {
	owner := s.folders[i.folder].owner
	return map[string]any{
		"_id": i.id, "_modelType": "item", "baseParentId": owner, "baseParentType": "user", "created": stamp(i.created),
		"creatorId": owner, "description": "", "folderId": i.folder, "meta": map[string]any{}, "name": i.name,
		"size": s.itemSize(i), "updated": stamp(i.created),
	}
}

func (s *Server) fileDocument(f *file, u *user) map[string]any {
	exts := []string{}
	if parts := strings.Split(f.name, "."); len(parts) > 1 {
		exts = parts[max(1, len(parts)-2):]
	}
	doc := map[string]any{
		"_id": f.id, "_modelType": "file", "created": stamp(f.created), "creatorId": f.creator, "exts": exts,
		"itemId": f.item, "mimeType": f.mimeType, "name": f.name, "size": f.content.size,
	}
	if u != nil && u.admin {
		doc["assetstoreId"] = assetstore
	}
	if f.item == "" {
		doc["itemId"] = nil
	}
	if s.config.SHA512 {
		doc["sha512"] = f.sha512
	}
	if f.link != "" {
		delete(doc, "assetstoreId")
		doc["linkUrl"], doc["size"], doc["mimeType"] = f.link, nil, nil
	}
	return doc
}

const assetstore = "5a5e7570a5a5a5a5a5a5a5a5"

// paged sorts documents by name and cuts the page that was asked for out of them.
func paged[T any](r *request, all []T, less func(a, b T) bool) ([]T, error) {
	sort.SliceStable(all, func(i, j int) bool { return less(all[i], all[j]) })
	limit, offset := 50, 0
	for name, v := range map[string]*int{"limit": &limit, "offset": &offset} {
		if s := r.param(name); s != "" {
			n, err := strconv.Atoi(s)
			if err != nil || n < 0 {
				return nil, rest("Invalid value for integer parameter %s: %s.", name, s)
			}
			*v = n
		}
	}
	all = all[min(offset, len(all)):]
	if limit > 0 {
		all = all[:min(limit, len(all))]
	}
	return all, nil
}

func documents[T any](in []T, doc func(T) map[string]any) []map[string]any {
	out := []map[string]any{}
	for _, e := range in {
		out = append(out, doc(e))
	}
	return out
}

func (s *Server) getFolder(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := r.as(ScopeRead)
	f, err := s.findFolder("id", r.PathValue("id"), u, accessRead)
	if err != nil {
		return nil, err
	}
	return s.folderDocument(f, u), nil
}

func (s *Server) listFolders(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := r.as(ScopeRead)
	parent := r.param("parentId")
	switch r.param("parentType") {
	case "user":
		if _, err := find(s.users, "user", "parentId", parent); err != nil {
			return nil, err
		}
	case "folder":
		if _, err := s.findFolder("parentId", parent, u, accessRead); err != nil {
			return nil, err
		}
	default:
		return nil, rest("Invalid search mode.")
	}
	var all []*folder
	for _, f := range s.folders {
		if f.parent == parent && f.level(u) >= accessRead {
			all = append(all, f)
		}
	}
	page, err := paged(r, all, func(a, b *folder) bool { return a.name < b.name || a.name == b.name && a.order < b.order })
	return documents(page, func(f *folder) map[string]any { return s.folderDocument(f, u) }), err
}

func (s *Server) postFolder(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, err := r.mustBe(ScopeWrite)
	if err != nil {
		return nil, err
	}
	parent, name := r.param("parentId"), strings.TrimSpace(r.param("name"))
	if _, err := s.findFolder("parentId", parent, u, accessWrite); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, validation("name", "Folder name must not be empty.")
	}
	for _, f := range s.folders {
		if f.parent == parent && f.name == name {
			if reuse, _ := strconv.ParseBool(r.param("reuseExisting")); reuse {
				return s.folderDocument(f, u), nil
			}
			return nil, validation("name", "A folder with that name already exists here.")
		}
	}
	return s.folderDocument(s.addFolder(parent, name), u), nil
}

func (s *Server) getItem(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.findItem("id", r.PathValue("id"), r.as(ScopeRead), accessRead)
	if err != nil {
		return nil, err
	}
	return s.itemDocument(i), nil
}

func (s *Server) listItems(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := r.param("folderId")
	if id == "" {
		return nil, rest("Invalid search mode.")
	}
	if _, err := s.findFolder("folderId", id, r.as(ScopeRead), accessRead); err != nil {
		return nil, err
	}
	var all []*item
	for _, i := range s.items {
		if i.folder == id && (r.param("name") == "" || i.name == r.param("name")) {
			all = append(all, i)
		}
	}
	page, err := paged(r, all, func(a, b *item) bool { return a.name < b.name || a.name == b.name && a.order < b.order })
	return documents(page, s.itemDocument), err
}

func (s *Server) listFiles(r *request) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := r.as(ScopeRead)
	i, err := s.findItem("id", r.PathValue("id"), u, accessRead)
	if err != nil {
		return nil, err
	}
	page, err := paged(r, s.filesOf(i.id), func(a, b *file) bool { return a.name < b.name || a.name == b.name && a.order < b.order })
	return documents(page, func(f *file) map[string]any { return s.fileDocument(f, u) }), err
}

func (s *Server) filesOf(itemID string) []*file {
	var all []*file
	for _, f := range s.files {
		if f.item == itemID && f.job == "" {
			all = append(all, f)
		}
	}
	sortByOrder(all)
	return all
}

func sortByOrder(files []*file) {
	slices.SortFunc(files, func(a, b *file) int { return a.order - b.order })
}

func (s *Server) getVersion(*request) (any, error) {
	return map[string]any{"release": "3.2.9", "serverStartDate": stamp(s.config.Now())}, nil
}

// Tree describes everything below a folder, one line each, sorted: "sub/", "item/",
// "item/file (12 bytes)".
func (s *Server) Tree(folderID string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := []string{}
	var walk func(id, prefix string)
	walk = func(id, prefix string) {
		for _, f := range s.folders {
			if f.parent == id {
				lines = append(lines, prefix+f.name+"/")
				walk(f.id, prefix+f.name+"/")
			}
		}
		for _, i := range s.items {
			if i.folder != id {
				continue
			}
			lines = append(lines, prefix+i.name+"/")
			for _, f := range s.filesOf(i.id) {
				lines = append(lines, fmt.Sprintf("%s%s/%s (%d bytes)", prefix, i.name, f.name, f.content.size))
			}
		}
	}
	walk(folderID, "")
	slices.Sort(lines)
	return lines
}
