package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// moved is a download or an upload in the job document.
type moved struct {
	Name     string `json:"name"`
	FileID   string `json:"file_id,omitempty"`
	ItemID   string `json:"item_id,omitempty"`
	FolderID string `json:"folder_id,omitempty"`
}

// Where --input and --output find something that is not a file of this machine.
const (
	girderStream = "girder:"
	girderFile   = "girder-file:"
	girderItem   = "girder-item:"
	girderFolder = "girder-folder:"
)

// inGirder takes what --input or --output says apart, when it is in Girder.
func inGirder(name, where string) (m moved, isStream, ok bool) {
	m.Name = name
	if id, found := strings.CutPrefix(where, girderStream); found {
		m.FileID = id
		return m, true, true
	}
	for prefix, id := range map[string]*string{girderFile: &m.FileID, girderItem: &m.ItemID, girderFolder: &m.FolderID} {
		if rest, found := strings.CutPrefix(where, prefix); found {
			*id = rest
			return m, false, true
		}
	}
	return m, false, false
}

// maxGirderConfig bounds the person's own configuration, in bytes.
const maxGirderConfig = 64 << 10

// ownGirder is the field "girder" of documents that have none: what stands in
// ~/.config/girder-worker/girder.json. It is nil where there is no such file.
func ownGirder(lookup func(string) (string, bool)) (json.RawMessage, error) {
	dir, ok := lookup("XDG_CONFIG_HOME")
	if !ok || !filepath.IsAbs(dir) {
		home, ok := lookup("HOME")
		if !ok || !filepath.IsAbs(home) {
			return nil, nil
		}
		dir = filepath.Join(home, ".config")
	}
	path := filepath.Join(dir, "girder-worker", "girder.json")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, plain(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", path, plain(err))
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("cannot use %s: others may read the keys in it; say chmod 600 %s", path, path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxGirderConfig+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot read %s: %w", path, plain(err))
	case len(data) > maxGirderConfig || !json.Valid(data):
		return nil, fmt.Errorf(`cannot use %s: it is not JSON as in {"api_url": "https://girder.example.org/api/v1", "api_key": "..."}`, path)
	}
	return data, nil
}

// withOwnGirder adds the person's own server to a document that uses Girder and
// names none. The text is left as it is otherwise: its strict reader is the daemon.
func withOwnGirder(document []byte, lookup func(string) (string, bool)) ([]byte, error) {
	var top map[string]json.RawMessage
	if json.Unmarshal(document, &top) != nil || top["girder"] != nil || !usesGirder(top) {
		return document, nil
	}
	own, err := ownGirder(lookup)
	if err != nil || own == nil {
		return document, err
	}
	at := bytes.IndexByte(document, '{') + 1
	out := append(append([]byte(nil), document[:at]...), `"girder": `...)
	return append(append(append(out, own...), ','), document[at:]...), nil
}

// usesGirder looks for what needs a server.
func usesGirder(top map[string]json.RawMessage) bool {
	if top["downloads"] != nil || top["uploads"] != nil {
		return true
	}
	for _, prefix := range []string{girderFile, girderItem, girderFolder} { // arguments of a task
		if bytes.Contains(top["args"], []byte(`"`+prefix)) && top["task"] != nil || bytes.Contains(top["kwargs"], []byte(`"`+prefix)) {
			return true
		}
	}
	return bytes.Contains(top["inputs"], []byte(`"file_id"`)) || bytes.Contains(top["stdin"], []byte(`"file_id"`))
}
