package cli

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/plugin"
)

const tasksLong = `List the tasks that this machine has beside docker_run: what can be asked for by a
name, with "run --task" and "submit --task" and by Girder through Celery. They come
from files in /etc/girder-worker/tasks.d and from the Python packages of interpreters
that the configuration names (python), see girder-worker-tasks(5). Both are looked at
again when they change. What is wrong with one is told here, too.`

func (a *app) tasksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tasks",
		Short:   "List, show, check and write tasks",
		Long:    tasksLong,
		Example: "  girder-worker tasks\n  girder-worker tasks show lab.segment",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			c := a.client()
			defer c.Close()
			all, err := c.Tasks(cmd.Context())
			if err != nil {
				return cannot("list tasks", err)
			}
			if a.json {
				return a.printJSON(all)
			}
			return a.printTasks(all)
		},
	}
	for _, sub := range []*cobra.Command{a.tasksShowCommand(), a.tasksCheckCommand(), a.tasksNewCommand()} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	return a.jsonFlag(cmd)
}

func (a *app) printTasks(all apitype.Tasks) error {
	t := newTable("NAME", "TITLE", "PARAMETERS", "SOURCE")
	for i := range all.Tasks {
		task := &all.Tasks[i]
		var names []string
		for _, p := range task.Parameters {
			name := p.Name
			if !p.Required {
				name = "[" + name + "]"
			}
			names = append(names, name)
		}
		t.add(task.Name, task.Title, strings.Join(names, " "), task.Source)
	}
	err := t.write(a.Stdout)
	for _, problem := range all.Problems {
		fmt.Fprintln(a.Stderr, "girder-worker: "+printable(problem))
	}
	return err
}

func (a *app) tasksShowCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show NAME",
		Short:   "Show a task with its parameters",
		Long:    `Show what a task does, and what it takes.`,
		Example: "  girder-worker tasks show lab.segment",
		Args:    exactly("NAME"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeTasks(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c := a.client()
			defer c.Close()
			task, err := c.Task(cmd.Context(), args[0])
			if err != nil {
				return cannot("show task "+args[0], err)
			}
			if a.json {
				return a.printJSON(task)
			}
			return a.printTask(&task)
		},
	}
	return a.jsonFlag(cmd)
}

func (a *app) printTask(task *apitype.Task) error {
	if err := fields(a.Stdout, "Name", task.Name, "Title", task.Title, "Source", task.Source, "Image", task.Image, "Command", strings.Join(task.Command, " ")); err != nil {
		return err
	}
	if task.Description != "" {
		for line := range strings.Lines(strings.TrimRight(task.Description, "\n")) {
			fmt.Fprintln(a.Stdout, strings.TrimRight("  "+printable(strings.TrimRight(line, "\n")), " "))
		}
	}
	fmt.Fprintln(a.Stdout)
	t := newTable("PARAMETER", "TYPE", "DEFAULT", "WHAT IT TAKES")
	call := "girder-worker run --task " + task.Name
	for i := range task.Parameters {
		p := &task.Parameters[i]
		fallback := string(p.Default)
		switch {
		case p.Required:
			fallback = "(required)"
			call += " " + p.Name + "=…"
		case p.Default == nil:
			fallback = "(none)"
		}
		t.add(p.Name, p.Type, fallback, p.Accepts)
		for _, line := range []string{p.Title, p.Description} {
			if line = strings.Join(strings.Fields(line), " "); line != "" {
				t.add("", "", "", "  "+line)
			}
		}
	}
	if len(task.Parameters) == 0 {
		fmt.Fprintln(a.Stdout, "It takes no parameters.")
	} else if err := t.write(a.Stdout); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.Stdout, "\n"+call)
	return err
}

func (a *app) tasksCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Check task files",
		Long: `Check task files and name everything that is wrong with them, with line and column.
The daemon does the same when a file changes; it needs not run for this.`,
		Example: "  girder-worker tasks check ./segment.toml",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError(cmd, "FILE is missing")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, files []string) error {
			bad := false
			for _, file := range files {
				data, err := readTaskFile(file)
				if err != nil {
					return cannot("check "+file, err)
				}
				task, problems := plugin.Parse(file, data)
				if len(problems) == 0 && task.Trouble != nil {
					if trouble := task.Trouble(); trouble != nil {
						problems = append(problems, trouble)
					}
				}
				for _, problem := range problems {
					bad = true
					fmt.Fprintln(a.Stderr, printable(problem.Error()))
				}
				if len(problems) == 0 {
					fmt.Fprintf(a.Stdout, "%s is good: the task %s\n", file, task.Name)
				}
			}
			if bad {
				return exitStatus(exitError)
			}
			return nil
		},
	}
}

func readTaskFile(file string) ([]byte, error) {
	if err := checkInput(file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, plain(err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, plugin.MaxFile+1))
	return data, plain(err)
}
