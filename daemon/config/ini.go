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
	raw    string // as it is written
	value  string // what it means, see expand
	origin string // file:line
	err    error  // why it means nothing
}

// readFile returns the text of a configuration file, none if it is not there.
func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	if len(text) > maxFile {
		return "", fmt.Errorf("cannot read the configuration: %s is larger than %s", path, FormatSize(maxFile))
	}
	return string(text), nil
}

// parseINI reads an INI file as Python's configparser does: "=" or ":" between
// name and value, "#" and ";" comments on lines of their own, deeper indented
// lines continue a value. What values mean, expand finds.
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
			e.raw += "\n" + trimmed
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
			entries = append(entries, entry{key: key, raw: strings.TrimSpace(trimmed[cut+1:]), origin: origin})
			continues = true
		}
	}
	return entries, problems
}

// maxNames bounds how many others a value may name, directly and through them.
const maxNames = 100

// expand puts other values in place of %(name)s, as Python's configparser does:
// options of the same section and of [DEFAULT], to which the Python worker adds
// three variables. Unlike there, a "%" that means nothing stays as it is,
// because passwords in URLs have some. It takes the entries of all files, of
// which the last that names an option counts.
func expand(entries []entry, environ []string) {
	known := map[string]string{
		sectionDefault + ".rabbitmq_user": "guest",
		sectionDefault + ".rabbitmq_pass": "guest",
		sectionDefault + ".rabbitmq_host": "localhost",
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if key := sectionDefault + "." + strings.ToLower(name); strings.HasPrefix(name, "RABBITMQ_") && known[key] != "" {
			known[key] = value
		}
	}
	for _, e := range entries {
		known[e.key] = e.raw
	}
	for i := range entries {
		e := &entries[i]
		section, _, _ := strings.Cut(e.key, ".")
		e.value, e.err = expandValue(e.raw, section, known, new(int))
	}
}

func expandValue(raw, section string, known map[string]string, names *int) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(raw, "%")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, after, named := strings.Cut(rest, ")s")
		switch {
		case strings.HasPrefix(rest, "%"):
			b.WriteByte('%')
			raw = rest[1:]
		case named && rest[0] == '(':
			name = strings.ToLower(name[1:])
			value, ok := known[section+"."+name]
			if !ok {
				value, ok = known[sectionDefault+"."+name]
			}
			if !ok {
				return raw, fmt.Errorf("names %%(%s)s, which is set neither in its section nor in [DEFAULT]", clip(name))
			}
			if *names++; *names > maxNames || b.Len() > maxFile {
				return raw, errors.New("names too many others as %(...)s, or itself")
			}
			value, err := expandValue(value, section, known, names)
			if err != nil {
				return raw, err
			}
			b.WriteString(value)
			raw = after
		default:
			b.WriteByte('%')
			raw = rest
		}
	}
}
