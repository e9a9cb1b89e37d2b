package girder

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// File is Girder's document of a file. Its name is the server's: see [CleanName].
type File struct {
	ID       string `json:"_id"`
	ItemID   string `json:"itemId"` // empty: attached to something else than an item
	Name     string `json:"name"`
	MimeType string `json:"mimeType"`
	// Size in bytes; nil for a link to elsewhere, whose size nobody knows.
	Size    *int64 `json:"size"`
	LinkURL string `json:"linkUrl"`
	// SHA512 is in hexadecimal digits, and only there when the server has the
	// plugin that tells it.
	SHA512  string    `json:"sha512"`
	Created time.Time `json:"created"` // of the contents: replacing them sets it
}

// Item is Girder's document of an item: a named set of files.
type Item struct {
	ID       string    `json:"_id"`
	FolderID string    `json:"folderId"`
	Name     string    `json:"name"`
	Created  time.Time `json:"created"`
}

// Folder is Girder's document of a folder.
type Folder struct {
	ID         string `json:"_id"`
	ParentID   string `json:"parentId"`
	ParentType string `json:"parentCollection"` // "folder", "user" or "collection"
	Name       string `json:"name"`
}

// resource is a document as it came: what it must at least hold is checked before
// it is used.
type resource interface{ resourceID() string }

func (f File) resourceID() string   { return f.ID }
func (i Item) resourceID() string   { return i.ID }
func (f Folder) resourceID() string { return f.ID }

func get[T resource](ctx context.Context, c *Client, kind, id string) (T, error) {
	var doc T
	if err := checkID(kind, id); err != nil {
		return doc, err
	}
	err := c.do(ctx, call{method: http.MethodGet, path: kind + "/" + id, repeatable: true}, &doc)
	if err == nil && doc.resourceID() != id {
		err = fmt.Errorf("cannot use the %s that Girder answers for %s: %w: its id is %.100q", kind, id, ErrAnswer, doc.resourceID())
	}
	return doc, err
}

// File reads a file's document.
func (c *Client) File(ctx context.Context, id string) (File, error) {
	return get[File](ctx, c, "file", id)
}

// Item reads an item's document.
func (c *Client) Item(ctx context.Context, id string) (Item, error) {
	return get[Item](ctx, c, "item", id)
}

// Folder reads a folder's document.
func (c *Client) Folder(ctx context.Context, id string) (Folder, error) {
	return get[Folder](ctx, c, "folder", id)
}

// ItemFiles lists the files of an item.
func (c *Client) ItemFiles(ctx context.Context, itemID string) iter.Seq2[File, error] {
	return list[File](ctx, c, "item", itemID, "item/"+itemID+"/files", url.Values{})
}

// FolderItems lists the items of a folder.
func (c *Client) FolderItems(ctx context.Context, folderID string) iter.Seq2[Item, error] {
	return list[Item](ctx, c, "folder", folderID, "item", url.Values{"folderId": {folderID}})
}

// Subfolders lists the folders in a folder.
func (c *Client) Subfolders(ctx context.Context, folderID string) iter.Seq2[Folder, error] {
	return list[Folder](ctx, c, "folder", folderID, "folder", url.Values{"parentType": {"folder"}, "parentId": {folderID}})
}

// pageSize is how many documents are asked for at once.
const pageSize = 50

// list asks for page after page while they are full. It ends with the first error.
func list[T resource](ctx context.Context, c *Client, kind, id, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		if err := checkID(kind, id); err != nil {
			yield(none, err)
			return
		}
		query.Set("limit", strconv.Itoa(pageSize))
		before := "" // the id that the last page began with
		for offset := 0; ; offset += pageSize {
			query.Set("offset", strconv.Itoa(offset))
			var page []T
			err := c.do(ctx, call{method: http.MethodGet, path: path, query: query, repeatable: true}, &page)
			switch {
			case err != nil:
			case len(page) > pageSize:
				err = fmt.Errorf("cannot list what is in %s %s: %w: %d entries in a page of %d", kind, id, ErrAnswer, len(page), pageSize)
			case len(page) > 0 && page[0].resourceID() == before:
				err = fmt.Errorf("cannot list what is in %s %s: %w: the same page again and again", kind, id, ErrAnswer)
			}
			if err != nil {
				yield(none, err)
				return
			}
			for _, doc := range page {
				if err := checkID("entry", doc.resourceID()); err != nil {
					yield(none, fmt.Errorf("cannot list what is in %s %s: %w", kind, id, err))
					return
				}
				if !yield(doc, nil) {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			before = page[0].resourceID()
		}
	}
}

// MakeFolder makes a folder in a folder, or returns the one that has the name.
func (c *Client) MakeFolder(ctx context.Context, parentID, name string) (Folder, error) {
	var doc Folder
	if err := checkID("folder", parentID); err != nil {
		return doc, err
	}
	err := c.do(ctx, call{
		method: http.MethodPost, path: "folder", repeatable: true,
		query: url.Values{"parentId": {parentID}, "parentType": {"folder"}, "name": {name}, "description": {""}, "reuseExisting": {"True"}},
	}, &doc)
	if err != nil {
		return doc, err
	}
	return doc, checkID("folder", doc.ID)
}

// version is the answer to system/version, with the server's clock.
type version struct {
	Release string    `json:"release"`
	time    time.Time // of the answer, whole seconds
}

func (v *version) setServerTime(t time.Time) { v.time = t }

// Version returns the release of the server, such as "3.2.9".
func (c *Client) Version(ctx context.Context) (string, error) {
	v, err := c.version(ctx)
	return v.Release, err
}

// ServerTime returns the server's clock, in whole seconds: what a file that is made
// from now on is not older than.
func (c *Client) ServerTime(ctx context.Context) (time.Time, error) {
	v, err := c.version(ctx)
	if err == nil && v.time.IsZero() {
		err = fmt.Errorf("%w: it has no date", ErrAnswer)
	}
	return v.time, err
}

func (c *Client) version(ctx context.Context) (version, error) {
	var v version
	err := c.do(ctx, call{method: http.MethodGet, path: "system/version", repeatable: true}, &v)
	return v, err
}
