// Package provenance tells where an image of the store comes from: its names,
// its digests and whose keys have signed one of them. It is what a policy asks
// before a job starts, also in the process that is root: it reads the store's own
// index, and links nothing that reads an archive.
package provenance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Everyone is the owner of names that every user sees, as in the image store.
const Everyone = -1

// ErrNotFound: the store has no image of that id.
var ErrNotFound = errors.New("no such image")

// Image is what a policy can decide on.
type Image struct {
	// ID is "sha256:" and the hex digest of the image's config.
	ID string
	// Names are complete, with registry and tag, as docker.io/library/busybox:latest.
	Names []Name
	// Digests are those of the image's manifest and of the indexes above it; none
	// for an image of a docker-archive.
	Digests []string
	// Keys are the ids of the keys that have signed the image, see [KeyID].
	Keys []string
}

// Name is one owner's name for an image.
type Name struct {
	Ref string
	// Owner is a user id, or [Everyone].
	Owner int
}

// SignedBy are the names of those keys that have signed the image.
func (i Image) SignedBy(keys []Key) []string {
	var names []string
	for _, k := range keys {
		if slices.Contains(i.Keys, k.ID) {
			names = append(names, k.Name)
		}
	}
	return names
}

// Of reads what the store in dir knows of the image with exactly this id. It
// reads two small files; permission to read the index is enough.
func Of(dir, id string) (Image, error) {
	hex, ok := strings.CutPrefix(id, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Image{}, fmt.Errorf("cannot look up image: %w: %.100q is no id", ErrNotFound, id)
	}
	var img struct {
		ID         string   `json:"id"`
		Digest     string   `json:"digest"`
		Indexes    []string `json:"indexes"`
		Signatures []struct {
			Key string `json:"key"`
		} `json:"signatures"`
	}
	if err := read(filepath.Join(dir, "images", hex+".json"), &img); errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("cannot look up image: %w: %s", ErrNotFound, id)
	} else if err != nil {
		return Image{}, fmt.Errorf("cannot look up image: %w", err)
	}
	if img.ID != id {
		return Image{}, fmt.Errorf("cannot look up image: its file in %s describes another", dir)
	}
	var names struct {
		Names []struct {
			Name  string `json:"name"`
			Owner int    `json:"owner"`
			ID    string `json:"id"`
		} `json:"names"`
	}
	if err := read(filepath.Join(dir, "names.json"), &names); err != nil {
		return Image{}, fmt.Errorf("cannot look up image: %w", err)
	}
	out := Image{ID: id, Digests: img.Indexes}
	if img.Digest != "" {
		out.Digests = append([]string{img.Digest}, out.Digests...)
	}
	for _, n := range names.Names {
		if n.ID == id {
			out.Names = append(out.Names, Name{Ref: n.Name, Owner: n.Owner})
		}
	}
	for _, s := range img.Signatures {
		if s.Key != "" && !slices.Contains(out.Keys, s.Key) {
			out.Keys = append(out.Keys, s.Key)
		}
	}
	return out, nil
}

// maxDocument is as in the store that writes the files.
const maxDocument = 64 << 20

func read(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return err
	}
	if len(data) > maxDocument {
		return fmt.Errorf("%s is larger than %d bytes", path, maxDocument)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%s cannot be read: %w", path, err)
	}
	return nil
}
