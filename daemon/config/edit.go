package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An Option is what is configured for one key, or for an option of the Python
// worker that a file has.
type Option struct {
	Section, Name string
	// Raw is what a file would say; of a default too. Value is what it means.
	Raw, Value string
	// Origin is file:line, or empty for a default.
	Origin string
	// Help is of a key. Why says why the option has no effect.
	Help, Why string
	Live      bool
}

// Options lists every key, and what else the files have. Variables and flags are
// not looked at: they belong to one start of a daemon. The options are returned
// beside an [Invalid], too.
func Options(s Sources) ([]Option, error) {
	l, err := load(s.filesOnly(), nil)
	if err != nil {
		return nil, err
	}
	var all []Option
	keys := l.config.Keys()
	for _, k := range keys {
		o := Option{Section: k.Section, Name: k.Name, Help: k.Help, Live: k.Live}
		if k.set() {
			o.Value = k.Value()
			o.Raw = strings.ReplaceAll(o.Value, "%", "%%")
		}
		all = append(all, o)
	}
	for _, e := range l.entries {
		section, name, _ := strings.Cut(e.key, ".")
		i := slices.IndexFunc(all, func(o Option) bool { return o.Section == section && o.Name == name })
		if i < 0 {
			i = len(all)
			all = append(all, Option{Section: section, Name: name})
		}
		all[i].Raw, all[i].Value, all[i].Origin = e.raw, e.value, e.origin
		all[i].Why, _ = without(keys, e.key, e.value)
	}
	slices.SortStableFunc(all, func(a, b Option) int { return place(keys, a.Section) - place(keys, b.Section) })
	if len(l.problems) > 0 {
		return all, l.problems
	}
	return all, nil
}

// place sorts sections as Keys has them, [DEFAULT] before and others after.
func place(keys []Key, section string) int {
	if section == sectionDefault {
		return -1
	}
	if i := slices.IndexFunc(keys, func(k Key) bool { return k.Section == section }); i >= 0 {
		return i
	}
	return len(keys)
}

// set tells whether the key has a value of its own, and not one that the
// machine decides or none.
func (k Key) set() bool {
	switch v := k.value.(type) {
	case *countValue:
		return *v.n > 0 || v.min == 0
	case *cpusValue:
		return *v > 0
	case *sizeValue:
		return *v > 0
	}
	return k.Value() != ""
}

// filesOnly leaves of the sources what does not depend on how a daemon is started.
func (s Sources) filesOnly() Sources {
	s.Flags = nil
	s.Environ = slices.DeleteFunc(slices.Clone(s.Environ), func(kv string) bool { return !strings.HasPrefix(kv, "RABBITMQ_") })
	return s
}

// NoOption says that there is no such option. Its Error tells what may be meant.
type NoOption struct{ Key, Hint string }

func (e NoOption) Error() string { return fmt.Sprintf("%s is not an option; %s", e.Key, e.Hint) }

// Get returns what is configured for an option: its default where it is not, for
// options of the Python worker too.
func Get(s Sources, section, name string) (Option, error) {
	all, err := Options(s)
	if _, bad := errors.AsType[Invalid](err); err != nil && !bad {
		return Option{}, err
	}
	key := strings.ToLower(section) + "." + strings.ToLower(name)
	for _, o := range all {
		if o.Section+"."+o.Name == key {
			return o, nil
		}
	}
	c := Default()
	if p, ok := pythonDefault(key); ok && p.value != "" {
		return Option{Section: section, Name: name, Raw: p.value, Value: strings.ReplaceAll(p.value, "%%", "%"), Why: p.why}, nil
	}
	if _, ok := without(c.Keys(), key, ""); ok {
		return Option{}, fmt.Errorf("%s is not set", key)
	}
	return Option{}, NoOption{key, suggest(c.Keys(), key)}
}

// A Change is what [Set] or [Remove] did to a file.
type Change struct {
	Key string
	// File was written; empty when it already was as it should be.
	File string
	// Live tells that a running daemon applies the change by itself.
	Live bool
	// Why, when not empty, says why the option has no effect.
	Why string
	// Value is what holds now, in words of the file; Origin where it stands,
	// empty for a default.
	Value, Origin string
}

// Set writes one option into worker.local.cfg, beside what the file says
// already. The value is spelled as in the file. Nothing is written when the
// configuration would become bad, or an option that nobody knows be in it.
func Set(s Sources, section, name, value string) (Change, error) {
	if strings.ContainsAny(value, "\n\r\x00") {
		return Change{}, errors.New("the value must be one line")
	}
	section, name = strings.ToLower(section), strings.ToLower(name)
	if section == "" || name == "" || strings.ContainsAny(section, "[]\n\r") || strings.ContainsAny(name, "=:[#;\n\r ") {
		return Change{}, fmt.Errorf("%q and %q are no names of a section and an option", clip(section), clip(name))
	}
	return change(s, section+"."+name, func(text string) (string, error) {
		return setOption(text, section, name, strings.TrimSpace(value)), nil
	})
}

// Remove takes an option out of worker.local.cfg. One that is not there is no error.
func Remove(s Sources, section, name string) (Change, error) {
	section, name = strings.ToLower(section), strings.ToLower(name)
	key := section + "." + name
	return change(s, key, func(text string) (string, error) {
		next, found := removeOption(text, section, name)
		c := Default()
		if _, known := without(c.Keys(), key, ""); !found && !known && !slices.ContainsFunc(c.Keys(), func(k Key) bool { return k.String() == key }) {
			return "", NoOption{key, suggest(c.Keys(), key)}
		}
		return next, nil
	})
}

func change(s Sources, key string, edit func(string) (string, error)) (Change, error) {
	s = s.filesOnly()
	path := s.Files()[1]
	// A link is followed, not replaced.
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	unlock, err := lockDirectory(filepath.Dir(path))
	if err != nil {
		return Change{}, fmt.Errorf("cannot change the configuration: %w", err)
	}
	defer unlock()
	before, err := load(s, nil)
	if err != nil {
		return Change{}, err
	}
	old, err := readFile(path)
	if err != nil {
		return Change{}, err
	}
	text, err := edit(old)
	if err != nil {
		return Change{}, err
	}
	after, err := load(s, map[string]string{s.Files()[1]: text})
	if err != nil {
		return Change{}, err
	}
	// What was bad before must not keep anybody from putting it right step by step.
	if bad := worse(before.problems, after.problems, key); len(bad) > 0 {
		return Change{}, bad
	}
	c := Change{Key: key}
	keys := after.config.Keys()
	if i := slices.IndexFunc(keys, func(k Key) bool { return k.String() == key }); i >= 0 {
		c.Live, c.Value = keys[i].Live, keys[i].Value()
		if !keys[i].set() {
			c.Value = ""
		}
	}
	for _, e := range after.entries {
		if e.key == key {
			c.Value, c.Origin = e.raw, e.origin
			c.Why, _ = without(keys, key, e.value)
		}
	}
	if text == old {
		return c, nil
	}
	c.File = path
	if err := replaceFile(path, text, after.config.User); err != nil {
		return Change{}, fmt.Errorf("cannot write the configuration: %w", err)
	}
	return c, nil
}

// worse are the problems that a change makes or leaves at its key.
func worse(before, after Invalid, key string) (bad Invalid) {
	for _, p := range after {
		same := func(q Problem) bool { return q.Key == p.Key && q.Err.Error() == p.Err.Error() }
		if p.Key == key {
			bad = append(bad, Problem{Key: p.Key, Err: p.Err}) // at a line that was not written
		} else if !slices.ContainsFunc(before, same) {
			bad = append(bad, p)
		}
	}
	return bad
}

// options finds the lines of an option, and where the section's options end:
// the line after the last that is one. A section that is not there ends nowhere.
func options(lines []string, section, name string) (at []int, end int) {
	current, inOption, mine := "", false, false
	end = -1
	for i, line := range lines {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';':
			continue
		case inOption && (line[0] == ' ' || line[0] == '\t'):
			if mine {
				at = append(at, i)
			}
		case trimmed[0] == '[':
			inOption = false
			current = strings.ToLower(strings.TrimSpace(strings.TrimSuffix(trimmed[1:], "]")))
		default:
			cut := strings.IndexAny(trimmed, "=:")
			inOption = cut > 0
			mine = inOption && current == section && strings.ToLower(strings.TrimSpace(trimmed[:cut])) == name
			if mine {
				at = append(at, i)
			}
		}
		if current == section {
			end = i + 1
		}
	}
	return at, end
}

func setOption(text, section, name, value string) string {
	lines := strings.Split(text, "\n")
	at, end := options(lines, section, name)
	line := strings.TrimRight(name+" = "+value, " ")
	switch {
	case len(at) > 0:
		// As it is spelled there.
		cut := strings.IndexAny(lines[at[0]], "=:")
		rest := lines[at[0]][cut+1:]
		space := rest[:len(rest)-len(strings.TrimLeft(rest, " \t"))]
		lines[at[0]] = strings.TrimRight(lines[at[0]][:cut+1]+space+value, " \t")
		for i, n := range at[1:] {
			lines = slices.Delete(lines, n-i, n-i+1)
		}
	case end >= 0:
		lines = slices.Insert(lines, end, line)
	default:
		for len(lines) > 0 && lines[len(lines)-1] == "" {
			lines = lines[:len(lines)-1]
		}
		if len(lines) > 0 {
			lines = append(lines, "")
		}
		title := section
		if section == sectionDefault {
			title = strings.ToUpper(section)
		}
		lines = append(lines, "["+title+"]", line)
	}
	if lines[len(lines)-1] != "" {
		lines = append(lines, "")
	}
	return strings.Join(lines, "\n")
}

func removeOption(text, section, name string) (string, bool) {
	lines := strings.Split(text, "\n")
	at, _ := options(lines, section, name)
	for i, n := range at {
		lines = slices.Delete(lines, n-i, n-i+1)
	}
	return strings.Join(lines, "\n"), len(at) > 0
}

// lockDirectory keeps two changes from undoing each other.
func lockDirectory(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("cannot lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

const tempPattern = ".worker.cfg-*"

const aclName = "system.posix_acl_access"

// replaceFile puts a whole file in place of another, with its owner, mode and
// access control list. A new one is for root and the daemon's user alone, since
// it may get a password.
func replaceFile(path, text, user string) (err error) {
	// What a change left that was killed: the directory's lock is held.
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), tempPattern))
	for _, name := range left {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern) // mode 0600
	if err != nil {
		return err
	}
	name := f.Name()
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(name)
		}
	}()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Stat(path, &st); {
	case errors.Is(err, fs.ErrNotExist):
		if err := letRead(f, user); err != nil {
			return err
		}
	case err != nil:
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	default:
		if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		if err := f.Chmod(os.FileMode(st.Mode & 0o777)); err != nil {
			return err
		}
		if err := copyACL(path, f); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(name, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close(), f.Close())
}
