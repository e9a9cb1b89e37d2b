package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"girderworker/daemon/plugin"
)

// newTask is a task file that does something, and shows how.
const newTask = `#:schema /usr/share/girder-worker/task.schema.json
# A task for girder-worker; girder-worker-tasks(5) tells what can be written here.
# Every field of a job document may stand here, too: see girder-worker-job(5).
name = %[1]q
title = "Say hello"
description = "Writes a greeting, as often as it is told."

%[2]s# Each element is one argument, whatever the values hold. An entry with "if" is left out
# where that parameter has no value, or is false.
entrypoint = ["sh", "-c", 'for i in $(seq "$1"); do echo "Hello $0$2"; done']
args = ["{who}", "{times}", { if = "loud", args = ["!"] }]
timeout = "10m"

[resources]
cpus = 1
memory = "64m"

[[parameters]]
name = "who"
type = "string"
description = "Whom to greet."

[[parameters]]
name = "times"
type = "integer"
default = 1
min = 1
max = 100

[[parameters]]
name = "loud"
type = "boolean"
default = false
`

const newImage = `image = %q
pull = "missing"
`

// newCommand is a task file that runs a program of the machine.
const newCommand = `#:schema /usr/share/girder-worker/task.schema.json
# A task for girder-worker; girder-worker-tasks(5) tells what can be written here.
# Most fields of a job document may stand here, too: see girder-worker-job(5).
name = %[1]q
title = "Run a program"
description = "Calls a program of this machine with a text, and with a file where one is given."

# It runs as whoever calls the task, in a container that shows this machine's files,
# read-only, and has /mnt and /tmp of its own. Arguments that always come first may
# stand beside it, as in ["/usr/bin/sort", "-u"]. It must be root's alone to change.
command = %[2]q
# Each element is one argument, whatever the values hold. An entry with "if" is left out
# where that parameter has no value. A text that begins with '-' is refused where it
# would be an option: put "--" before it, or write "--text={text}".
args = ["{text}", { if = "file", args = ["{file}"] }]
timeout = "10m"

[resources]
cpus = 1
memory = "64m"

[[parameters]]
name = "text"
type = "string"
default = "hello"

[[parameters]]
name = "file"
type = "file"
required = false
`

func (a *app) tasksNewCommand() *cobra.Command {
	var image, command string
	var python bool
	cmd := &cobra.Command{
		Use:   "new [--image IMAGE | --command PROGRAM | --python] NAME [DIR]",
		Short: "Write a task file, or a task package, to start from",
		Long: `Write the file NAME.toml of a task that runs as it is, to be changed into yours. It
goes into DIR, or into the current directory; the daemon finds it in
/etc/girder-worker/tasks.d. A file that is there already stays as it is. With
--command the task runs a program of this machine instead of an image.
With --python it is the directory NAME with a Python package, which runs when it is
installed for an interpreter of the daemon, or as it is where plugin_load_path
names that directory.`,
		Example: "  sudo girder-worker tasks new lab.segment /etc/girder-worker/tasks.d\n  girder-worker run --task lab.segment who=world",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				args = args[:1]
			}
			return exactly("NAME")(cmd, args)
		},
		RunE: func(_ *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 2 {
				dir = args[1]
			}
			if python {
				root, err := writePackage(dir, args[0])
				if err == nil {
					_, err = fmt.Fprintln(a.Stdout, root)
				}
				return err
			}
			file := filepath.Join(dir, args[0]+".toml")
			text := fmt.Sprintf(newTask, args[0], fmt.Sprintf(newImage, image))
			if command != "" {
				text = fmt.Sprintf(newCommand, args[0], command)
			}
			if _, problems := plugin.Parse(args[0]+".toml", []byte(text)); len(problems) > 0 {
				return cannot("write a task "+args[0], problems[0])
			}
			if err := writeNew(file, text); err != nil {
				return cannot("write "+file, err)
			}
			_, err := fmt.Fprintln(a.Stdout, file)
			return err
		},
	}
	cmd.Flags().StringVar(&image, "image", "busybox", "the `IMAGE` that it runs")
	cmd.Flags().StringVar(&command, "command", "", "the `PROGRAM` of this machine that it runs")
	cmd.Flags().BoolVar(&python, "python", false, "write a Python package with a task")
	cmd.MarkFlagsMutuallyExclusive("image", "command", "python")
	return cmd
}

// writeNew makes a file that is not there yet.
func writeNew(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return errors.New("it is there already, and stays as it is")
	}
	if err != nil {
		return plain(err)
	}
	_, err = f.WriteString(text)
	// The daemon reads it as another user, whatever the umask.
	return plain(errors.Join(err, f.Chmod(0o644), f.Close()))
}
