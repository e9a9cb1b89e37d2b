package cli

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write what the tests want anew from what they get")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"girder-worker": func() { os.Exit(Main(thisProcess(os.Args[1:]...))) },
	})
}

func thisProcess(args ...string) Process {
	return Process{
		Args: args, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, LookupEnv: os.LookupEnv,
		Version: "1.2.3", Commit: "abcdef",
	}
}

// TestScripts runs the stories in testdata/script. Beside testscript's own
// commands they have:
//
//	worker                start a worker (see [fakeWorker]) on $GIRDER_WORKER_SOCKET
//	restart               stop its API, and start it again on the same queue
//	exits CODE PROGRAM…   run a program that has to end with this code
//	until STATE ID        wait until a job is in a state
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GIRDER_WORKER_SOCKET", filepath.Join(env.WorkDir, "sock"))
			env.Values[workerKey{}] = new(fakeWorker)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"worker":  func(ts *testscript.TestScript, _ bool, _ []string) { startFakeWorker(ts) },
			"restart": func(ts *testscript.TestScript, _ bool, _ []string) { workerOf(ts).restart(ts) },
			"exits":   exits,
			"until":   func(ts *testscript.TestScript, _ bool, args []string) { workerOf(ts).until(ts, args[0], args[1]) },
		},
	})
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	if status, ok := errors.AsType[*exec.ExitError](err); ok {
		got, err = status.ExitCode(), nil
	}
	ts.Check(err)
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// TestHelp holds every command's --help against testdata/help; -update writes it.
func TestHelp(t *testing.T) {
	seen := map[string]bool{}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		name := strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".txt"
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			p := thisProcess(append(strings.Fields(cmd.CommandPath())[1:], "--help")...)
			p.Stdout = &out
			if code := Main(p); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			golden(t, filepath.Join("testdata/help", name), out.Bytes())
			for line := range strings.Lines(out.String()) {
				if n := len([]rune(strings.TrimRight(line, "\n"))); n > 110 {
					t.Errorf("%d columns: %s", n, line)
				}
			}
		})
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&app{Process: thisProcess()}).root())
	files, err := os.ReadDir("testdata/help")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !seen[f.Name()] {
			t.Errorf("testdata/help/%s is no command's", f.Name())
		}
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("it differs from %s; -update writes that anew. Got:\n%s", file, got)
	}
}

// TestCommandsAreDocumented: what a page of the manual would need is there.
func TestCommandsAreDocumented(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" && !cmd.HasSubCommands() {
			t.Errorf("%s lacks a description, a long one or an example", cmd.CommandPath())
		}
		if cmd.Name() == "init" {
			t.Error("libcontainer owns the name init")
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit((&app{Process: thisProcess()}).root())
}

// The daemon's halves have different working directories.
func TestRelativeConfiguration(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	want := filepath.Join(dir, "worker.cfg")
	for _, c := range []struct{ flag, variable string }{{"worker.cfg", ""}, {"", "worker.cfg"}, {"./worker.cfg", "other.cfg"}} {
		flags := pflag.NewFlagSet("daemon", pflag.ContinueOnError)
		daemonFlags(flags)
		if c.flag != "" {
			if err := flags.Parse([]string{"--config", c.flag}); err != nil {
				t.Fatal(err)
			}
		}
		a := &app{Process: Process{LookupEnv: func(string) (string, bool) { return c.variable, c.variable != "" }}}
		if o := a.daemonOptions(flags); o.Sources.File != want || !slices.Contains(o.Args, "--config="+want) {
			t.Errorf("%+v: it reads %q, and its front is started with %q", c, o.Sources.File, o.Args)
		}
	}
}
