package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

func (a *app) imagesCommand() *cobra.Command {
	cmd := subcommands(&cobra.Command{
		Use:   "images",
		Short: "Import, pull, list and remove images",
		Long: `The images that jobs run are in girder-worker's own store. They come from archives,
or from a registry where somebody asks for that. What root and the admin group import
or pull is everyone's, what a user imports or pulls is that user's own.`,
	})
	for _, sub := range []*cobra.Command{
		a.imagesImportCommand(), a.imagesPullCommand(), a.imagesLsCommand(), a.imagesRmCommand(), a.imagesPruneCommand(),
		a.imagesVerifyCommand(), a.imagesPinCommand(), a.imagesUnpinCommand(),
	} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return cmd
}

func (a *app) imagesLsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "ls",
		Short:             "List images",
		Long:              `List the images that one's jobs may use, root and the admin group all of them.`,
		Example:           "  girder-worker images ls",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := a.client()
			defer c.Close()
			images, err := c.Images(cmd.Context())
			if err != nil {
				return cannot("list images", err)
			}
			if a.json {
				return a.printJSON(images)
			}
			return a.printImages(images)
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) printImages(images []apitype.Image) error {
	t := newTable("NAME", "ID", "SIZE", "ADDED", "OWNER", "ARCH", "NOTES")
	t.alignRight(2, 3)
	for i := range images {
		img := &images[i]
		names := img.Names
		if len(names) == 0 {
			names = []string{"-"}
		}
		owner := "everyone"
		if img.Owner >= 0 {
			owner = "uid:" + strconv.Itoa(img.Owner)
		}
		for _, name := range names {
			t.add(name, shortID(img.ID), size(img.Size), ago(time.Since(img.Added)), owner, img.Arch, notes(img))
		}
	}
	return t.write(a.Stdout)
}

// notes are what few images have.
func notes(img *apitype.Image) string {
	var all []string
	if img.Pinned {
		all = append(all, "pinned")
	}
	if len(img.SignedBy) > 0 {
		all = append(all, "signed by "+strings.Join(img.SignedBy, ", "))
	}
	return strings.Join(all, "; ")
}

func shortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

func (a *app) imagesRmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "rm IMAGE...",
		Short:             "Remove names of images",
		Long:              `Remove names of images. An image goes with its last name, its layers with the next "prune".`,
		Example:           "  girder-worker images rm segment:0.9",
		ValidArgsFunction: a.completeImages,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(cmd, "IMAGE is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, refs []string) error {
			c := a.client()
			defer c.Close()
			done := removedImages{Removed: []string{}}
			var failed error
			for _, ref := range refs {
				if err := c.RemoveImage(cmd.Context(), ref); err != nil {
					failed = cannot("remove image "+ref, err)
					break
				}
				done.Removed = append(done.Removed, ref)
				if a.json {
					continue
				}
				if _, err := fmt.Fprintln(a.Stdout, ref, "removed"); err != nil {
					return err
				}
			}
			if a.json && (failed == nil || len(done.Removed) > 0) {
				if err := a.printJSON(done); err != nil {
					return err
				}
			}
			return failed
		},
	}
	return a.jsonFlag(cmd)
}

// removedImages is what `images rm --json` writes: the names that are gone, as
// they were given.
type removedImages struct {
	Removed []string `json:"removed"`
}

func (a *app) imagesPruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free what no name, no pin and no job needs",
		Long: `Remove the images and layers that no name, no pin and no job needs. For root and the
admin group.`,
		Example:           "  girder-worker images prune",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c := a.client()
			defer c.Close()
			pruned, err := c.PruneImages(cmd.Context())
			if err != nil {
				return cannot("prune images", err)
			}
			if a.json {
				return a.printJSON(pruned)
			}
			for _, id := range pruned.Images {
				if _, err := fmt.Fprintln(a.Stdout, shortID(id), "removed"); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(a.Stdout, "%d images and %d layers removed, %s freed\n", len(pruned.Images), pruned.Layers, size(pruned.Bytes))
			return err
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) imagesVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify [IMAGE...]",
		Short: "Read images again and hold them against their digests",
		Long: `Read every byte of images, of all that one may use where none is named, and hold
them against their digests. An image that differs has to be imported again. The
signatures that came with an image are held against the keys of the machine.`,
		Example:           "  girder-worker images verify segment:1.0",
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, refs []string) error {
			c := a.client()
			defer c.Close()
			called := map[string]string{} // names for people, by what is asked for
			if len(refs) == 0 {
				images, err := c.Images(cmd.Context())
				if err != nil {
					return cannot("list images", err)
				}
				for i := range images {
					img := &images[i]
					if _, again := called[img.ID]; again {
						continue
					}
					// By id, because an admin's list has names that are others'.
					called[img.ID] = append(img.Names, shortID(img.ID))[0]
					refs = append(refs, img.ID)
				}
			}
			checks := []imageCheck{}
			bad := 0
			for _, ref := range refs {
				err := c.VerifyImage(cmd.Context(), ref)
				if name, ok := called[ref]; ok {
					ref = name
				}
				if cmd.Context().Err() != nil {
					return cmd.Context().Err()
				}
				if err != nil {
					a.exitCode(cannot("verify image "+ref, err)) // says it
					bad++
					checks = append(checks, imageCheck{Image: ref, Error: err.Error()})
					continue
				}
				signers, err := a.signersOf(cmd.Context(), c, ref)
				if err != nil {
					return cannot("list images", err)
				}
				checks = append(checks, imageCheck{Image: ref, OK: true, SignedBy: signers})
				if a.json {
					continue
				}
				said := "ok"
				if len(signers) > 0 {
					said += ", signed by " + strings.Join(signers, ", ")
				}
				if _, err := fmt.Fprintln(a.Stdout, ref, said); err != nil {
					return err
				}
			}
			if a.json {
				if err := a.printJSON(checks); err != nil {
					return err
				}
			}
			if bad > 0 {
				return exitStatus(exitError)
			}
			return nil
		},
	}
	return a.jsonFlag(cmd)
}

// An imageCheck is an element of what `images verify --json` writes.
type imageCheck struct {
	Image string `json:"image"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	// SignedBy names the keys of the machine that have signed it.
	SignedBy []string `json:"signed_by,omitempty"`
}
