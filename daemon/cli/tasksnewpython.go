package cli

import (
	_ "embed"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed build_offline.py
var buildOffline string

// newPackage is a task package that does something: files by their paths, where
// NAME is its name.
var newPackage = map[string]string{
	"pyproject.toml": `# VENV/bin/pip install --no-index .   installs it into an environment that has girder_worker, and
# python = VENV   below [girder_worker] in worker.local.cfg has the daemon find its tasks there:
# see girder-worker-tasks(5), TASKS IN PYTHON.
[build-system]
requires = []
build-backend = "build_offline"
backend-path = ["."]

[project]
name = "NAME"
version = "0.1.0"
dependencies = ["girder_worker"]

[project.entry-points.girder_worker_plugins]
NAME = "NAME:Plugin"
`,
	// Debian's pip of a new environment has no setuptools that makes wheels, and pip's own
	// way is to fetch one.
	"build_offline.py": buildOffline,
	"NAME/__init__.py": `from girder_worker import GirderWorkerPlugin


class Plugin(GirderWorkerPlugin):
    def task_imports(self):
        return ['NAME.tasks']
`,
	"NAME/tasks.py": `from girder_worker.app import app
from girder_worker.utils import girder_job


@girder_job(title='Example Task')
@app.task(bind=True)
def example_task(self, who='World'):
    """Greets somebody."""
    self.job_manager.updateProgress(total=1, current=0, message='greeting')
    return 'Hello %s!' % who
`,
}

var packageName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)

// writePackage makes a directory of that name with a task package in dir.
func writePackage(dir, name string) (string, error) {
	if !packageName.MatchString(name) {
		return "", cannot("write a task package", errors.New(name+" is no name of a Python package: small letters, digits and _, the first a letter"))
	}
	root := filepath.Join(dir, name)
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", cannot("write "+root, plain(err))
	}
	if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
		return "", cannot("write "+root, plain(err))
	}
	for file, text := range newPackage {
		file = filepath.Join(root, strings.ReplaceAll(file, "NAME", name))
		if err := writeNew(file, strings.ReplaceAll(text, "NAME", name)); err != nil {
			return "", cannot("write "+file, err)
		}
	}
	return root, nil
}
