package cli

import (
	"path/filepath"

	"girderworker/daemon"
	"girderworker/daemon/runner"
	"girderworker/sandbox/image"
)

// runOwnProcess runs the processes that the program starts itself as. They are
// no commands for people: they take what they need from descriptors and speak a
// protocol of their own.
func runOwnProcess(p Process) (code int, ok bool) {
	if len(p.Args) == 0 {
		return 0, false
	}
	switch args := p.Args[1:]; p.Args[0] {
	case image.UnpackCommand:
		return image.Main(args), true
	case "front":
		return (&app{Process: p}).frontProcess(args), true
	case daemon.FetchCommand:
		return (&app{Process: p}).imageFetch(), true
	case daemon.RestoreCommand:
		return (&app{Process: p}).restoreHelper(args), true
	case runner.DiscoverCommand:
		return (&app{Process: p}).pythonDiscover(), true
	case "images-helper":
		return (&app{Process: p}).imageHelper(), true
	}
	return runner.Process(p.Args)
}

// Arguments are the program's, from os.Args: what the Python worker calls
// girder-worker-config is a command here.
func Arguments(argv []string) []string {
	if filepath.Base(argv[0]) == "girder-worker-config" {
		return append([]string{"config"}, argv[1:]...)
	}
	return argv[1:]
}
