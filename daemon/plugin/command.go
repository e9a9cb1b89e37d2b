package plugin

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"girderworker/daemon/policy"
	"girderworker/transforms"
)

// command reads a program, or a list of one and its first arguments.
func (p *parser) command(v any) {
	command, ok := commandOf(v)
	switch {
	case !ok:
		p.add("command", "command: want a text or a list of texts: a program, and its first arguments")
	case len(command) == 0 || command[0] == "":
		p.add("command", `command: the program is missing; write a path such as "/usr/bin/convert", or a name`)
	}
	p.task.Command = command
}

func commandOf(v any) (command []string, ok bool) {
	list, isList := v.([]any)
	if !isList {
		list = []any{v}
	}
	for _, entry := range list {
		s, ok := entry.(string)
		if !ok {
			return nil, false
		}
		command = append(command, s)
	}
	return command, true
}

// fixedCommand refuses parameters in a command. Who could say what runs could say
// anything.
func (p *parser) fixedCommand() {
	for _, s := range p.task.Command {
		for _, name := range references(s) {
			if p.task.byName[name] != nil {
				p.add("command", "command: {%s} is a parameter, and a command is always the same; what a call says belongs into args", name)
			}
		}
	}
}

// ofCommand is a task that runs a program, for as long as the machine has it. What this
// process may not look at is looked at when a job starts, as is everything.
func (t *taskFile) ofCommand(at position) Task {
	check := func() error {
		if _, err := policy.CheckCommand(t.Command); err != nil && !errors.Is(err, fs.ErrPermission) {
			return err
		}
		return nil
	}
	return Task{
		Task: t.Task,
		Document: func(c transforms.Task) (*transforms.JobFile, error) {
			if err := check(); err != nil {
				return nil, &transforms.DocumentError{Field: "command", Problem: fmt.Sprintf("%v (it is that of %s)", err, t.Source)}
			}
			return t.call(c)
		},
		Trouble: func() error {
			if err := check(); err != nil {
				return &Problem{t.Source, at.line, at.column, "command: " + err.Error()}
			}
			return nil
		},
	}
}

// HasCommand tells whether a task file of a directory has this command, as it is now.
// What else the files say does not matter; one that cannot be read has none.
func HasCommand(dir string, command []string) (has bool, err error) {
	err = eachFile(dir, 0, func(file string, data []byte, err error) bool {
		if err != nil {
			return true
		}
		root, bad := (&parser{file: file}).decode(data)
		if bad != nil {
			return true
		}
		found, ok := commandOf(root["command"])
		has = ok && slices.Equal(found, command)
		return !has
	})
	if has {
		return true, nil
	}
	return false, err
}
