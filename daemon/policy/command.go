package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// ProgramPath is where a program is looked for that is named without a path, and the
// PATH of what it starts.
const ProgramPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// UnseenByCommands are what a program that a task file names does not see: what
// functions do not, and where it gets its files.
func UnseenByCommands() []string { return append(Unseen(), "mnt") }

// maxInterpreters is how many interpreters the kernel goes through for a script.
const maxInterpreters = 4

// CheckCommand finds the program that a command begins with. It refuses one that others
// than root can change, that its container does not see or that cannot be run; so it
// does with a script's interpreter, and with arguments that are paths, because those of
// an interpreter are programs, too. An error that is [fs.ErrPermission] is of who looked.
func CheckCommand(command []string) (program string, err error) {
	if program, err = findProgram(command[0]); err != nil {
		return "", err
	}
	var w Walk
	if err := checkProgram(&w, program, maxInterpreters); err != nil {
		return "", err
	}
	for _, arg := range command[1:] {
		if !path.IsAbs(arg) || unseenByCommands(path.Clean(arg)) != "" {
			continue // what it is in the container is not the host's
		}
		if err := w.RootsAlone(path.Clean(arg)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("its argument %s may be a program, too: %w; what is none belongs into args", arg, err)
		}
	}
	return program, nil
}

// findProgram is the path of a program. One that is not root's to change is found, too.
func findProgram(name string) (string, error) {
	if path.IsAbs(name) {
		return name, nil
	}
	for dir := range strings.SplitSeq(ProgramPath, ":") {
		at := path.Join(dir, name)
		if fi, err := os.Stat(at); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return at, nil
		}
	}
	return "", fmt.Errorf("there is no program %s in %s: install it, or write its path%s", name, ProgramPath, apart(name))
}

// apart is for those who wrote a command as into a shell.
func apart(name string) string {
	if program, _, spaced := strings.Cut(name, " "); spaced {
		return fmt.Sprintf("; if %s is the program, write a list of it and its arguments", program)
	}
	return ""
}

func unseenByCommands(name string) string {
	if top, _, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/"); slices.Contains(UnseenByCommands(), top) {
		return "/" + top
	}
	return ""
}

func checkProgram(w *Walk, name string, interpreters int) error {
	if dir := unseenByCommands(name); dir != "" {
		return fmt.Errorf("%s is beneath %s, which a command does not see; put it elsewhere, beneath /opt for example", name, dir)
	}
	at, err := w.to(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no program %s (%w)%s", name, err, apart(name))
	} else if err != nil {
		return err
	}
	if dir := unseenByCommands(at); dir != "" {
		return fmt.Errorf("%s leads to %s, beneath %s, which a command does not see; put it elsewhere, beneath /opt for example", name, at, dir)
	}
	fi, err := os.Lstat(at)
	switch {
	case err != nil:
		return fmt.Errorf("cannot look at %s: %w", name, err)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no program: it is no regular file", name)
	case fi.Mode()&0o111 == 0:
		return fmt.Errorf("%s is not executable: chmod a+x %[1]s", name)
	}
	f, err := os.Open(at)
	if errors.Is(err, fs.ErrPermission) {
		return nil // it can be run and not be read
	} else if err != nil {
		return fmt.Errorf("cannot look at %s: %w", name, err)
	}
	defer f.Close()
	head := make([]byte, 256) // of which the kernel takes the interpreter
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	return checkHead(w, name, head[:n], interpreters)
}

// checkHead holds the first bytes of a program against what the kernel runs.
func checkHead(w *Walk, name string, head []byte, interpreters int) error {
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return nil
	}
	line, script := bytes.CutPrefix(head, []byte("#!"))
	if !script {
		return fmt.Errorf("%s is no program: it begins neither with #! and an interpreter nor as a program of this machine does", name)
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	words := strings.FieldsFunc(string(line), func(r rune) bool { return r == ' ' || r == '\t' })
	if len(words) == 0 || !path.IsAbs(words[0]) || interpreters == 0 {
		return fmt.Errorf("%s is a script whose interpreter %.100q cannot be used; its first line has to be #! and an absolute path, such as #!/bin/sh", name, line)
	}
	interpreter, err := words[0], error(nil)
	if err = checkProgram(w, path.Clean(interpreter), interpreters-1); err == nil && path.Base(interpreter) == "env" {
		i := slices.IndexFunc(words[1:], func(w string) bool { return w[0] != '-' && !strings.Contains(w, "=") })
		if i < 0 {
			return nil
		}
		if interpreter, err = findProgram(words[1+i]); err == nil {
			err = checkProgram(w, interpreter, interpreters-1)
		}
	}
	if err != nil {
		return fmt.Errorf("%s is a script whose interpreter cannot be used: %w", name, err)
	}
	return nil
}
