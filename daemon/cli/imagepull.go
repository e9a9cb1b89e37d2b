package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
)

const imagesPullLong = `Fetch an image from the registry that its name tells, by tag or by digest, with the
machine's credentials. Layers that are here are not fetched again, every digest is
checked, and signatures beside the image are brought along. What root and the admin
group pull is everyone's, what a user pulls is that user's own.`

const imagesPullExample = `  girder-worker images pull ghcr.io/lab/segment:1.0
  girder-worker images pull ghcr.io/lab/segment@sha256:2c9c...
  girder-worker images pull --missing busybox`

func (a *app) imagesPullCommand() *cobra.Command {
	var missing, private, quiet bool
	cmd := &cobra.Command{
		Use:               "pull IMAGE",
		Short:             "Fetch an image from its registry",
		Long:              imagesPullLong,
		Example:           imagesPullExample,
		Args:              exactly("IMAGE"),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.client()
			defer c.Close()
			told := ""
			tell := func(p apitype.Progress) {
				// A terminal has one line that changes, a log a line for each layer.
				switch {
				case quiet || a.json:
				case isTerminal(a.Stderr):
					fmt.Fprintf(a.Stderr, "\r\x1b[K%s", pulling(p))
				case p.Message != told:
					told = p.Message
					fmt.Fprintln(a.Stderr, p.Message)
				}
			}
			img, note, err := c.PullImage(cmd.Context(), args[0], missing, private, tell)
			if !quiet && !a.json && isTerminal(a.Stderr) {
				fmt.Fprint(a.Stderr, "\r\x1b[K")
			}
			if err != nil {
				return cannot("pull "+args[0], err)
			}
			if a.json {
				return a.printJSON(pulled{img, note})
			}
			if note != "" {
				fmt.Fprintln(a.Stderr, "girder-worker:", note)
			}
			called := shortID(img.ID)
			if len(img.Names) > 0 {
				called = img.Names[0]
			}
			_, err = fmt.Fprintf(a.Stdout, "%s (%s, %s)\n", called, shortID(img.ID), size(img.Size))
			return err
		},
	}
	cmd.Flags().BoolVar(&missing, "missing", false, "leave an image that is here as it is")
	cmd.Flags().BoolVar(&private, "private", false, "as an admin, keep the image to oneself")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return a.jsonFlag(cmd)
}

// pulled is what `images pull --json` writes.
type pulled struct {
	apitype.Image
	Note string `json:"note,omitempty"`
}

func pulling(p apitype.Progress) string {
	if p.Total <= 0 {
		return p.Message
	}
	return fmt.Sprintf("%s, %s of %s", p.Message, size(int64(p.Current)), size(int64(p.Total)))
}
