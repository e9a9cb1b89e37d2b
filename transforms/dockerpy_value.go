package transforms

import (
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
)

// Keywords of docker-py whose values have a form of their own, as
// docker/types/containers.py and docker/utils/utils.py read them.

func checkHostname(s string) error {
	for label := range strings.SplitSeq(s, ".") {
		if !ValidIdentifier(label) || strings.ContainsRune(label, '_') || strings.HasSuffix(label, "-") {
			return problem("%.80q is not a host name", s)
		}
	}
	if len(s) > 63 {
		return problem("a host name of %d bytes; the limit is 63", len(s))
	}
	return nil
}

func checkName(s string) error {
	if len(s) > MaxName {
		return problem("%d bytes; the limit is %d", len(s), MaxName)
	}
	return nil
}

// whole is an int.
func wholeOf(v any) (int64, error) {
	switch v := v.(type) {
	case nil:
		return 0, nil
	case int64:
		return v, nil
	}
	return 0, wrongType(v, "a whole number")
}

// plainText is what Python's str() makes of a value that an environment holds.
func plainText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool, int64, float64:
		if f, ok := v.(float64); ok {
			return pythonFloat(f), nil
		}
		return shown(v), nil
	case *big.Int:
		return v.String(), nil
	}
	return "", wrongType(v, "a text")
}

// pythonFloat is repr() of a float.
func pythonFloat(f float64) string {
	s := strconv.FormatFloat(f, 'g', -1, 64)
	if abs := max(f, -f); abs != 0 && abs < 1e16 && abs >= 1e-4 {
		s = strconv.FormatFloat(f, 'f', -1, 64)
	}
	switch s {
	case "+Inf":
		return "inf"
	case "-Inf":
		return "-inf"
	case "NaN":
		return "nan"
	}
	if !strings.ContainsAny(s, ".e") {
		s += ".0"
	}
	return s
}

// stringsOf is a list of texts; numbers become texts, as in a list of groups.
func stringsOf(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case []any:
		list := make([]string, len(v))
		for i, item := range v {
			var err error
			if list[i], err = plainText(item); err != nil {
				return nil, err
			}
		}
		return list, nil
	}
	return nil, wrongType(v, "a list")
}

func (d *dockerOptions) environment(v any) error {
	if v == nil {
		return nil
	}
	env := map[string]string{}
	set := func(key, value string) error {
		switch {
		case key == "" || strings.ContainsAny(key, "=\x00") || strings.ContainsRune(value, 0):
			return problem("%.60q is no name of a variable, or its value holds a NUL", key)
		case len(key)+1+len(value) > MaxArgument:
			return problem("%s: the kernel takes at most %d bytes in one variable", key, MaxArgument)
		case len(env) == MaxEnv:
			return problem("more than %d variables", MaxEnv)
		}
		env[key] = value
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if v[key] == nil {
				continue // Docker takes it for the daemon's own variable, which it has not
			}
			value, err := plainText(v[key])
			if err != nil {
				return err
			}
			if err := set(key, value); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range v {
			s, ok := item.(string)
			if !ok {
				return wrongType(item, "KEY=VALUE")
			}
			if key, value, ok := strings.Cut(s, "="); ok {
				if err := set(key, value); err != nil {
					return err
				}
			}
		}
	default:
		return wrongType(v, "a dict or a list of KEY=VALUE")
	}
	d.f.Env = env
	return nil
}

func (d *dockerOptions) user(v any) error {
	if v == nil || v == "" {
		return nil
	}
	s, err := plainText(v)
	if err != nil {
		return err
	}
	name, group, both := strings.Cut(s, ":")
	if !validName(name) || both && !validName(group) {
		return problem("%.80q is not NAME, UID, NAME:GROUP or UID:GID", s)
	}
	d.f.User = s
	return nil
}

func (d *dockerOptions) groupAdd(v any) error {
	groups, err := stringsOf(v)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := checkGroup(g); err != nil {
			return err
		}
	}
	if len(groups) > maxCapabilities {
		return problem("more than %d groups", maxCapabilities)
	}
	d.f.GroupAdd = groups
	return nil
}

// labels are a dict, or a list of names with empty values.
func (d *dockerOptions) labels(v any) error {
	labels := map[string]string{}
	switch v := v.(type) {
	case nil:
		return nil
	case map[string]any:
		for key, value := range v {
			s, err := plainText(value)
			if err != nil {
				return err
			}
			labels[key] = s
		}
	case []any:
		names, err := stringsOf(v)
		if err != nil {
			return err
		}
		for _, name := range names {
			labels[name] = ""
		}
	default:
		return wrongType(v, "a dict or a list of names")
	}
	if len(labels) > maxLabels {
		return problem("more than %d labels", maxLabels)
	}
	for key, value := range labels {
		if err := checkLabel(key, value); err != nil {
			return err
		}
	}
	d.f.Labels = labels
	return nil
}

func (d *dockerOptions) stopSignal(v any) error {
	if v == nil || v == "" {
		return nil
	}
	s, err := plainText(v)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return problem("%d is no signal", n)
		}
		d.f.StopSignal = n
		return nil
	}
	d.f.StopSignal, err = ParseSignal(s)
	return err
}

// tmpfs is a dict of targets and mount options, or a list of "target:options".
func (d *dockerOptions) tmpfs(v any) error {
	targets := map[string]string{}
	switch v := v.(type) {
	case nil:
		return nil
	case map[string]any:
		for target, options := range v {
			s, ok := options.(string)
			if !ok && options != nil {
				return wrongType(options, "mount options, such as size=64m")
			}
			targets[target] = s
		}
	case []any:
		list, err := stringsOf(v)
		if err != nil {
			return err
		}
		for _, s := range list {
			target, options, _ := strings.Cut(s, ":")
			targets[target] = options
		}
	default:
		return wrongType(v, "a dict or a list")
	}
	for _, target := range slices.Sorted(maps.Keys(targets)) {
		t := Tmpfs{Target: target}
		if err := t.options(targets[target]); err != nil {
			return err
		}
		if err := d.addTmpfs(t); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerOptions) addTmpfs(t Tmpfs) error {
	if len(d.f.Tmpfs) == maxTmpfs {
		return problem("more than %d", maxTmpfs)
	}
	d.f.Tmpfs = append(d.f.Tmpfs, t)
	return checkTmpfs(t)
}

// options reads mount options of a tmpfs.
func (t *Tmpfs) options(s string) error {
	for option := range strings.SplitSeq(s, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "", "rw", "nosuid", "nodev", "noexec":
		case "exec":
			t.Exec = true
		case "size":
			n, err := ParseBytes(value)
			if err != nil {
				return problem("%s", err)
			}
			t.Size = n
		case "mode":
			n, err := strconv.ParseUint(value, 8, 32)
			if err != nil {
				return problem("%.20q is no mode", value)
			}
			t.Mode = uint32(n)
		default:
			return problem("the mount option %.40q of %s is not supported; there are size, mode, exec and noexec", option, t.Target)
		}
	}
	return nil
}

// mounts are docker.types.Mount: bind and tmpfs. A volume of Docker's is not
// there to be mounted.
func (d *dockerOptions) mounts(v any) error {
	list, ok := v.([]any)
	if !ok && v != nil {
		return wrongType(v, "a list of docker.types.Mount")
	}
	for _, item := range list {
		m, ok := item.(map[string]any)
		if !ok {
			return wrongType(item, "a docker.types.Mount")
		}
		if err := d.mount(m); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerOptions) mount(m map[string]any) error {
	target, _ := m["Target"].(string)
	if err := checkPath(target); err != nil {
		return err
	}
	readOnly, _ := m["ReadOnly"].(bool)
	switch m["Type"] {
	case "bind":
		source, _ := m["Source"].(string)
		if err := checkPath(source); err != nil {
			return err
		}
		if len(d.f.Binds) == MaxBinds {
			return problem("more than %d binds", MaxBinds)
		}
		d.f.Binds = append(d.f.Binds, Bind{Source: source, Target: target, ReadOnly: readOnly})
		return nil
	case "tmpfs":
		t := Tmpfs{Target: target}
		options, _ := m["TmpfsOptions"].(map[string]any)
		var err error
		if t.Size, err = bytesOf(options["SizeBytes"]); err != nil {
			return err
		}
		mode, err := wholeOf(options["Mode"])
		if err != nil || mode < 0 || mode > 0o7777 {
			return problem("the mode of %s is none", target)
		}
		t.Mode = uint32(mode)
		return d.addTmpfs(t)
	}
	return problem("a mount of type %s at %s; there are bind and tmpfs, and no named volumes", shown(m["Type"]), target)
}
