package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"girderworker/daemon/apitype"
	"girderworker/daemon/client"
	"girderworker/daemon/plugin"
)

// jobDocument is what `run` and `submit` are asked for, an image or a task, and its
// document.
func (a *app) jobDocument(cmd *cobra.Command, flags *jobFlags, args []string) (what string, document map[string]any, err error) {
	if flags.task == "" {
		if len(args) == 0 {
			return "", nil, usageError(cmd, "IMAGE is missing, or --task NAME")
		}
		what = args[0]
		document, err = flags.document(cmd, a.LookupEnv, what, args[1:])
	} else {
		what = "task " + flags.task
		document, err = a.taskDocument(cmd, flags, args)
	}
	return what, document, cannot(cmd.Name()+" "+what, err)
}

// taskDocument is the document of a call. Values go to the daemon as they were written;
// it knows what they mean. Only paths are made absolute, and looked at, here.
func (a *app) taskDocument(cmd *cobra.Command, flags *jobFlags, args []string) (map[string]any, error) {
	d, err := flags.document(cmd, a.LookupEnv, "", nil)
	if err != nil {
		return nil, err
	}
	delete(d, "image")
	c := a.client()
	defer c.Close()
	task, err := c.Task(cmd.Context(), flags.task)
	if err != nil {
		return nil, err
	}
	kwargs := map[string]string{}
	for _, arg := range args {
		key, v, ok := strings.Cut(arg, "=")
		if _, twice := kwargs[key]; !ok || key == "" || twice {
			return nil, usageError(cmd, "%q: write KEY=VALUE, each key once", arg)
		}
		kwargs[key] = v
	}
	inGirder := false
	for _, p := range task.Parameters {
		v, given := kwargs[p.Name]
		switch {
		case !given || !plugin.IsPlace(p.Type):
		case isGirder(v):
			inGirder = true
		default:
			path, err := filepath.Abs(v)
			if err == nil && !flags.dependent() {
				err = checkPlace(p.Type, path)
			}
			if err != nil {
				return nil, fmt.Errorf("%s=%s: %w", p.Name, v, err)
			}
			kwargs[p.Name] = path
		}
	}
	d["task"], d["kwargs"] = flags.task, kwargs
	if task.Image == "" && task.Command == nil {
		d["kwargs"] = pythonArguments(&task, kwargs)
	}
	if inGirder {
		own, err := ownGirder(a.LookupEnv)
		if err != nil {
			return nil, err
		}
		if own != nil {
			d["girder"] = own
		}
	}
	return d, nil
}

// pythonArguments are what a function is called with, which has no types that tell a
// number from a text: JSON is what it says, and everything else a text, as is what takes
// the place of one.
func pythonArguments(task *apitype.Task, given map[string]string) map[string]any {
	values := make(map[string]any, len(given))
	for key, v := range given {
		values[key] = v
		text := slices.ContainsFunc(task.Parameters, func(p apitype.Parameter) bool { return p.Name == key && bytes.HasPrefix(p.Default, []byte(`"`)) })
		if !text && json.Valid([]byte(v)) {
			values[key] = json.RawMessage(v)
		}
	}
	return values
}

// isGirder tells ids from paths.
func isGirder(v string) bool {
	for _, prefix := range []string{girderFile, girderItem, girderFolder} {
		if strings.HasPrefix(v, prefix) {
			return true
		}
	}
	return len(v) == 24 && strings.Trim(v, "0123456789abcdef") == ""
}

// checkPlace refuses what cannot be used, where the person still sits.
func checkPlace(typeName, path string) error {
	if typeName == "new-file" {
		return checkOutput(path)
	}
	return checkExists(path)
}

// completeWhat offers images, or the arguments of the task that --task names.
func (a *app) completeWhat(cmd *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	name, err := cmd.Flags().GetString("task")
	if err != nil || name == "" {
		return a.completeImage(cmd, args, prefix)
	}
	var task apitype.Task
	a.complete(func(ctx context.Context, c *client.Client) []cobra.Completion {
		task, _ = c.Task(ctx, name)
		return nil
	})
	key, _, named := strings.Cut(prefix, "=")
	var found []cobra.Completion
	for _, p := range task.Parameters {
		given := false
		for _, arg := range args {
			given = given || strings.HasPrefix(arg, p.Name+"=")
		}
		switch {
		case named && key == p.Name && plugin.IsPlace(p.Type):
			return nil, cobra.ShellCompDirectiveDefault
		case named && key == p.Name && p.Type == "boolean":
			return []cobra.Completion{p.Name + "=true", p.Name + "=false"}, cobra.ShellCompDirectiveNoFileComp
		case named && key == p.Name:
			for _, choice := range p.Choices {
				found = append(found, p.Name+"="+strings.Trim(string(choice), `"`))
			}
			return found, cobra.ShellCompDirectiveNoFileComp
		case !named && !given:
			found = append(found, cobra.CompletionWithDesc(p.Name+"=", printable(p.Accepts)))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func (a *app) completeTaskFlag(cmd *cobra.Command) {
	if err := cmd.RegisterFlagCompletionFunc("task", a.completeTasks); err != nil {
		panic(err) // the flag was made before
	}
}

func (a *app) completeTasks(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return a.complete(func(ctx context.Context, c *client.Client) (found []cobra.Completion) {
		all, err := c.Tasks(ctx)
		if err != nil {
			return nil
		}
		for i := range all.Tasks {
			found = append(found, cobra.CompletionWithDesc(all.Tasks[i].Name, printable(all.Tasks[i].Title)))
		}
		return found
	})
}
