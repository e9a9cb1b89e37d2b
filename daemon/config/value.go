package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// The values below parse one option each, and print it as they would read it.
type (
	pathValue     string
	addressValue  string
	nameValue     string
	launcherValue Launcher
	cpusValue     float64
	sizeValue     int64
	boundValue    int64 // 0 is none
	durationValue time.Duration
	levelValue    slog.Level
	hostsValue    []string
	outputValue   bool
	countValue    struct {
		n        *int
		min, max int
	}
	count64Value struct {
		n        *int64
		min, max int64
	}
)

// A listValue has its elements apart by commas; a single one that is "none" is no
// element.
type listValue struct {
	list  *[]string
	check func(string) error
}

func (v *listValue) Set(s string) error {
	var list []string
	for e := range strings.SplitSeq(s, ",") {
		if e = strings.TrimSpace(e); e == "" || e == "none" {
			continue
		}
		if err := v.check(e); err != nil {
			return err
		}
		list = append(list, e)
	}
	*v.list = list
	return nil
}

func (v *listValue) String() string {
	if len(*v.list) == 0 {
		return "none"
	}
	return strings.Join(*v.list, ",")
}

// A pathsValue has absolute paths apart by colons, as Python's search path.
type pathsValue struct{ list *[]string }

func (v *pathsValue) Set(s string) error {
	var list []string
	for e := range strings.SplitSeq(s, ":") {
		if e == "" || e == "none" {
			continue
		}
		var p pathValue
		if err := p.Set(e); err != nil {
			return err
		}
		list = append(list, string(p))
	}
	*v.list = list
	return nil
}

func (v *pathsValue) String() string {
	if len(*v.list) == 0 {
		return "none"
	}
	return strings.Join(*v.list, ":")
}

// A namesValue is a list of names, empty for all of them.
type namesValue struct{ listValue }

func (v *namesValue) String() string { return strings.Join(*v.list, ",") }

// oneName is a name without spaces.
func oneName(s string) error {
	if strings.ContainsFunc(s, unicode.IsSpace) || len(s) > 200 {
		return errors.New("must be names apart by commas")
	}
	return nil
}

func absolute(s string) error { return new(pathValue).Set(s) }

func deviceKind(s string) error {
	vendor, class, ok := strings.Cut(s, "/")
	if !ok || vendor == "" || class == "" || strings.ContainsAny(class, "/=") {
		return errors.New("must be kinds such as nvidia.com/gpu")
	}
	return nil
}

func (v *pathValue) Set(s string) error {
	if !filepath.IsAbs(s) {
		return errors.New("must be an absolute path")
	}
	if strings.ContainsRune(s, 0) {
		return errors.New("must not contain NUL")
	}
	*v = pathValue(filepath.Clean(s))
	return nil
}
func (v *pathValue) String() string { return string(*v) }

func (v *addressValue) Set(s string) error {
	if s == "" || s == "off" {
		*v = ""
		return nil
	}
	if _, _, err := net.SplitHostPort(s); err != nil {
		return errors.New(`must be host:port, or "off"`)
	}
	*v = addressValue(s)
	return nil
}
func (v *addressValue) String() string {
	if *v == "" {
		return "off"
	}
	return string(*v)
}

func (v *nameValue) Set(s string) error {
	if s == "" || len(s) > 256 || strings.ContainsAny(s, ":/\x00\n ") {
		return errors.New("must be a name or a number")
	}
	*v = nameValue(s)
	return nil
}
func (v *nameValue) String() string { return string(*v) }

func (v *launcherValue) Set(s string) error {
	switch l := Launcher(s); l {
	case LauncherAuto, LauncherSession, LauncherSystemd:
		*v = launcherValue(l)
		return nil
	}
	return errors.New("must be auto, session or systemd")
}
func (v *launcherValue) String() string { return string(*v) }

func (v *cpusValue) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0.01 || f > 1<<16 {
		return errors.New("must be a number of processors, such as 4 or 1.5")
	}
	*v = cpusValue(f)
	return nil
}
func (v *cpusValue) String() string { return strconv.FormatFloat(float64(*v), 'g', -1, 64) }

func (v *sizeValue) Set(s string) error {
	n, err := ParseSize(s)
	if err == nil && n <= 0 {
		err = errors.New("must be larger than 0")
	}
	if err != nil {
		return err
	}
	*v = sizeValue(n)
	return nil
}
func (v *sizeValue) String() string { return FormatSize(int64(*v)) }

func (v *boundValue) Set(s string) error {
	if s == "none" {
		*v = 0
		return nil
	}
	return (*sizeValue)(v).Set(s)
}
func (v *boundValue) String() string {
	if *v == 0 {
		return "none"
	}
	return FormatSize(int64(*v))
}

func (v *durationValue) Set(s string) error {
	d, err := ParseDuration(s)
	if err != nil {
		return err
	}
	*v = durationValue(d)
	return nil
}
func (v *durationValue) String() string { return time.Duration(*v).String() }

// An importTimeValue is long enough for an interpreter to start.
type importTimeValue struct{ *durationValue }

func (v *importTimeValue) Set(s string) error {
	d, err := ParseDuration(s)
	switch {
	case err != nil:
		return err
	case d < time.Second || d > 10*time.Minute:
		return errors.New("must be between 1s and 10m")
	}
	*v.durationValue = durationValue(d)
	return nil
}

// Set takes hosts with commas or spaces between them; none is an empty list.
func (v *hostsValue) Set(s string) error {
	hosts := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	if len(hosts) == 1 && hosts[0] == "none" {
		hosts = nil
	}
	for _, h := range hosts {
		if h != "*" && (len(h) > 255 || strings.ContainsAny(h, "/@*\\\x00") || strings.Contains(h, "//")) {
			return errors.New("must be registries, HOST or HOST:PORT, with commas between them; * or none")
		}
	}
	*v = hosts
	return nil
}
func (v *hostsValue) String() string {
	if len(*v) == 0 {
		return "none"
	}
	return strings.Join(*v, ",")
}

// Set takes the names of Python's logging, which has the option too.
func (v *levelValue) Set(s string) error {
	switch strings.ToLower(s) {
	case "debug":
		*v = levelValue(slog.LevelDebug)
	case "info":
		*v = levelValue(slog.LevelInfo)
	case "warning", "warn":
		*v = levelValue(slog.LevelWarn)
	case "error", "critical", "fatal":
		*v = levelValue(slog.LevelError)
	default:
		return errors.New("must be debug, info, warning or error")
	}
	return nil
}
func (v *levelValue) String() string {
	if slog.Level(*v) == slog.LevelWarn {
		return "warning"
	}
	return strings.ToLower(slog.Level(*v).String())
}

func (v *outputValue) Set(s string) error {
	switch s {
	case "text":
		*v = false
	case "json":
		*v = true
	default:
		return errors.New("must be text or json")
	}
	return nil
}
func (v *outputValue) String() string {
	if *v {
		return "json"
	}
	return "text"
}

func (v *countValue) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < v.min || n > v.max {
		return fmt.Errorf("must be a whole number from %d to %d", v.min, v.max)
	}
	*v.n = n
	return nil
}
func (v *countValue) String() string { return strconv.Itoa(*v.n) }

func (v *count64Value) Set(s string) error {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < v.min || n > v.max {
		return fmt.Errorf("must be a whole number from %d to %d", v.min, v.max)
	}
	*v.n = n
	return nil
}
func (v *count64Value) String() string { return strconv.FormatInt(*v.n, 10) }

// ParseSize reads a number of bytes with an optional K, M, G or T, which are
// powers of 1024 as docker and systemd have them; "iB" and "B" may follow.
func ParseSize(s string) (int64, error) {
	bad := errors.New("must be a size, such as 512M or 8GiB")
	t := strings.ToLower(strings.TrimSpace(s))
	if u := strings.TrimSuffix(t, "ib"); u != t {
		t = u
	} else {
		t = strings.TrimSuffix(t, "b")
	}
	shift := 0
	if t != "" {
		if i := strings.IndexByte("kmgt", t[len(t)-1]); i >= 0 {
			shift, t = 10*(i+1), strings.TrimSpace(t[:len(t)-1])
		}
	}
	f, err := strconv.ParseFloat(t, 64)
	if err != nil || math.IsNaN(f) || f < 0 {
		return 0, bad
	}
	f *= float64(int64(1) << shift)
	if f >= math.MaxInt64 {
		return 0, bad
	}
	return int64(f), nil
}

// FormatSize prints n with the largest unit that divides it.
func FormatSize(n int64) string {
	units := []string{"", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for n != 0 && n%1024 == 0 && i < len(units)-1 {
		n, i = n/1024, i+1
	}
	return strconv.FormatInt(n, 10) + units[i]
}

// ParseDuration reads what [time.ParseDuration] does, and whole days as "7d".
func ParseDuration(s string) (time.Duration, error) {
	bad := errors.New("must be a time, such as 90s, 12h or 7d")
	if s == "0" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || math.IsNaN(n) || n < 0 || n > 100*366 {
			return 0, bad
		}
		return time.Duration(n * float64(24*time.Hour)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, bad
	}
	return d, nil
}

// apiValue is where servers are reached: URL, or FROM=TO, separated by commas.
type apiValue string

func (v *apiValue) String() string { return string(*v) }

func (v *apiValue) Set(s string) error {
	all := 0
	for _, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		from, to, mapped := strings.Cut(part, "=")
		if !mapped {
			from, to = part, part
			all++
		}
		for _, address := range []string{from, to} {
			if !isAPI(address) {
				return errors.New("must be http://HOST/api/v1, or FROM=TO with such addresses, separated by commas")
			}
		}
	}
	if all > 1 {
		return errors.New("must name FROM=TO where there is more than one server")
	}
	*v = apiValue(s)
	return nil
}

func isAPI(address string) bool {
	u, err := url.Parse(address)
	return err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// girderValue is the root of the REST API of one server, without a slash at its end.
type girderValue string

func (v *girderValue) String() string { return string(*v) }

func (v *girderValue) Set(s string) error {
	if s != "" && !isAPI(s) {
		return errors.New("must be the root of a REST API, as in https://girder.example.org/api/v1")
	}
	*v = girderValue(strings.TrimRight(s, "/"))
	return nil
}

// brokerValue takes anything: what is wrong with it is told by who reads it,
// which knows where the password stands.
type brokerValue string

func (v *brokerValue) String() string { return string(*v) }

func (v *brokerValue) Set(s string) error {
	if *v = brokerValue(strings.TrimSpace(s)); *v == "off" {
		*v = ""
	}
	return nil
}

// textValue is one line of printable text.
type textValue string

func (v *textValue) String() string { return string(*v) }

func (v *textValue) Set(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) || len(s) > 1024 {
		return errors.New("must be one line of printable text")
	}
	*v = textValue(strings.TrimSpace(s))
	return nil
}

// keywordsValue is a JSON object, or nothing. Who uses the keywords checks them.
type keywordsValue string

func (v *keywordsValue) String() string { return string(*v) }

func (v *keywordsValue) Set(s string) error {
	if s = strings.TrimSpace(s); s == "" {
		*v = ""
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(s)); err != nil || s[0] != '{' || len(s) > 64<<10 {
		return errors.New(`must be a JSON object of docker-py's keywords, such as {"shm_size": "1g"}`)
	}
	*v = keywordsValue(compact.String())
	return nil
}
