package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"girderworker/daemon/client"
)

const completionLong = `Write a script that has a shell complete commands, flags, the ids of jobs and the
names of images. The packages install it; by hand:

  bash   girder-worker completion bash > /etc/bash_completion.d/girder-worker
  zsh    girder-worker completion zsh > /usr/share/zsh/site-functions/_girder-worker
  fish   girder-worker completion fish > ~/.config/fish/completions/girder-worker.fish`

func (a *app) completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:               "completion SHELL",
		Short:             "Write the completion script for a shell",
		Long:              completionLong,
		Example:           "  . <(girder-worker completion bash)",
		Args:              exactly("SHELL"),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.Stdout, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.Stdout)
			case "fish":
				return cmd.Root().GenFishCompletion(a.Stdout, true)
			}
			return fmt.Errorf("cannot complete for %q; the shells are %s", args[0], strings.Join(shells, ", "))
		},
	}
}

// completionTimeout is how long a person who pressed tab waits for a daemon.
const completionTimeout = 500 * time.Millisecond

// completeJob offers the newest jobs for one argument, completeJobs for any
// number. Without a daemon there is nothing to offer, and nothing to say.
func (a *app) completeJob(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeJobs(cmd, args, prefix)
}

func (a *app) completeJobs(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(func(ctx context.Context, c *client.Client) (found []cobra.Completion) {
		page, err := c.Jobs(ctx, client.JobFilter{Limit: 100})
		if err != nil {
			return nil
		}
		for i := range page.Jobs {
			j := &page.Jobs[i]
			found = append(found, cobra.CompletionWithDesc(j.ID, printable(j.State+" "+j.Name)))
		}
		return found
	})
}

func (a *app) completeImage(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault // the job's own arguments, often files
	}
	return a.completeImages(cmd, args, prefix)
}

func (a *app) completeImages(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(func(ctx context.Context, c *client.Client) (found []cobra.Completion) {
		images, err := c.Images(ctx)
		if err != nil {
			return nil
		}
		for i := range images {
			found = append(found, images[i].Names...)
		}
		return found
	})
}

func (a *app) complete(ask func(context.Context, *client.Client) []cobra.Completion) ([]cobra.Completion, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
	defer cancel()
	c := a.client()
	defer c.Close()
	return ask(ctx, c), cobra.ShellCompDirectiveNoFileComp
}
