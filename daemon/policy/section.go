package policy

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"girderworker/sandbox"
)

// section is one section of the file, as it stands there: nil is a key that it
// does not have.
type section struct {
	name string // with brackets

	images, signedBy, pull    []string
	read, write               []string
	networks, hosts, services []string
	transfers                 []string
	capabilities              []string
	devices, gpuKinds         []string
	sysctls                   []string
	gpus                      *int
	seccompUnconfined         *bool
	switchUser                *bool
	girderKey                 *bool
	python, commands          *bool
	cpus                      *float64
	memory, shm, scratch, log *int64
	swap, pids                *int64
	time                      *time.Duration
	ulimits                   map[string]uint64
}

// listKeys are the keys that hold a list of strings, each with what one of them
// must be.
func (s *section) listKeys() map[string]struct {
	list  *[]string
	check func(string) error
} {
	type key = struct {
		list  *[]string
		check func(string) error
	}
	return map[string]key{
		"images":       {&s.images, checkPattern},
		"signed_by":    {&s.signedBy, checkWord},
		"pull":         {&s.pull, checkPattern},
		"read":         {&s.read, cleanPath},
		"write":        {&s.write, cleanPath},
		"networks":     {&s.networks, oneOf("none", "private", "host")},
		"hosts":        {&s.hosts, checkHost},
		"services":     {&s.services, checkService},
		"transfers":    {&s.transfers, checkTransfer},
		"capabilities": {&s.capabilities, checkCapability},
		"devices":      {&s.devices, checkDevice},
		"gpu_kinds":    {&s.gpuKinds, checkPattern},
		"sysctls":      {&s.sysctls, checkPattern},
	}
}

// limitKeys are the ceilings, which have no built-in value but the machine.
var limitKeys = []string{"cpus", "memory", "shm", "scratch", "log", "swap", "pids", "time", "ulimits"}

func (s *section) set(key string, v any) error {
	if k, ok := s.listKeys()[key]; ok {
		return setList(k.list, v, k.check)
	}
	switch key {
	case "gpus":
		n, err := number(v)
		s.gpus = ptr(int(n))
		return err
	case "seccomp_unconfined":
		return setBool(&s.seccompUnconfined, v)
	case "switch_user":
		return setBool(&s.switchUser, v)
	case "girder_key":
		return setBool(&s.girderKey, v)
	case "python":
		return setBool(&s.python, v)
	case "commands":
		return setBool(&s.commands, v)
	case "cpus":
		f, isFloat := v.(float64)
		if n, ok := v.(int64); ok {
			f, isFloat = float64(n), true
		}
		if !isFloat || !(f > 0) || math.IsInf(f, 0) {
			return errors.New("want a number of processors, such as 4 or 1.5")
		}
		s.cpus = &f
		return nil
	case "pids":
		n, err := number(v)
		s.pids = &n
		return err
	case "memory":
		return setSize(&s.memory, v)
	case "shm":
		return setSize(&s.shm, v)
	case "scratch":
		return setSize(&s.scratch, v)
	case "log":
		return setSize(&s.log, v)
	case "swap":
		return setSize(&s.swap, v)
	case "time":
		t, err := text(v)
		if err != nil {
			return errors.New(`want a text such as "12h"`)
		}
		d, err := time.ParseDuration(t)
		if err != nil || d <= 0 {
			return fmt.Errorf(`%q is no time; want one such as "12h" or "90m"`, t)
		}
		s.time = &d
		return nil
	case "ulimits":
		var list []string
		if err := setList(&list, v, nil); err != nil {
			return err
		}
		s.ulimits = map[string]uint64{}
		for _, entry := range list {
			name, value, ok := strings.Cut(entry, "=")
			n, err := strconv.ParseUint(value, 10, 63)
			if !ok || err != nil || checkWord(name) != nil {
				return fmt.Errorf(`%q: want NAME=NUMBER, such as "nofile=65536"`, entry)
			}
			s.ulimits[strings.ToLower(name)] = n
		}
		return nil
	}
	known := slices.Collect(func(yield func(string) bool) {
		for k := range s.listKeys() {
			if !yield(k) {
				return
			}
		}
	})
	known = append(append(known, limitKeys...), "gpus", "seccomp_unconfined", "switch_user", "girder_key", "python", "commands")
	slices.Sort(known)
	return fmt.Errorf("unknown key; a section may have %s", strings.Join(known, ", "))
}

//go:embed default.toml
var defaultTOML []byte

// DefaultText is the built-in policy as a file.
func DefaultText() string { return string(defaultTOML) }

// complete takes what a section of a source does not say from the built-in one.
// A section that narrows the keys of images and no names means all names.
func (s *section) complete(source string) {
	from := builtin().sources[source].listKeys()
	for name, k := range s.listKeys() {
		if *k.list == nil && name != "signed_by" {
			*k.list = *from[name].list
		}
	}
	b := builtin().sources[source]
	s.gpus = or(s.gpus, b.gpus)
	s.seccompUnconfined = or(s.seccompUnconfined, b.seccompUnconfined)
	s.switchUser = or(s.switchUser, b.switchUser)
	s.girderKey = or(s.girderKey, b.girderKey)
	s.python = or(s.python, b.python)
	s.commands = or(s.commands, b.commands)
}

func or[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func ptr[T any](v T) *T { return &v }

func setList(list *[]string, v any, check func(string) error) error {
	values, ok := v.([]any)
	if !ok {
		return errors.New(`want a list of texts, such as ["a", "b"]`)
	}
	out := make([]string, 0, len(values))
	var problems []error
	for _, v := range values {
		s, err := text(v)
		if err == nil && check != nil {
			err = check(s)
		}
		if err != nil {
			problems = append(problems, err)
		}
		out = append(out, s)
	}
	*list = out
	return errors.Join(problems...)
}

func setBool(b **bool, v any) error {
	value, ok := v.(bool)
	if !ok {
		return errors.New("want true or false")
	}
	*b = &value
	return nil
}

func setSize(n **int64, v any) error {
	if s, ok := v.(string); ok {
		size, err := parseSize(s)
		*n = &size
		return err
	}
	size, err := number(v)
	if err != nil {
		return errors.New(`want a size, such as "8GiB"`)
	}
	*n = &size
	return nil
}

// parseSize reads a number with one of K, M, G and T, powers of 1024.
func parseSize(s string) (int64, error) {
	digits := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	shift := 0
	if digits != "" {
		if i := strings.IndexByte("kmgt", digits[len(digits)-1]); i >= 0 {
			shift, digits = 10*(i+1), digits[:len(digits)-1]
		}
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf(`%q is no size; want one such as "512M" or "8GiB"`, s)
	}
	return n << shift, nil
}

func number(v any) (int64, error) {
	n, ok := v.(int64)
	if !ok || n < 0 {
		return 0, errors.New("want a whole number, 0 or more")
	}
	return n, nil
}

func text(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("%v is no text", v)
	}
	return s, nil
}

func cleanPath(s string) error {
	if !path.IsAbs(s) || path.Clean(s) != s || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q: want an absolute path without . and .. and a slash at its end", s)
	}
	return nil
}

// checkPattern takes text in which * stands for anything.
func checkPattern(s string) error {
	if s == "" || strings.ContainsAny(s, " \t\n\x00") {
		return fmt.Errorf("%q: want a name, in which * stands for any text", s)
	}
	return nil
}

func checkWord(s string) error {
	if s == "" || strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") != "" {
		return fmt.Errorf("%q: want a name of letters, digits, '_', '-' and '.'", s)
	}
	return nil
}

func checkCapability(s string) error {
	if !strings.HasPrefix(s, "CAP_") || checkWord(s) != nil || strings.ToUpper(s) != s {
		return fmt.Errorf("%q: want a capability such as CAP_NET_RAW", s)
	}
	return nil
}

func checkDevice(s string) error {
	if !strings.HasPrefix(s, "/dev/") || path.Clean(s) != s {
		return fmt.Errorf("%q: want a path below /dev, in which * stands for any text", s)
	}
	return nil
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("%q: want one of %s", s, strings.Join(words, ", "))
		}
		return nil
	}
}

// checkHost takes * and what [sandbox.ParseDestination] takes.
func checkHost(s string) error {
	if s == "*" {
		return nil
	}
	_, err := sandbox.ParseDestination(s)
	return err
}

// checkTransfer takes what checkHost does, and services of this machine.
func checkTransfer(s string) error {
	if s == sandbox.LocalServices {
		return nil
	}
	return checkHost(s)
}

func checkService(s string) error {
	_, err := sandbox.ParseService(s)
	return err
}
