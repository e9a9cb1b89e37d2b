package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/goreleaser/nfpm/v2/files"
)

// install puts what the .rpm has, whose places are those of most systems, below
// root and prefix. Configuration files that are there stay as they are. No script is
// run: users, groups and the service are the caller's.
func (o *order) install() error {
	if !filepath.IsAbs(o.root) || !filepath.IsAbs(o.prefix) {
		return errors.New("install wants -root and -prefix, both absolute")
	}
	info, err := o.contents("rpm")
	if err != nil {
		return err
	}
	for _, c := range info.Contents {
		name := c.Destination
		if rest, ok := strings.CutPrefix(name, "/usr/"); ok {
			name = filepath.Join(o.prefix, rest)
		}
		if err := o.installOne(c, filepath.Join(o.root, name)); err != nil {
			return fmt.Errorf("cannot install: %w", err)
		}
	}
	return nil
}

func (o *order) installOne(c *files.Content, target string) error {
	switch c.Type {
	case files.TypeImplicitDir:
		return nil // made with what is in it
	case files.TypeDir:
		return os.MkdirAll(target, 0o755)
	case files.TypeConfig, files.TypeConfigNoReplace:
		if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	// Not written to: the program may be running.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if c.Type == files.TypeSymlink {
		return os.Symlink(c.Source, target)
	}
	data, err := os.ReadFile(c.Source)
	if err != nil {
		return err
	}
	if filepath.Ext(target) == ".service" {
		data = bytes.ReplaceAll(data, []byte("=/usr/bin/"), []byte("="+o.prefix+"/bin/"))
	}
	mode := c.FileInfo.Mode.Perm()
	// The mask is not the packages' business, nor this one's.
	return errors.Join(os.WriteFile(target, data, mode), os.Chmod(target, mode))
}
