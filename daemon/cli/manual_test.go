package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestManualPages holds the page of each group of commands against the commands
// themselves; -update writes them.
func TestManualPages(t *testing.T) {
	root := (&app{Process: thisProcess()}).root()
	for _, g := range root.Groups() {
		golden(t, filepath.Join("../../man", "girder-worker-"+g.ID+".1.md"), []byte(groupPage(root, g)))
	}
}

func groupPage(root *cobra.Command, g *cobra.Group) string {
	var b, synopsis strings.Builder
	name := "girder-worker-" + g.ID
	title := strings.TrimSuffix(g.Title, ":")
	fmt.Fprintf(&b, "%% %s(1) | girder-worker\n\n# NAME\n\n%s - commands of girder-worker(1): %s\n\n", strings.ToUpper(name), name, strings.ToLower(title))
	var commands strings.Builder
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.RunE != nil && !cmd.HasSubCommands() {
			fmt.Fprintf(&synopsis, "    %s\n", cmd.UseLine())
		}
		commandSection(&commands, cmd)
		for _, sub := range cmd.Commands() {
			sub.DisableFlagsInUseLine = true
			visit(sub)
		}
	}
	for _, cmd := range root.Commands() {
		if cmd.GroupID == g.ID {
			visit(cmd)
		}
	}
	fmt.Fprintf(&b, "# SYNOPSIS\n\n%s\n# DESCRIPTION\n\nEvery command also takes **--socket** *PATH*, the daemon's socket, and **--help**.\n\n# COMMANDS\n\n%s", synopsis.String(), commands.String())
	b.WriteString("# SEE ALSO\n\n**girder-worker**(1)\n")
	return b.String()
}

func commandSection(b *strings.Builder, cmd *cobra.Command) {
	fmt.Fprintf(b, "## %s\n\n%s\n\n", markdown(cmd.UseLine()), markdown(cmd.Long))
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		name := "**--" + f.Name + "**"
		if f.Shorthand != "" {
			name = "**-" + f.Shorthand + "**, " + name
		}
		if kind != "" {
			name += " *" + markdown(kind) + "*"
		}
		fmt.Fprintf(b, "%s\n: %s.\n\n", name, markdown(strings.Join(strings.Fields(usage), " ")))
	})
	if cmd.Example != "" {
		fmt.Fprintf(b, "Examples:\n\n%s\n\n", indent(cmd.Example))
	}
	if text := cmd.Annotations[epilog]; text != "" {
		head, rest, _ := strings.Cut(text, "\n")
		fmt.Fprintf(b, "%s\n\n%s\n\n", markdown(head), indent(rest))
	}
}

// indent makes a block that is shown as it is, from lines that begin with two spaces.
func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + strings.TrimPrefix(line, "  "))
	}
	return strings.TrimRight(b.String(), "\n")
}

// markdown is a text with nothing in it that Markdown reads.
func markdown(text string) string {
	return strings.NewReplacer("*", `\*`, "_", `\_`, "<", `\<`, "`", "\\`", "[", `\[`, "]", `\]`).Replace(text)
}
