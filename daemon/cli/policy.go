package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"girderworker/daemon/policy"
)

const policyLong = `What jobs may ask of this machine, and whose, is written in
` + policy.DefaultFile + `; what it does not say is built in.
contrib/policy.toml explains every key.`

func (a *app) policyCommand() *cobra.Command {
	cmd := subcommands(&cobra.Command{
		Use:   "policy",
		Short: "Check the policy, or show what it lets you do",
		Long:  policyLong,
	})
	cmd.AddCommand(a.policyCheckCommand(), a.policyShowCommand())
	return cmd
}

func (a *app) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [FILE]",
		Short: "Check a policy file, all of it",
		Long: `Check a policy file and name everything that is wrong with it, with its line. The
daemon does the same when the file changes, and keeps the old policy if it is bad.`,
		Example: "  girder-worker policy check ./policy.toml",
		Args:    atMostOne("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			file := policyFile(args)
			if _, err := readPolicy(file, len(args) > 0); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.Stdout, file+" is good")
			return err
		},
	}
}

func (a *app) policyShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show [FILE]",
		Short: "Show what a policy lets you do",
		Long: `Show what a policy comes to for you: the sections that apply, added up. The groups
are those of this process.`,
		Example: "  girder-worker policy show",
		Args:    atMostOne("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := readPolicy(policyFile(args), len(args) > 0)
			if err != nil {
				return err
			}
			groups, err := os.Getgroups()
			if err != nil {
				return fmt.Errorf("cannot learn your groups: %w", err)
			}
			rights := p.For(policy.Subject{Source: policy.Socket, UID: os.Getuid(), Groups: append(groups, os.Getgid())})
			for _, section := range rights.Sections {
				if _, err := fmt.Fprintln(a.Stdout, "#", section); err != nil {
					return err
				}
			}
			for _, line := range rights.Explain() {
				if _, err := fmt.Fprintln(a.Stdout, line); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func atMostOne(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError(cmd, "one %s only", name)
		}
		return nil
	}
}

func policyFile(args []string) string {
	if len(args) > 0 {
		return args[0]
	}
	return policy.DefaultFile
}

// readPolicy takes no file for the built-in policy, unless it was asked for.
func readPolicy(file string, named bool) (*policy.Policy, error) {
	data, err := os.ReadFile(file)
	if err != nil && (named || !errors.Is(err, fs.ErrNotExist)) {
		return nil, fmt.Errorf("cannot read the policy: %w", err)
	}
	return policy.Parse(file, data, policy.SystemNames())
}
