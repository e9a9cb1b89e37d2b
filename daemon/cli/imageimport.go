package cli

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

const imagesImportLong = `Import an image from an archive: what "docker save" or "podman save" writes, an OCI
archive, or the directory of an OCI layout; plain, or packed with gzip or zstd.
Every digest is checked. FILE - reads an archive from stdin.

An image keeps the name it has in the archive; --name gives it another, and has to
where the archive has none.`

const imagesImportExample = `  girder-worker images import segment.tar
  girder-worker images import --name segment:1.0 oci-layout/
  docker save segment:1.0 | girder-worker images import -`

func (a *app) imagesImportCommand() *cobra.Command {
	var (
		name    string
		private bool
	)
	cmd := &cobra.Command{
		Use:     "import FILE|-",
		Short:   "Import images from an archive",
		Long:    imagesImportLong,
		Example: imagesImportExample,
		Args:    exactly("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			images, err := a.importImage(cmd.Context(), args[0], name, private)
			if err != nil {
				return cannot("import "+args[0], err)
			}
			if a.json {
				return a.printJSON(images)
			}
			for i := range images {
				called := shortID(images[i].ID)
				if len(images[i].Names) > 0 {
					called = images[i].Names[0]
				}
				if _, err := fmt.Fprintf(a.Stdout, "%s (%s, %s)\n", called, shortID(images[i].ID), size(images[i].Size)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "call the image `REF`")
	cmd.Flags().BoolVar(&private, "private", false, "as an admin, keep the image to oneself")
	return a.jsonFlag(cmd)
}

func (a *app) importImage(ctx context.Context, file, name string, private bool) ([]apitype.Image, error) {
	c := a.client()
	defer c.Close()
	if file == "-" {
		if isTerminal(a.Stdin) {
			return nil, fmt.Errorf("stdin is a terminal; pipe an archive into this command")
		}
		return c.ImportImage(ctx, a.Stdin, name, private)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, plain(err)
	}
	if !info.IsDir() {
		if err := checkRegular(info); err != nil {
			return nil, err
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, plain(err)
		}
		defer f.Close()
		return c.ImportImage(ctx, f, name, private)
	}
	if _, err := os.Stat(filepath.Join(file, "oci-layout")); err != nil {
		return nil, fmt.Errorf("the directory is no OCI layout: it has no file oci-layout")
	}
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(packLayout(w, file))
	}()
	images, err := c.ImportImage(ctx, r, name, private)
	r.Close()
	<-packed
	return images, err
}

// packLayout writes the regular files of an OCI layout as a tar. Links are not
// followed: a layout has none.
func packLayout(w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewWriter(w)
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		f, err := root.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o644}
		if err := t.WriteHeader(header); err != nil {
			return err
		}
		_, err = io.Copy(t, f)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot read the OCI layout: %w", err)
	}
	return t.Close()
}
