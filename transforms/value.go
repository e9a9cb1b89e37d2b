package transforms

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ParseBytes reads a size: digits with an optional fraction and an optional
// unit b, k, m, g or t (also kb, KiB, …; all are powers of 1024, as docker's).
func ParseBytes(s string) (int64, error) {
	number := strings.TrimRight(s, "bBiIkKmMgGtT")
	shift, ok := 0, true
	switch unit := strings.ToLower(s[len(number):]); unit {
	case "", "b":
	case "k", "kb", "kib":
		shift = 10
	case "m", "mb", "mib":
		shift = 20
	case "g", "gb", "gib":
		shift = 30
	case "t", "tb", "tib":
		shift = 40
	default:
		ok = false
	}
	f, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || !plain(number) {
		return 0, fmt.Errorf("%q is not a size; write bytes, or a number with k, m, g or t, as in 2g", s)
	}
	if shift == 0 && f != math.Trunc(f) {
		return 0, fmt.Errorf("%q is not a whole number of bytes", s)
	}
	if f = math.Ldexp(f, shift); f >= 1<<62 {
		return 0, fmt.Errorf("%q is more bytes than any machine has", s)
	}
	return int64(f), nil
}

// plain refuses what strconv.ParseFloat takes beyond a decimal number:
// exponents, hexadecimal, underscores, infinities.
func plain(number string) bool {
	return number != "" && strings.Trim(number, "0123456789.") == ""
}

// FormatBytes is the short form of a size for a person, as in "2.0 GiB".
func FormatBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for math.Abs(f) >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	if i == 0 {
		return strconv.FormatInt(n, 10) + " B"
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[i]
}

// ParseDuration reads a duration as time.ParseDuration does, with d for days
// ("7d", "1d12h"), or a bare number of seconds.
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not a duration; write seconds, or a number with s, m, h or d, as in 90s or 1h30m", s)
	if plain(s) {
		s += "s"
	}
	var days time.Duration
	if d, rest, found := strings.Cut(s, "d"); found {
		n, err := strconv.ParseInt(d, 10, 32)
		if err != nil || n < 0 || n > 100_000 {
			return 0, bad
		}
		if days, s = time.Duration(n)*24*time.Hour, rest; s == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, bad
	}
	return days + d, nil
}
