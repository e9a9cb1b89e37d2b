package daemon_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"girderworker/sandbox/image/imagetest"
)

// examples are the lines that a section of the manual shows for typing.
func examples(t *testing.T) (lines []string) {
	t.Helper()
	pages, err := filepath.Glob("../man/*.1.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?m)^(?:Examples:|# EXAMPLES)\n\n((?:    .*\n)+)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(m[1]) {
				if line = strings.TrimSpace(line); !slices.Contains(lines, line) {
					lines = append(lines, line)
				}
			}
		}
	}
	if len(lines) < 40 {
		t.Fatalf("only %d examples found", len(lines))
	}
	return lines
}

// notRun of the examples need what a test's machine has not, by how they begin.
var notRun = map[string]string{
	"systemctl ":                     "a service manager",
	"girder-worker restore ":         "a daemon that is stopped; TestRestoreDrill",
	"girder-worker daemon":           "this daemon is one",
	"girder-worker images pull ghcr": "that registry; TestPull",
	"sudo girder-worker doctor":      "a machine without faults; TestDoctor",
	"girder-worker run --task":       "task files; TestTaskFiles",
	"girder-worker tasks":            "task files; TestTaskFiles",
	"sudo girder-worker tasks":       "task files; TestTaskFiles",
}

func needsMore(line string) bool {
	for begin := range notRun {
		if strings.HasPrefix(line, begin) {
			return true
		}
	}
	return false
}

// segmenter takes what the examples give it.
const segmenter = `#!/bin/sh
while [ $# -gt 0 ]; do
	case $1 in
	--in) in=$2; shift ;;
	--out) out=$2; shift ;;
	--progress-file) echo '{"message": "half", "current": 1, "total": 2}' >"$2"; shift ;;
	*) if [ -z "$in" ]; then in=$1; else out=$1; fi ;;
	esac
	shift
done
[ -z "$in" ] || cat "$in" >"${out:-/dev/null}"
`

// TestManualExamples types what the manual of the commands shows.
func TestManualExamples(t *testing.T) {
	w := newWorld(t)
	image, err := imagetest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	image.Layers = append(image.Layers, imagetest.Layer{imagetest.File("bin/segment", 0o755, segmenter), imagetest.Dir("slides", 0o755), imagetest.File("slides/1.tif", 0o644, "slide")})
	image.Entrypoint, image.Cmd = []string{"/bin/segment"}, nil

	dir := t.TempDir()
	// Root's jobs are not root.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	tar, err := os.Create(filepath.Join(dir, "segment.tar"))
	if err != nil {
		t.Fatal(err)
	}
	var images []imagetest.Image
	for _, name := range []string{"segment:1.0", "segment:0.9", "report:2.1"} {
		image.Refs, image.Labels = []string{name}, map[string]string{"name": name}
		images = append(images, image)
	}
	if err := imagetest.DockerArchive(tar, images...); err != nil {
		t.Fatal(err)
	}
	tar.Close()
	if err := imagetest.OCILayout(filepath.Join(dir, "oci-layout"), images[0]); err != nil {
		t.Fatal(err)
	}
	rules, err := os.ReadFile("../contrib/policy.toml")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"slides/1.tif": "slide", "1.tif": "slide", "scan.nii": "scan", "policy.toml": string(rules),
		"job.json": `{"image": "busybox", "args": ["true"]}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := append(os.Environ(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "GIRDER_WORKER_SOCKET="+w.socket(), "GIRDER_WORKER_CONFIG="+w.config)
	typed := func(line string) ([]byte, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "bash", "-ec", line)
		cmd.Dir, cmd.Env = dir, env
		return cmd.CombinedOutput()
	}
	if out, err := typed("girder-worker images import segment.tar; mkdir backup"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	// job is one that a command can be shown with.
	job := func(command string) string {
		switch command {
		case "cancel", "release":
			return w.submit("exit 0", "hold", "for a while").ID
		case "hold":
			return w.submit("exit 0", "not_before", time.Now().Add(time.Hour).Format(time.RFC3339)).ID
		case "retry":
			return w.wait(w.submit("exit 1").ID).ID
		}
		return w.wait(w.submit("echo said").ID).ID
	}
	ran := map[string]bool{}
	for _, line := range examples(t) {
		if needsMore(line) {
			continue
		}
		command := strings.Fields(line)[min(1, strings.Count(line, " "))]
		ran[command] = true
		line = strings.NewReplacer("docker save segment:1.0", "cat segment.tar", "/backup/", dir+"/backup/", "/tmp/", dir+"/",
			"--cpus 4", "--cpus 1").Replace(line) // more than this machine may have
		if strings.Contains(line, "0000012h4kd") {
			line = strings.ReplaceAll(line, "0000012h4kd", job(command))
		}
		if out, err := typed(line); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
		if command == "pause" || command == "drain" {
			if out, err := typed("girder-worker resume"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
	}
	if len(ran) < 20 {
		t.Errorf("it ran only %d commands", len(ran))
	}
}
