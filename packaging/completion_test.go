package packaging_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shells complete "girder-worker doct" and " --air" the way their users have it done,
// with the completions of the current directory.
var shells = map[string]string{
	"bash": `
		source /usr/share/bash-completion/bash_completion
		source ./completion.bash
		complete=$(complete -p girder-worker | sed 's/.*-F \([^ ]*\).*/\1/')
		for line in "girder-worker doct" "girder-worker doctor --air"; do
			COMP_LINE=$line COMP_POINT=${#line} COMP_WORDS=($line)
			COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
			$complete 2>/dev/null # compopt is for shells with a person
			echo "${COMPREPLY[@]}"
		done`,
	// A terminal, as zsh completes nowhere else.
	"zsh": `
		zmodload zsh/zpty
		zpty shell zsh -f -i
		zpty -w shell 'fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; echo re""ady'
		while zpty -r shell line; do [[ $line != *ready* ]] || break; done
		zpty -n -w shell $'girder-worker doct\t --air\t'
		while zpty -r shell line '*--air[gG]ap*'; do
			print -r -- $line
			[[ $line != *--airgap* ]] || break
		done
		zpty -d shell`,
	"fish": `
		source ./completion.fish
		complete -C"girder-worker doct"
		complete -C"girder-worker doctor --air"`,
}

// TestCompletions: what the packages have for shells completes in each.
func TestCompletions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := binary(t, version)
	if err := os.Symlink(program, filepath.Join(dir, "girder-worker")); err != nil {
		t.Fatal(err)
	}
	for shell, script := range shells {
		t.Run(shell, func(t *testing.T) {
			needs(t, shell)
			name := "completion." + shell
			if shell == "zsh" {
				name = "_girder-worker"
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(run(t, nil, program, "completion", shell)), 0o644); err != nil {
				t.Fatal(err)
			}
			// It is waited for what is shown: a shell that completes nothing shows nothing more.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, shell, "-c", script)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "TERM=dumb")
			out, err := cmd.CombinedOutput()
			for _, want := range []string{"doctor", "--airgap"} {
				if err != nil || !strings.Contains(string(out), want) {
					t.Errorf("%s is not completed (%v):\n%s", want, err, out)
				}
			}
		})
	}
}
