package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// prepare stages what is made and not only copied.
func (o *order) prepare() error {
	if err := os.RemoveAll(o.stage()); err != nil {
		return err
	}
	for _, make := range []func() error{o.manuals, o.completions, o.contrib, o.wheels, o.changelogs, o.scripts} {
		if err := make(); err != nil {
			return err
		}
	}
	return nil
}

// put writes one staged file that is to be read.
func (o *order) put(name string, data []byte) error { return o.putMode(name, data, 0o644) }

// putMode writes one staged file. Nothing of this machine's mask is in its mode.
func (o *order) putMode(name string, data []byte, mode fs.FileMode) error {
	path := filepath.Join(o.stage(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return errors.Join(os.Chmod(path, mode), os.Chtimes(path, o.time, o.time))
}

// putCompressed writes NAME.gz without a name or time in it.
func (o *order) putCompressed(name string, data []byte) error {
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return o.put(name+".gz", packed.Bytes())
}

var pageName = regexp.MustCompile(`^[a-z.-]+\.([1-8])\.md$`)

// manuals makes a page of each man/NAME.SECTION.md.
func (o *order) manuals() error {
	pages, err := filepath.Glob("man/*.md")
	if err != nil || len(pages) == 0 {
		return fmt.Errorf("cannot find the manual below man: %w", err)
	}
	for _, page := range pages {
		name := filepath.Base(page)
		section := pageName.FindStringSubmatch(name)
		if section == nil {
			return fmt.Errorf("%s: a page of the manual is called NAME.SECTION.md", page)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		name = "man" + section[1] + "/" + strings.TrimSuffix(name, ".md")
		if err := o.putCompressed(name, o.page(text)); err != nil {
			return err
		}
		o.pages = append(o.pages, name+".gz")
	}
	return nil
}

var titleLine = regexp.MustCompile(`^% ([A-Z.-]+)\(([1-8])\) \| (.*)\n`)

// page converts one page. Its first line names it as pandoc would have it; the
// converter wants its own form, with the date.
func (o *order) page(text []byte) []byte {
	title := fmt.Sprintf("%% \"$1\" \"$2\" %q %q %q\n", o.time.Format("January 2006"), "girder-worker "+o.version, "$3")
	return md2man.Render(titleLine.ReplaceAll(text, []byte(title)))
}

// completions has the binary write what makes shells complete its commands.
func (o *order) completions() error {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		script, err := exec.Command(o.native, "completion", shell).Output()
		if err != nil {
			return fmt.Errorf("cannot make the completion for %s: %w", shell, err)
		}
		if err := o.put("completion."+shell, script); err != nil {
			return err
		}
	}
	return nil
}

// notShipped of contrib is for the repository, is installed elsewhere, or goes in as wheels.
var notShipped = []string{"contrib/demo", "contrib/policy.toml", "contrib/python/build.py", "contrib/python/utils", "contrib/python/worker"}

// contrib stages what is shipped of it, with the modes that git keeps.
func (o *order) contrib() error {
	return filepath.WalkDir("contrib", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case slices.Contains(notShipped, name) && entry.IsDir():
			return fs.SkipDir
		case slices.Contains(notShipped, name), entry.IsDir(), strings.HasSuffix(name, ".go"):
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return o.putMode(name, data, mode)
	})
}

// wheels makes those of contrib/python, for whoever installs them by hand into an
// environment. No interpreter finds anything in them where they lie.
func (o *order) wheels() error {
	made, err := os.MkdirTemp("", "girder-worker-wheels-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(made)
	cmd := exec.Command("python3", "contrib/python/build.py", o.version, made)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot make the wheels of contrib/python: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(made, "*.whl"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := o.put(filepath.Join("contrib/python", filepath.Base(file)), data); err != nil {
			return err
		}
	}
	return nil
}

// changelogs makes those that Debian's tools and rpm's read, with one entry that
// points to ours, and ours.
func (o *order) changelogs() error {
	ours, err := os.ReadFile("CHANGELOG.md")
	if err != nil {
		return err
	}
	if err := o.putCompressed("changelog", ours); err != nil {
		return err
	}
	const entry = "What changed is in /usr/share/doc/girder-worker/changelog.gz."
	debian := fmt.Sprintf("girder-worker (%s-1) stable; urgency=medium\n\n  * %s\n\n -- %s  %s\n",
		strings.Replace(o.version, "-", "~", 1), entry, o.maintainer, o.time.Format(time.RFC1123Z))
	// As nfpm reads it; JSON is YAML.
	rpm, err := json.Marshal([]map[string]any{{
		"semver": strings.Replace(o.version, "-", "~", 1) + "-1", "date": o.time, "packager": o.maintainer,
		"changes": []map[string]string{{"note": entry}},
	}})
	if err != nil {
		return err
	}
	return errors.Join(o.putCompressed("changelog.Debian", []byte(debian)), o.put("changelog.yaml", rpm))
}

// scripts fills in what the maintainer scripts must know of this release: its
// version, and the layout of the queue that it writes.
func (o *order) scripts() error {
	out, err := exec.Command(o.native, "version", "--json").Output()
	if err != nil {
		return fmt.Errorf("cannot ask the binary for its version: %w", err)
	}
	var told struct {
		Client struct {
			Version string `json:"version"`
			Queue   int    `json:"queue"`
		} `json:"client"`
	}
	if err := json.Unmarshal(out, &told); err != nil {
		return fmt.Errorf("cannot understand the binary's version: %w", err)
	}
	if told.Client.Version != o.version || told.Client.Queue == 0 {
		return fmt.Errorf("the binary says version %q with queue layout %d, and is to be packed as %s", told.Client.Version, told.Client.Queue, o.version)
	}
	scripts, err := filepath.Glob("packaging/[dr][ep][bm]/*")
	if err != nil {
		return err
	}
	fill := strings.NewReplacer("@VERSION@", o.version, "@QUEUE@", fmt.Sprint(told.Client.Queue))
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			return err
		}
		name := filepath.Join(filepath.Base(filepath.Dir(script)), filepath.Base(script))
		if err := o.put(name, []byte(fill.Replace(string(text)))); err != nil {
			return err
		}
	}
	return nil
}
