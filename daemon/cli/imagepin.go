package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"girderworker/daemon/client"
)

func (a *app) imagesPinCommand() *cobra.Command {
	return a.pinCommand(&cobra.Command{
		Use:   "pin IMAGE...",
		Short: "Keep images as they are",
		Long: `Keep images whatever is pruned, removed or pulled: a pull does not change what a name
of a pinned image means. For root and the admin group.`,
		Example: "  girder-worker images pin segment:1.0",
	}, "pinned", (*client.Client).PinImage)
}

func (a *app) imagesUnpinCommand() *cobra.Command {
	return a.pinCommand(&cobra.Command{
		Use:     "unpin IMAGE...",
		Short:   "Let images be removed again",
		Long:    "End what `images pin` began. For root and the admin group.",
		Example: "  girder-worker images unpin segment:1.0",
	}, "unpinned", (*client.Client).UnpinImage)
}

func (a *app) pinCommand(cmd *cobra.Command, done string, do func(*client.Client, context.Context, string) error) *cobra.Command {
	verb, _, _ := strings.Cut(cmd.Use, " ")
	cmd.ValidArgsFunction = a.completeImages
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageError(cmd, "IMAGE is missing")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, refs []string) error {
		c := a.client()
		defer c.Close()
		for _, ref := range refs {
			if err := do(c, cmd.Context(), ref); err != nil {
				return cannot(verb+" image "+ref, err)
			}
			if _, err := fmt.Fprintln(a.Stdout, ref, done); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

// signersOf names the keys that signed an image, given as it was asked for.
func (a *app) signersOf(ctx context.Context, c *client.Client, ref string) ([]string, error) {
	images, err := c.Images(ctx)
	if err != nil {
		return nil, err
	}
	for i := range images {
		img := &images[i]
		if slices.Contains(img.Names, ref) || slices.Contains(img.Names, ref+":latest") || strings.HasPrefix(img.ID, ref) || shortID(img.ID) == ref {
			return img.SignedBy, nil
		}
	}
	return nil, nil
}
