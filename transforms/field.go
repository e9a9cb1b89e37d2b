package transforms

import (
	"path"
	"strings"
	"syscall"
	"time"
	"unicode"

	"girderworker/sandbox"
)

// The readers of single fields: each takes one value and refuses what cannot be
// right on any machine. What depends on this machine is the daemon's to refuse.

// line is text of one line for people.
func (r *reader) line(limit int) (string, error) {
	s, err := r.text()
	switch {
	case err != nil:
	case len(s) > limit:
		err = problem("%d bytes; the limit is %d", len(s), limit)
	case strings.ContainsFunc(s, unicode.IsControl):
		err = problem("%q holds control characters", s)
	}
	return s, err
}

// token is a line without spaces that is not empty.
func (r *reader) token(limit int) (string, error) {
	s, err := r.line(limit)
	switch {
	case err != nil:
	case s == "":
		err = problem("empty")
	case strings.ContainsFunc(s, unicode.IsSpace):
		err = problem("%q holds spaces", s)
	}
	return s, err
}

// ValidIdentifier tells whether s can be a job's id or a stream's name: one
// path element of at most [MaxIdentifier] letters, digits, '.', '_' and '-',
// the first a letter or digit.
func ValidIdentifier(s string) bool {
	return s != "" && s[0] != '_' && validName(s)
}

// validName is the same, but may start with '_' as users of the system do.
func validName(s string) bool {
	if s == "" || len(s) > MaxIdentifier || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func (r *reader) identifier() (string, error) {
	s, err := r.text()
	if err == nil && !ValidIdentifier(s) {
		err = problem("%.80q is not a name of 1 to %d letters, digits, '.', '_' and '-', the first a letter or digit", s, MaxIdentifier)
	}
	return s, err
}

func (r *reader) identifiers() (ids []string, err error) {
	err = r.array(MaxAfter, func() error {
		id, err := r.identifier()
		ids = append(ids, id)
		return err
	})
	return ids, err
}

func (r *reader) argument() (string, error) {
	s, err := r.text()
	if err == nil && len(s) > MaxArgument {
		err = problem("%d bytes; the kernel takes at most %d in one argument", len(s), MaxArgument)
	}
	return s, err
}

// arguments is not nil for an empty list: that replaces the image's, with nothing.
func (r *reader) arguments() ([]string, error) {
	args := []string{}
	err := r.array(MaxArguments, func() error {
		s, err := r.argument()
		args = append(args, s)
		return err
	})
	return args, err
}

// env is an object, or a list of KEY=VALUE.
func (r *reader) env() (map[string]string, error) {
	env := make(map[string]string)
	set := func(key, value string) error {
		switch _, twice := env[key]; {
		case key == "":
			return problem("a variable without a name")
		case strings.ContainsRune(key, '='):
			return problem("'=' in the name of a variable")
		case strings.ContainsFunc(key, unicode.IsControl):
			return problem("a control character in the name of a variable")
		case twice:
			return problem("%s is given twice", key)
		case len(key)+1+len(value) > MaxArgument:
			return problem("%d bytes; the kernel takes at most %d in one variable", len(key)+1+len(value), MaxArgument)
		case len(env) == MaxEnv:
			return problem("more than %d variables", MaxEnv)
		}
		env[key] = value
		return nil
	}
	if r.kind() != '[' {
		return env, r.object(func(key string) error {
			value, err := r.text()
			if err != nil {
				return err
			}
			return set(key, value)
		})
	}
	return env, r.array(MaxEnv, func() error {
		s, err := r.text()
		if err != nil {
			return err
		}
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return problem("%.80q is not KEY=VALUE", s)
		}
		return set(key, value)
	})
}

// hostPath is a path on the host: absolute and clean, so that it has one
// spelling and no "..".
func (r *reader) hostPath() (string, error) {
	s, err := r.text()
	if err == nil {
		err = checkPath(s)
	}
	return s, err
}

// containerPath is the same for a path in the container.
func (r *reader) containerPath() (string, error) { return r.hostPath() }

func checkPath(s string) error {
	switch {
	case s == "":
		return problem("an empty path")
	case len(s) > MaxPath:
		return problem("a path of %d bytes; the limit is %d", len(s), MaxPath)
	case !path.IsAbs(s):
		return problem("%q is not an absolute path", s)
	case path.Clean(s) != s:
		return problem("%q is not a clean path; write %q", s, path.Clean(s))
	}
	return nil
}

// user is "name", "uid", "name:group" or "uid:gid".
func (r *reader) user() (string, error) {
	s, err := r.text()
	if err != nil {
		return "", err
	}
	name, group, both := strings.Cut(s, ":")
	if !validName(name) || both && !validName(group) {
		return "", problem("%.80q is not NAME, UID, NAME:GROUP or UID:GID", s)
	}
	return s, nil
}

func (r *reader) hostname() (string, error) {
	s, err := r.text()
	if err != nil {
		return "", err
	}
	return s, checkHostname(s)
}

func (r *reader) network() (sandbox.NetworkMode, error) {
	s, err := r.text()
	if err != nil {
		return "", err
	}
	switch mode := sandbox.NetworkMode(s); mode {
	case sandbox.NetworkNone, sandbox.NetworkPrivate, sandbox.NetworkHost:
		return mode, nil
	}
	return "", problem("%.40q is none of none, private and host", s)
}

func (r *reader) pull() (Pull, error) {
	s, err := r.text()
	if err != nil {
		return "", err
	}
	switch p := Pull(s); p {
	case PullAlways, PullMissing, PullNever:
		return p, nil
	}
	return "", problem("%.40q is none of always, missing and never", s)
}

func (r *reader) whole(low, high int) (int, error) {
	n, err := r.integer()
	if err == nil && (n < int64(low) || n > int64(high)) {
		err = problem("%d is not between %d and %d", n, low, high)
	}
	return int(n), err
}

// size is a number of bytes or a string such as "2g".
func (r *reader) size(least int64) (n int64, err error) {
	if r.kind() == '"' {
		var s string
		if s, err = r.text(); err == nil {
			n, err = ParseBytes(s)
		}
	} else {
		n, err = r.integer()
	}
	if err == nil && (n < least || n > MaxSize) {
		err = problem("%d bytes is not between %s and %s", n, FormatBytes(least), FormatBytes(MaxSize))
	}
	return n, err
}

// duration is a number of seconds or a string such as "90s".
func (r *reader) duration(most time.Duration) (d time.Duration, err error) {
	if r.kind() == '"' {
		var s string
		if s, err = r.text(); err == nil {
			d, err = ParseDuration(s)
		}
	} else {
		var f float64
		f, err = r.float()
		if err == nil && (f < 0 || f > most.Seconds()) {
			return 0, problem("%v seconds is not between 0 and %v", f, most)
		}
		d = time.Duration(f * float64(time.Second))
	}
	if err == nil && (d < 0 || d > most) {
		err = problem("%v is not between 0 and %v", d, most)
	}
	return d, err
}

func (r *reader) instant() (time.Time, error) {
	s, err := r.text()
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, problem("%.40q is not a time; write it as in 2026-01-02T15:04:05Z", s)
	}
	return t.UTC(), nil
}

// signal is a number or a name, with SIG or without.
func (r *reader) signal() (int, error) {
	if r.kind() == '0' {
		return r.whole(1, 64)
	}
	s, err := r.text()
	if err != nil {
		return 0, err
	}
	return ParseSignal(s)
}

// ParseSignal reads the name of a signal that a process can act on.
func ParseSignal(s string) (int, error) {
	switch strings.TrimPrefix(strings.ToUpper(s), "SIG") {
	case "HUP":
		return int(syscall.SIGHUP), nil
	case "INT":
		return int(syscall.SIGINT), nil
	case "QUIT":
		return int(syscall.SIGQUIT), nil
	case "KILL":
		return int(syscall.SIGKILL), nil
	case "USR1":
		return int(syscall.SIGUSR1), nil
	case "USR2":
		return int(syscall.SIGUSR2), nil
	case "TERM":
		return int(syscall.SIGTERM), nil
	case "WINCH":
		return int(syscall.SIGWINCH), nil
	}
	return 0, problem("%.40q is no signal to stop with; write TERM, INT, QUIT, HUP, USR1, USR2, WINCH, KILL or a number from 1 to 64", s)
}
