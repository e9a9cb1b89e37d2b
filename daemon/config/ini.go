package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// maxFile bounds a configuration file.
const maxFile = 1 << 20

// entry is one option of a file, with where it stands.
type entry struct {
	key    string // section.name, lower case
	value  string
	origin string // file:line
}

// readINI reads an INI file as Python's configparser does: "=" or ":" between
// name and value, "#" and ";" comments on lines of their own, deeper indented
// lines continue a value, "%%" is a percent sign. A file that is not there has
// no entries.
func readINI(path string) ([]entry, []Problem, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, nil, fmt.Errorf("cannot read the configuration: %s is larger than %s", path, FormatSize(maxFile))
	}
	entries, problems := parseINI(path, string(text))
	return entries, problems, nil
}

func parseINI(path, text string) (entries []entry, problems []Problem) {
	section := ""
	seen := map[string]string{}
	continues := false // the line before was an option, so an indented one belongs to it
	for i, line := range strings.Split(text, "\n") {
		origin := fmt.Sprintf("%s:%d", path, i+1)
		bad := func(what string) {
			problems = append(problems, Problem{Origin: origin, Err: errors.New(what)})
		}
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';':
		case continues && (line[0] == ' ' || line[0] == '\t'):
			e := &entries[len(entries)-1]
			e.value += "\n" + trimmed
		case trimmed[0] == '[':
			continues = false
			name, ok := strings.CutSuffix(trimmed[1:], "]")
			if !ok || name == "" {
				bad("a section must be written as [name]")
				section = ""
				continue
			}
			section = strings.ToLower(strings.TrimSpace(name))
		default:
			continues = false
			cut := strings.IndexAny(trimmed, "=:")
			if cut <= 0 {
				bad("must be a [section], a comment, or name = value")
				continue
			}
			if section == "" {
				bad("an option must stand below a [section]")
				continue
			}
			key := section + "." + strings.ToLower(strings.TrimSpace(trimmed[:cut]))
			if first, twice := seen[key]; twice {
				problems = append(problems, Problem{Origin: origin, Key: key, Err: fmt.Errorf("is set before, at %s", first)})
				continue
			}
			seen[key] = origin
			entries = append(entries, entry{key, strings.TrimSpace(trimmed[cut+1:]), origin})
			continues = true
		}
	}
	for i := range entries {
		entries[i].value = strings.ReplaceAll(entries[i].value, "%%", "%")
	}
	return entries, problems
}
